"""A small classifier trained on the user's own images, in about a minute: its last hidden layer are features to compare samples in."""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.data import fingerprints
from fewstep.data.datasets import Data
from fewstep.errors import InputError
from fewstep.evaluation.features import Features
from fewstep.hashed import read_tensors, write_tensors
from fewstep.progress import LiveLine, clock

FEATURES = 64
BATCH = 64
EPOCHS = 12
MOST_UPDATES = 3000  # about a minute on one core at 32 x 32 pixels; half as many above 64, where they take 4 to 8 minutes
MOST_TESTED = 10_000
FORMAT = 1  # of the cached file; raised where the same data would give another classifier


def train_or_load_classifier(data: Any, cache: str | Path, seed: int = 0, quiet: bool = False) -> Features:
    """The classifier of these data as features (n, 64), from `cache`, or trained now and put there.

    Raises:
        InputError: the data are streamed, or too few; the cache cannot be written.
    """
    if not isinstance(data, Data):
        raise InputError("the classifier's data are streamed; set data.streaming = false, or name a features file")
    if len(data) < 10:
        raise InputError(f"{len(data)} images are too few to train a classifier on; give at least 10, or name a features file")
    epoch = -(-(len(data) * 4 // 5) // BATCH)
    updates = min(EPOCHS * epoch, MOST_UPDATES if data.size <= 64 else MOST_UPDATES // 2)
    known = {
        "format": FORMAT, "data": hash_of(data), "size": data.size, "channels": data.channels,
        "classes": list(data.classes), "flip": data.flip, "seed": seed, "updates": updates,
    }  # fmt: skip
    about = json.dumps(known, sort_keys=True)
    path = Path(cache) / f"classifier-{hashlib.sha256(about.encode()).hexdigest()[:16]}.safetensors"
    model = new_network(data, seed)
    try:
        weights, values = read_tensors(path, "it is trained again")
        accuracy = float(values["held_out_accuracy"])
        model.load_state_dict(weights)
    except (InputError, RuntimeError, KeyError):  # not there, or not whole
        model = new_network(data, seed)
        accuracy = train(model, data, seed, updates, quiet)
        write_tensors(path, model.state_dict(), {"about": about, "held_out_accuracy": accuracy})
    return as_features(model.eval().requires_grad_(False), data, accuracy)


def as_features(model: Any, data: Data, accuracy: float) -> Features:
    """A trained classifier's last hidden layer as features of images as large as the data's."""

    def run(images: Tensor) -> Tensor:
        got, needed = ("x".join(map(str, sizes)) for sizes in (images.shape[1:], (data.channels, data.size, data.size)))
        if got != needed:
            raise InputError(
                f"images are {got}, but the classifier's data {needed}: open the data at the model's size and channels"
            )
        return model["body"](images)

    fingerprint = fingerprints.of_weights(model.state_dict())
    return Features("classifier", FEATURES, run, fingerprint, head=model["head"], batch=256, held_out_accuracy=accuracy)


def new_network(data: Data, seed: int) -> nn.ModuleDict:
    """An untrained classifier: `body` to features (n, 64), `head` to logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.ModuleDict({"body": network(data.channels, data.size), "head": nn.Linear(FEATURES, len(data.classes))})


def train(model: nn.ModuleDict, data: Data, seed: int, updates: int, quiet: bool = True) -> float:
    """Train on four fifths of the data, in place; the accuracy on the last fifth.

    The same data and seed give the same weights on the same machine with the same number of threads.
    """
    generator, most = torch.Generator().manual_seed(seed), len(data) * 4 // 5
    order = torch.randperm(len(data), generator=generator)
    rows, held_out = order[:most], order[most:][:MOST_TESTED]
    body, head, labels = model["body"], model["head"], data.labels
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=updates)
    line, began = LiveLine(quiet=quiet), time.monotonic()
    for done, (images, part) in enumerate(noisy_batches(data, rows, updates, generator), 1):
        loss = nn.functional.cross_entropy(head(body(images)), labels[part], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if done % 20 == 0 or done == updates:
            left = clock((time.monotonic() - began) * (updates - done) / done)
            line.show(f"classifier: update {done:,} of {updates:,}, {left} left", final=done == updates)
    model.eval()
    with torch.no_grad():
        right = sum(int((head(body(pictures(data, r))).argmax(1) == labels[r]).sum()) for r in held_out.split(1024))
    return right / len(held_out)


def pictures(data: Data, rows: Tensor) -> Tensor:
    """Images float32 (m, c, h, w) in [-1, 1] of rows (m,)."""
    return data.images()[rows].float() / 127.5 - 1


def noisy_batches(data: Data, rows: Tensor, updates: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """So many batches (images, rows), epoch by epoch, mirrored where the data are, with a little noise against overfitting."""
    left = updates
    while left:
        for part in rows[torch.randperm(len(rows), generator=generator)].split(BATCH)[:left]:
            images = pictures(data, part)
            if data.flip:
                mirrored = torch.rand(len(part), generator=generator) < 0.5
                images[mirrored] = images[mirrored].flip(-1)
            yield images + torch.randn(images.shape, generator=generator) * 0.1, part
            left -= 1


def network(channels: int, size: int) -> nn.Sequential:
    """Images (n, channels, size, size) to features (n, 64): in patches down to 64 pixels, then halved until 7 or fewer are left."""
    if size <= 8:
        small = -(-size // 2)
        return nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(64 * small * small, FEATURES), nn.ReLU(),
        )  # fmt: skip
    convolutions: list[tuple[int, int, int, int]] = []  # width, kernel, stride, padding
    if size > 64:  # whole pictures of 256 pixels would take an hour
        patch = 2 ** math.ceil(math.log2(size / 64))
        convolutions.append((16, patch, patch, 0))
        size //= patch
    halvings = next(k for k in range(9) if -(-size // 2**k) <= 7)
    small = -(-size // 2**halvings)
    convolutions += [(16, 3, 2, 1)] * (halvings - 2)
    for width in (32, 64)[-halvings:]:
        convolutions += [(width, 3, 2, 1), (width, 3, 1, 1)]
    layers: list[nn.Module] = []
    for width, *shape in convolutions:
        layers += [nn.Conv2d(channels, width, *shape, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * small * small, FEATURES), nn.ReLU())


def hash_of(data: Any) -> str:
    """SHA-256 of the data's pixels and labels: the one that they were opened with, or made now."""
    return data.description.get("sha256") or fingerprints.of_pictures(data.pixels, data.labels, data.classes)


def cache_folder(data: Any) -> Path:
    """Where what is computed of the data is kept: `.fewstep` in their folder where it can be written, else the user's own cache."""
    place = Path(str(data.description.get("path", ""))).expanduser().absolute()
    folder = place if place.is_dir() else place.parent
    if data.description.get("path") and place.exists() and os.access(folder, os.W_OK):
        return folder / ".fewstep"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fewstep"
