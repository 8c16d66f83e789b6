"""Pictures in memory in buckets, encoded as they are asked for: what is trained on where they are not cached."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.data.batch_order import BatchOrder, InBuckets
from fewstep.data.buckets import Buckets, Fit, Placed, placed_in
from fewstep.data.datasets import Data, rows_at, span
from fewstep.data.decoding import Example, check_memory, check_readable, read_in_parallel
from fewstep.data.encoding import label_conditions, latents, placements
from fewstep.data.sources import Source
from fewstep.method.conditioning import Condition
from fewstep.models.model import Model

NOTHING = np.zeros((0, 0, 0), np.uint8)


@dataclass(frozen=True, eq=False)
class BucketedPictures:
    """The pictures of each bucket with their labels, and how each was put into it; each part has the classes and the description of all."""

    buckets: Buckets
    parts: tuple[Data, ...]  # of no picture where a bucket has none
    placed: tuple[tuple[Placed, ...], ...]  # without their pixels

    def __len__(self) -> int:
        """The number of pictures, of all buckets."""
        return sum(map(len, self.parts))

    @property
    def fits(self) -> tuple[Fit, ...]:
        """How the pictures of each bucket were made to fit."""
        return tuple(sum((one.fit for one in placed), Fit()) for placed in self.placed)


def gather_in_buckets(
    examples: Iterable[Example], buckets: Buckets, channels: int, limit: int
) -> tuple[list[np.ndarray], list[list[Placed]], list[list[Any]], list[str], int]:
    """Of each bucket the pictures uint8 (n, c, height, width), how they were placed, and their labels; "name: reason" of those that cannot be read; how many had several captions.

    Raises:
        InputError: none can be read, or they need more than `limit` bytes.
    """
    buffers: list[bytearray] = [bytearray() for _ in buckets.sizes]
    placed: list[list[Placed]] = [[] for _ in buckets.sizes]
    labels: list[list[Any]] = [[] for _ in buckets.sizes]
    skipped, several = [], 0

    for example, one in read_in_parallel(examples, partial(placed_in, buckets=buckets, channels=channels)):
        if isinstance(one, str):
            skipped.append(f"{example.title}: {one}")
            continue
        check_memory(sum(map(len, buffers)) + one.pixels.nbytes, limit)
        buffers[one.bucket] += one.pixels.tobytes()
        placed[one.bucket].append(replace(one, pixels=NOTHING))
        labels[one.bucket].append(example.label)
        several += example.others > 0
    check_readable([label for part in labels for label in part], skipped)
    shapes = [(-1, channels, *size) for size in buckets.sizes]
    pixels = [np.frombuffer(buffer, np.uint8).reshape(shape) for buffer, shape in zip(buffers, shapes, strict=True)]
    return pixels, placed, labels, skipped, several


def fits_of(source: Source, buckets: Buckets) -> list[Fit]:
    """How the pictures of a source, those that can be read, would be made to fit each bucket; each is decoded, and none is kept."""
    fits = [Fit()] * len(buckets.sizes)
    for _, one in read_in_parallel(source.examples(None, 0), partial(placed_in, buckets=buckets, channels=None)):
        if not isinstance(one, str):
            fits[one.bucket] += one.fit
    return fits


class EncodedBuckets(InBuckets):
    """The latents of a model's VAE for pictures in buckets, and their captions or the names of their classes as its prompts."""

    def __init__(self, data: BucketedPictures, model: Model, batch: int, seed: int) -> None:
        """Encode the prompts of all classes or captions now, where they are few; raises InputError as `conditions` does."""
        first = data.parts[0]
        self.data, self.model, self.encode_batch, self.seed, self.buckets = data, model, batch, seed, data.buckets
        self.classes, self.description, self.fits = first.classes, first.description, data.fits
        self.conditions = label_conditions(model, first.classes, batch)
        self._sizes = [placements(placed, data.buckets) if placed else () for placed in data.placed]
        self.order = BatchOrder([len(part) for part in data.parts], seed)

    def first_conditions(self, count: int) -> tuple[list[str], Condition]:
        """(names, conditions (n, ...)) of the first pictures, at most `count` of them, each another class or caption."""
        found = dict.fromkeys(label for part in self.data.parts for label in part.labels[: 4 * count].tolist())
        labels = torch.tensor(list(found)[:count])
        return [self.classes[k] for k in labels.tolist()], self.conditions(labels)

    def batch(self, start: int, count: int) -> tuple[Tensor, Condition]:
        """Latents (count, c, h, w) and conditions (count, ...) from position `start` on; raises InputError where they are of two updates."""
        span(start, count)  # which checks them
        bucket, first = self.order.at(start, count)
        part, sizes = self.data.parts[bucket], self._sizes[bucket]
        x, labels = part.batch(first, count)
        rows = torch.from_numpy(rows_at(span(first, count), len(part), part.seed))
        condition = self.model.family.with_sizes(self.conditions(labels), *(numbers[rows] for numbers in sizes))
        return latents(self.model, x, self.encode_batch), condition
