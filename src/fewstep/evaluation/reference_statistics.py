"""What samples are compared with: statistics of the data's features, sharpness and colour, computed once and kept in a file."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.data.datasets import Data
from fewstep.errors import InputError
from fewstep.evaluation.classifier import hash_of
from fewstep.evaluation.features import Features
from fewstep.evaluation.metrics import Moments, Reservoir, Statistics, saturation, sharpness
from fewstep.files import write_atomically
from fewstep.progress import LiveLine, clock

FORMAT = 1
LIMIT = 10_000  # feature rows kept for the measures that need single rows


@dataclass(frozen=True)
class Reference:
    """The data, as the measures see them."""

    statistics: Statistics
    features: Tensor  # float64 (m, d), a uniform sample of at most `limit` rows
    labels: Tensor  # int64 (m,), theirs
    sharpness: float  # mean over all images
    saturation: float
    count: int  # of images
    accuracy: float | None  # share that the features' own logits classify right; None where they have none of these classes

    def state(self) -> dict[str, Tensor]:
        """For a file."""
        numbers = [self.sharpness, self.saturation, self.count, -1 if self.accuracy is None else self.accuracy]
        return {
            "mean": self.statistics.mean, "covariance": self.statistics.covariance, "features": self.features.float(),
            "labels": self.labels, "numbers": torch.tensor(numbers, dtype=torch.float64),
        }  # fmt: skip

    @classmethod
    def of_state(cls, state: dict[str, Tensor]) -> "Reference":
        """From what `state` gave."""
        sharp, saturated, count, accuracy = state["numbers"].tolist()
        return cls(
            Statistics(state["mean"], state["covariance"]), state["features"].double(), state["labels"],
            sharp, saturated, int(count), None if accuracy < 0 else accuracy,
        )  # fmt: skip


def reference(
    features: Features, data: Any, cache_dir: str | Path, limit: int = LIMIT, batch_size: int = 256, quiet: bool = False
) -> Reference:
    """The reference of the data in these features, from `cache_dir`, or computed now, a batch at a time, and put there.

    Streamed data are read for one epoch, and their reference is not kept, since their content has no hash.

    Raises:
        InputError: fewer than two images, images that do not fit the features, or a cache that cannot be written.
    """
    path = None if not isinstance(data, Data) else reference_file(features, data, Path(cache_dir), limit)
    found = None if path is None else _load(path)
    if found is None:
        found = _compute(features, data, limit, batch_size, quiet)
        if path is not None:
            from safetensors.torch import save_file

            state = {key: value.contiguous() for key, value in found.state().items()}
            write_atomically(path, lambda aside: save_file(state, aside))
            found = Reference.of_state(state)  # rounded as it will be when loaded
    return found


def reference_file(features: Features, data: Data, cache_dir: Path, limit: int = LIMIT) -> Path:
    """Where the reference is kept: the name holds a hash of the data, their size and the features."""
    about = [FORMAT, hash_of(data), data.size, data.channels, features.name, features.fingerprint, limit]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    return cache_dir / f"reference-{data.size}-{key}.safetensors"


def _compute(features: Features, data: Any, limit: int, batch_size: int, quiet: bool) -> Reference:
    moments, kept = Moments.empty(features.dimension), Reservoir.empty(features.dimension, limit)
    sharp = saturated = 0.0
    right: int | None = 0
    total = length(data)
    line, began = LiveLine(quiet=quiet), time.monotonic()
    for images, labels in batches(data, total, batch_size):
        rows = features(images)
        moments.add(rows)
        kept.add(rows, labels)
        sharp, saturated = sharp + float(sharpness(images).sum()), saturated + float(saturation(images).sum())
        logits = features.logits(rows)
        if logits is None or logits.shape[1] != len(data.classes) or right is None:
            right = None
        else:
            right += int((logits.argmax(1) == labels).sum())
        left = clock((time.monotonic() - began) * (total - moments.count) / moments.count)
        line.show(f"features of the data: {moments.count:,} of {total:,}, {left} left", final=moments.count == total)
    count = moments.count
    return Reference(
        moments.statistics(), kept.features, kept.labels, sharp / count, saturated / count, count,
        None if right is None else right / count,
    )  # fmt: skip


def length(data: Any) -> int:
    """The number of images of data in memory, or in an epoch of streamed ones.

    Raises:
        InputError: the stream does not say how long it is, or there are fewer than two.
    """
    count = len(data) if isinstance(data, Data) else data.description.get("images")
    if count is None:
        raise InputError("these streamed data do not say how many images they have; set data.streaming = false")
    if count < 2:
        raise InputError(f"{count} images have no covariance; at least 2 are needed: give more data")
    return count


def batches(data: Any, total: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Each image once: float32 (n, c, h, w) in [-1, 1] with labels (n,), not mirrored where the data are in memory."""
    for start in range(0, total, batch_size):
        stop = min(start + batch_size, total)
        if isinstance(data, Data):
            yield data.images()[start:stop].float() / 127.5 - 1, data.labels[start:stop]
        else:
            yield data.batch(start, stop - start)


def _load(path: Path) -> Reference | None:
    """The cached reference; None where there is none, or not a whole one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return Reference.of_state(load_file(path))
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
