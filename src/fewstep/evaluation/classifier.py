"""A small classifier trained on the user's own images, in about a minute: its last hidden layer are features to compare samples in."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.data import fingerprints
from fewstep.data.datasets import Data
from fewstep.errors import InputError
from fewstep.evaluation.extractors import checked, clipped
from fewstep.files import write_atomically
from fewstep.progress import LiveLine, clock

FEATURES = 64
BATCH = 64
EPOCHS = 12
MOST_UPDATES = 3000  # about a minute on one core at 32 x 32 pixels; half as many above 64, where they take 4 to 8 minutes
MOST_TESTED = 10_000
FORMAT = 1  # of the cached file; raised where the same data would give another classifier


@dataclass(frozen=True)
class Classifier:
    """A classifier of images (n, c, h, w) in [-1, 1], and its last hidden layer as features (n, 64)."""

    body: nn.Module
    head: nn.Linear
    test_accuracy: float  # on images that it was not trained on
    channels: int
    size: int
    name: str = "classifier"
    dimension: int = FEATURES

    @torch.no_grad()
    def features(self, images: Tensor, batch_size: int = 1024) -> Tensor:
        """float64 (n, 64); what is outside [-1, 1] is clipped first, as a saved image would be."""
        return torch.cat([self.body(part) for part in images.float().clamp(-1, 1).split(batch_size)]).double()

    def __call__(self, images: Tensor) -> Tensor:
        """float64 (n, 64), as `features`, on the CPU.

        Raises:
            InputError: non-finite images, or of other channels or another size than it was trained on.
        """
        wanted, got = (self.channels, self.size, self.size), tuple(images.shape[1:])
        if got != wanted:
            raise InputError(f"images have shape (n, {', '.join(map(str, got))}), but the classifier's data (n, {', '.join(map(str, wanted))}): open the data at the model's size and channels")  # fmt: skip
        if not len(images):
            return torch.zeros(0, FEATURES, dtype=torch.float64)
        return checked(self.features(clipped(images), 256), len(images), self.name)

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """float64 (n, classes) of features (n, 64)."""
        return self.head(features.float()).double()

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Share of features (n, 64) that are classified as labels (n,)."""
        return float((self.logits(features).argmax(1) == labels).double().mean())

    @property
    def accuracy_of(self) -> float:
        """Share of the held-out images that it classifies right."""
        return self.test_accuracy

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its weights."""
        return fingerprints.of_weights(weights_of(self))


def weights_of(classifier: Classifier) -> dict[str, Tensor]:
    """All tensors of both parts, by name."""
    return {f"{part}.{key}": value for part in ("body", "head") for key, value in getattr(classifier, part).state_dict().items()}


def train_classifier(images: Tensor, labels: Tensor, classes: int, seed: int = 0, epochs: int = EPOCHS) -> Classifier:
    """A classifier trained on four fifths of images (n, c, h, w) in [-1, 1], its accuracy measured on the last fifth.

    The same data and seed give the same weights on the same machine.
    """
    updates = epochs * -(-(len(images) * 4 // 5) // BATCH)
    return _train(lambda rows: images[rows], labels, classes, seed, updates)


def _train(
    take: Callable[[Tensor], Tensor],
    labels: Tensor,
    classes: int,
    seed: int,
    updates: int,
    flip: bool = False,
    quiet: bool = True,
) -> Classifier:
    """Train on images that `take` gives of rows (m,): float (m, c, h, w) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :][:MOST_TESTED]
    channels, size = take(order[:1]).shape[1:3]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body, head = network(channels, size), nn.Linear(FEATURES, classes)
    parameters = [*body.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=updates)
    line, began = LiveLine(quiet=quiet), time.monotonic()
    for done, (images, rows) in enumerate(_batches(take, train, updates, generator, flip), 1):
        loss = nn.functional.cross_entropy(head(body(images)), labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if done % 20 == 0 or done == updates:
            left = clock((time.monotonic() - began) * (updates - done) / done)
            line.show(f"classifier: update {done:,} of {updates:,}, {left} left", final=done == updates)
    for p in parameters:
        p.requires_grad_(False)
    whole = Classifier(body.eval(), head.eval(), 0.0, channels, size)
    right = sum(int((whole.logits(whole.features(take(rows))).argmax(1) == labels[rows]).sum()) for rows in test.split(1024))
    return Classifier(body, head, right / len(test), channels, size)


def _batches(
    take: Callable[[Tensor], Tensor], rows: Tensor, updates: int, generator: torch.Generator, flip: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """So many batches (images, rows), epoch by epoch, with a little noise, against learning by heart."""
    left = updates
    while left:
        for part in rows[torch.randperm(len(rows), generator=generator)].split(BATCH)[:left]:
            images = take(part)
            if flip:
                mirrored = torch.rand(len(part), generator=generator) < 0.5
                images[mirrored] = images[mirrored].flip(-1)
            yield images + torch.randn(images.shape, generator=generator) * 0.1, part
            left -= 1


def network(channels: int, size: int) -> nn.Sequential:
    """Images (n, channels, size, size) to features (n, 64)."""
    if size > 8:
        return deep_network(channels, size)
    small = -(-size // 2)
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * small * small, FEATURES), nn.ReLU(),
    )  # fmt: skip


def deep_network(channels: int, size: int) -> nn.Sequential:
    """Images (n, channels, size, size) to features (n, 64): in patches down to 64 pixels, then halved until 7 or fewer are left."""
    layers: list[nn.Module] = []

    def add(width: int, kernel: int, stride: int, padding: int) -> None:
        nonlocal channels
        layers.extend((nn.Conv2d(channels, width, kernel, stride, padding, bias=False), nn.BatchNorm2d(width), nn.ReLU()))
        channels = width

    if size > 64:  # whole pictures of 256 pixels would take an hour
        patch = 2 ** math.ceil(math.log2(size / 64))
        add(16, patch, patch, 0)
        size //= patch
    widths = [64, 32]  # of the last levels, the last first; the ones before have 16
    halvings = next(k for k in range(9) if -(-size // 2**k) <= 7)
    for left in reversed(range(halvings)):
        add(widths[left] if left < 2 else 16, 3, 2, 1)
        if left < 2:
            add(widths[left], 3, 1, 1)
    small = -(-size // 2**halvings)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * small * small, FEATURES), nn.ReLU())


def train_or_load_classifier(data: Any, cache_dir: str | Path, seed: int = 0, quiet: bool = False) -> Classifier:
    """The classifier of these data, from `cache_dir`, or trained now and put there as .safetensors and .json.

    Raises:
        InputError: the data are streamed, or too few; the cache cannot be written.
    """
    if not isinstance(data, Data):
        raise InputError("the classifier's data are streamed; set data.streaming = false, or name a features file")
    if len(data) < 10:
        raise InputError(f"{len(data)} images are too few to train a classifier on; give at least 10, or name a features file")
    epoch = -(-(len(data) * 4 // 5) // BATCH)
    updates = min(EPOCHS * epoch, MOST_UPDATES if data.size <= 64 else MOST_UPDATES // 2)
    about = {
        "format": FORMAT, "data": hash_of(data), "size": data.size, "channels": data.channels,
        "classes": list(data.classes), "flip": data.flip, "seed": seed, "updates": updates,
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(cache_dir) / f"classifier-{key}.safetensors"
    found = _load(path, about)
    if found is None:
        found = _train(partial(_images, data), data.labels, len(data.classes), seed, updates, data.flip, quiet)
        _save(found, path, about)
    return found


def _images(data: Data, rows: Tensor) -> Tensor:
    return data.images()[rows].float() / 127.5 - 1


def _save(classifier: Classifier, path: Path, about: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    text = json.dumps(about | {"held_out_accuracy": classifier.test_accuracy}, indent=1) + "\n"
    write_atomically(path, lambda aside: save_file(weights_of(classifier), aside))
    write_atomically(path.with_suffix(".json"), lambda aside: aside.write_text(text))


def _load(path: Path, about: dict[str, Any]) -> Classifier | None:
    """The cached classifier; None where there is none, or not a whole one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        known, weights = json.loads(path.with_suffix(".json").read_text()), load_file(path)
        accuracy = float(known.pop("held_out_accuracy"))
        if known != about:
            return None
        body, head = network(about["channels"], about["size"]), nn.Linear(FEATURES, len(about["classes"]))
        for name, part in (("body", body), ("head", head)):
            part.load_state_dict({key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(name)})
            part.eval().requires_grad_(False)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError):
        return None
    return Classifier(body, head, accuracy, about["channels"], about["size"])


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
