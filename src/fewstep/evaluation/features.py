"""Features in which samples are compared with data: any network from pictures to vectors, and how it is called."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import InputError

BATCH = 32  # Inception at 299 x 299 pixels takes about 15 MB an image


@dataclass(frozen=True)
class Features:
    """Features (n, dimension) of images (n, c, h, w) in [-1, 1] by a network, and the layer that makes logits of them if there is one."""

    name: str
    dimension: int
    run: Callable[[Tensor], Tensor]  # of float32 images within [-1, 1], with `channels` channels and of `size`
    fingerprint: str  # a hash that changes with the features, for the names of cached files
    channels: int | None = None  # to which grey is repeated or colour averaged; None: those that come
    size: int | None = None  # pixels that images are resized to, bilinear and antialiased; None: any
    head: nn.Linear | None = None  # of features to logits
    batch: int = BATCH
    held_out_accuracy: float | None = None  # of a classifier: share of images that it was not trained on that it classifies right

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """float64 (n, d), on the CPU; what is outside [-1, 1] is clipped first, as a saved image would be.

        Raises:
            InputError: non-finite images or features, or another shape than the network takes or is to give.
        """
        parts = [torch.zeros(0, self.dimension, dtype=torch.float64)]
        for part in clipped(images).split(self.batch):
            part = with_channels(part, self.channels)
            if self.size is not None and part.shape[-2:] != (self.size, self.size):
                part = nn.functional.interpolate(part, (self.size, self.size), mode="bilinear", antialias=True)
            parts += [checked(self.run(part), len(part), self.name)] if len(part) else []
            if parts[-1].shape[1] != self.dimension:
                raise InputError(
                    f"{self.name} gives {parts[-1].shape[1]} features here but gave {self.dimension} before: use one size"
                )
        return torch.cat(parts)

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor | None:
        """float64 (n, k) of features (n, d); None where the network has no such layer."""
        return None if self.head is None else self.head(features.to(self.head.weight)).double().cpu()

    def class_accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Share of features (n, d) that are classified as labels (n,); NaN where there are no logits."""
        logits = self.logits(features)
        return float("nan") if logits is None else float((logits.argmax(1) == labels).double().mean())


def clipped(images: Tensor) -> Tensor:
    """float32 images (n, c, h, w) within [-1, 1].

    Raises:
        InputError: some are not finite, or the shape is another.
    """
    if images.ndim != 4:
        raise InputError(f"images have shape {tuple(images.shape)}; (n, c, h, w) is needed")
    if bad := int((~images.isfinite()).flatten(1).any(1).sum()):
        raise InputError(f"{bad} of {len(images)} images have values that are not finite: the model that drew them is broken")
    return images.float().clamp(-1, 1)


def checked(features: Any, count: int, name: str) -> Tensor:
    """The features as float64 (count, d), on the CPU.

    Raises:
        InputError: they are of another shape, or not finite.
    """
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != count or not features.shape[1]:
        got = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise InputError(f"{name} gives {got} for {count} images; features of shape ({count}, d) are needed: flatten its output")
    if bad := int((~features.isfinite()).any(1).sum()):
        raise InputError(f"{name} gives features that are not finite for {bad} of {count} images: use another features file")
    return features.double().cpu()


def with_channels(images: Tensor, channels: int | None) -> Tensor:
    """Images (n, c, h, w) with so many channels: grey repeated, or colour averaged."""
    if channels is None or images.shape[1] == channels:
        return images
    return images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
