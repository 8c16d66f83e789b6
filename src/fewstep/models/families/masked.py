"""What families of inpainting networks share: beside z the network sees a mask, and what the picture shows outside it."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fewstep.method.conditioning import Condition
from fewstep.models.families import AnySize, Family
from fewstep.models.families.prompts import random_text
from fewstep.models.metadata import Info


class Masked(Family):
    """A condition is a tree that has "mask" (b, 1, h, w), 1 where to paint, and "masked" (b, c, h, w), what is to stay, else zeros."""

    takes_mask = True
    oblong = False

    def any_size(self) -> AnySize | None:
        """None: its own alone, at which the mask is."""
        return None

    def with_mask(self, condition: Condition, x: Tensor, masks: Tensor) -> Condition:
        """The whole condition (n, ...) of labels or encoded prompts, pictures x (n, c, h, w) in [-1, 1], and masks (n, 1, h, w), 1 to paint.

        What is to stay is encoded as the stock pipelines do it: the picture with grey in the mask, which zeros are.
        """
        painted = masks.to(x) > 0.5
        masked = self.to_latents(x * ~painted)
        small = interpolate(painted.to(x), size=masked.shape[-2:])
        return {**(condition if isinstance(condition, dict) else {"labels": condition}), "mask": small, "masked": masked}


def half_masked(info: Info, n: int) -> dict[str, Tensor]:
    """That part of an example's condition: the left half to be painted, random values to stay in the right one."""
    mask = torch.zeros(n, 1, info.size, info.size, device="cpu")
    mask[..., : info.size // 2] = 1
    return {"mask": mask, "masked": random_text(n, info.channels, info.size, info.size, seed=1) * (1 - mask)}
