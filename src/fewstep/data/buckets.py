"""Aspect-ratio buckets: a list of sizes, of which each picture goes to the one with the proportions nearest to its own."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from fewstep.data.decoding import Example, Pixels, as_array, as_mode, central_box, fitted, tried, upright

ENLARGED = 1.001  # how much larger a picture is made before it is said


@dataclass(frozen=True)
class Fit:
    """How many pictures went to a bucket, and what of them was cropped away or enlarged."""

    count: int = 0
    cropped: float = 0.0  # the sum of the shares of the pictures that lie outside
    most_cropped: float = 0.0  # the largest of them
    most_cropped_name: str = ""
    enlarged: int = 0  # pictures that were smaller than the bucket
    most_enlarged: float = 1.0  # the largest factor along a side

    def __add__(self, other: "Fit") -> "Fit":
        """Of both."""
        worst = max(self, other, key=lambda fit: fit.most_cropped)
        return Fit(
            self.count + other.count, self.cropped + other.cropped, worst.most_cropped, worst.most_cropped_name,
            self.enlarged + other.enlarged, max(self.most_enlarged, other.most_enlarged),
        )  # fmt: skip


@dataclass(frozen=True)
class Placed:
    """A picture in its bucket: uint8 (c, height, width), cut out of the `original` (height, width) when that was resized to cover it."""

    pixels: np.ndarray
    bucket: int
    original: tuple[int, int]
    top_left: tuple[int, int]  # of the part that is left, in pixels of the resized picture
    fit: Fit


@dataclass(frozen=True)
class Buckets:
    """Sizes (height, width) in pixels, no two of the same proportions."""

    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, pairs: Iterable[Sequence[int]]) -> "Buckets":
        """Those of `pairs`, (width, height) each, as recipes and caches have them."""
        return cls(tuple((height, width) for width, height in pairs))

    @property
    def pairs(self) -> list[list[int]]:
        """[width, height] of each."""
        return [[width, height] for height, width in self.sizes]

    @property
    def names(self) -> tuple[str, ...]:
        """ "1216x832": width and height."""
        return tuple(f"{width}x{height}" for height, width in self.sizes)

    @property
    def largest(self) -> tuple[int, int]:
        """The size with the most pixels."""
        return max(self.sizes, key=math.prod)

    @cached_property
    def _proportions(self) -> np.ndarray:
        return np.log([width / height for height, width in self.sizes])

    def nearest(self, height: int, width: int) -> int:
        """The bucket whose logarithm of width / height is nearest to that of a picture."""
        return int(np.abs(self._proportions - math.log(width / height)).argmin())

    def place(self, pixels: Pixels, channels: int | None, name: str = "") -> Placed:
        """The picture, upright, in its bucket: resized to cover it, its central part cut out. Any exception means that it cannot be read."""
        image = as_mode(upright(pixels), channels)
        bucket = self.nearest(image.height, image.width)
        height, width = self.sizes[bucket]
        left, top, right, bottom = central_box(image, height, width)
        by = width / (right - left), height / (bottom - top)
        cropped = 1 - (right - left) * (bottom - top) / (image.width * image.height)
        fit = Fit(1, cropped, cropped, name, int(max(by) > ENLARGED), max(1.0, *by))
        corner = round(top * by[1]), round(left * by[0])
        return Placed(as_array(fitted(image, (height, width))), bucket, (image.height, image.width), corner, fit)


def placed_in(example: Example, buckets: Buckets, channels: int | None) -> Placed | str:
    """The picture in its bucket, or in one line why it cannot be read."""
    return tried(example, partial(buckets.place, channels=channels, name=example.title))


def usual_buckets(height: int, width: int, step: int, ratio: float) -> Buckets:
    """The size itself and, as kohya's scripts make them, those of sides that are multiples of `step` and of no larger area.

    Of each width the tallest, and the same on its side; none of proportions beyond `ratio` to 1. From the tallest to the widest.
    """
    area, found = height * width, {(height, width)}
    for side in range(step, int(math.sqrt(area * ratio)) + step, step):
        other = area // side // step * step
        if other and max(side, other) <= ratio * min(side, other):
            found |= {(side, other), (other, side)}
    distinct: dict[float, tuple[int, int]] = {}
    for size in sorted(found, key=lambda size: (size != (height, width), -math.prod(size))):
        distinct.setdefault(size[1] / size[0], size)
    return Buckets(tuple(distinct[ratio] for ratio in sorted(distinct)))


def described(names: Sequence[str], fits: Sequence[Fit]) -> str:
    """ "812 1024x1024, 301 1216x832; 4.1 % of their area is cropped away (61 % of x.png), 12 are enlarged (up to 2.3 times)"."""
    total = sum(fits, Fit())
    if not total.count:
        return "no picture"
    text = ", ".join(f"{fit.count:,} {name}" for name, fit in zip(names, fits, strict=True) if fit.count)
    text += f"; {total.cropped / total.count:.1%} of their area is cropped away"
    if total.most_cropped > 0:
        text += f" ({total.most_cropped:.0%} of {total.most_cropped_name or 'one'})"
    if total.enlarged:
        text += f", {total.enlarged:,} {'is' if total.enlarged == 1 else 'are'} enlarged (up to {total.most_enlarged:.2g} times)"
    return text
