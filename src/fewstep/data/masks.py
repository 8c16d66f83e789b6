"""Training data of networks that fill in pictures: every example with a mask of its own, and with what that leaves of it."""

import math
from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.data.encoding import HELD, label_conditions, latents
from fewstep.method.conditioning import Condition, join, take, to
from fewstep.models.families import Family
from fewstep.models.model import Model

SHARES = {"box": 0.3, "stroke": 0.3, "half": 0.25, "all": 0.15}  # all: so that the network can draw without a picture, too


def random_masks(count: int, size: int, seed: int = 0, start: int = 0, shares: Mapping[str, float] = SHARES) -> Tensor:
    """What is to be filled in of `count` examples from a position on, bool (count, 1, size, size), never empty.

    Each mask is a function of the seed and its position alone; `shares` of the kinds sum to 1.
    """
    y, x = (np.mgrid[:size, :size] + 0.5) / size  # centres of the pixels, 0 to 1

    def mask(position: int) -> np.ndarray:
        rng = np.random.default_rng((seed, position))
        return SHAPES[rng.choice(list(shares), p=list(shares.values()))](y, x, rng)

    return torch.from_numpy(np.stack([mask(start + i) for i in range(count)]))[:, None]


def box(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A rectangle inside the picture, its sides a quarter to three quarters of the picture's."""
    sides = rng.uniform(0.25, 0.75, 2)
    top, left = rng.uniform(0, 1 - sides)
    inside = (y >= top) & (y < top + sides[0]) & (x >= left) & (x < left + sides[1])
    return with_nearest(inside, y, x, top + sides[0] / 2, left + sides[1] / 2)


def stroke(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A brush's way between 2 to 4 points, an eighth to a quarter of the picture thick."""
    points, radius = rng.uniform(0, 1, (rng.integers(2, 5), 2)), rng.uniform(1 / 16, 1 / 8)
    near = np.full(y.shape, np.inf)
    for (y0, x0), (dy, dx) in zip(points[:-1], np.diff(points, axis=0), strict=True):
        along = np.clip(((y - y0) * dy + (x - x0) * dx) / max(dy**2 + dx**2, 1e-12), 0, 1)
        near = np.minimum(near, np.hypot(y - y0 - along * dy, x - x0 - along * dx))
    return with_nearest(near <= radius, y, x, *points[0])


def half(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What lies on one side of a line near the middle."""
    angle, (top, left) = rng.uniform(0, 2 * math.pi), rng.uniform(0.3, 0.7, 2)
    return with_nearest((y - top) * math.sin(angle) + (x - left) * math.cos(angle) >= 0, y, x, top, left)


def with_nearest(mask: np.ndarray, y: np.ndarray, x: np.ndarray, top: float, left: float) -> np.ndarray:
    """The mask, now with the pixel nearest to a place in it, so that on a coarse grid something is left of it."""
    mask.flat[np.argmin(np.hypot(y - top, x - left))] = True
    return mask


SHAPES = {"box": box, "stroke": stroke, "half": half, "all": lambda y, x, rng: np.ones(y.shape, dtype=bool)}


class MaskedData:
    """Pictures with classes or captions as what a network that fills in takes; in every epoch each has another mask.

    What a mask leaves of a picture is encoded as it is asked for, and so are the latents.
    """

    def __init__(self, data: Any, family: Family, seed: int, model: Model | None = None, batch: int = HELD) -> None:
        """`data` are pictures; without `model` the network takes them and their labels as they are."""
        self.data, self.family, self.seed, self.model, self.encode_batch = data, family, seed, model, batch
        self.classes, self.description = data.classes, data.description
        self.size, self.channels = data.size, data.channels
        self.conditions = label_conditions(model, data.classes, batch) if model else None

    def first_conditions(self, count: int) -> tuple[list[str], Condition]:
        """(names of their classes or captions, whole conditions (count, ...)) of the first examples, each with its picture and mask."""
        return [self.classes[k] for k in self.data.batch(0, count)[1].tolist()], self.batch(0, count)[1]

    def batch(self, start: int, count: int) -> tuple[Tensor, Condition]:
        """What the network denoises (count, c, h, w) and whole conditions (count, ...) from position `start` on."""
        x, labels = self.data.batch(start, count)
        masks = random_masks(count, x.shape[-1], self.seed, start)
        if self.model is None or self.conditions is None:
            return x, self.family.with_mask(labels, x, masks)
        condition, device, whole = self.conditions(labels), self.model.denoiser.device, []
        for part in torch.arange(count).split(self.encode_batch):
            given = to(take(condition, part), device)
            whole.append(to(self.family.with_mask(given, x[part].to(device), masks[part].to(device)), "cpu"))
        return latents(self.model, x, self.encode_batch), reduce(join, whole)
