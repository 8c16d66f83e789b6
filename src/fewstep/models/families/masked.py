"""What families of inpainting networks share: beside z the network sees a mask, and what the picture shows outside it."""

import torch
from torch import Tensor

from fewstep.method.conditioning import Condition
from fewstep.models.families.stock import Stock
from fewstep.models.metadata import Info


class Masked(Stock):
    """A condition is a tree that has "mask" (b, 1, h, w), 1 where to paint, and "masked" (b, c, h, w), what is to stay, else zeros."""

    takes_mask = True

    def with_mask(self, told: Condition, x: Tensor, masks: Tensor) -> Condition:
        """The whole condition (n, ...) of what is told, pictures x (n, c, h, w) in [-1, 1], and masks (n, 1, h, w), 1 where to paint.

        What is to stay is encoded as the stock pipelines do it: the picture with grey in the mask, which zeros are.
        """
        painted = masks.to(x) > 0.5
        masked = self.to_latents(x * ~painted)
        small = torch.nn.functional.interpolate(painted.to(x), size=masked.shape[-2:])
        return {**(told if isinstance(told, dict) else {"labels": told}), "mask": small, "masked": masked}

    def halves(self, info: Info, n: int) -> dict[str, Tensor]:
        """That part of an example's condition: the left half to be painted, random values to stay in the right one."""
        generator = torch.Generator(device="cpu").manual_seed(1)
        mask = torch.zeros(n, 1, info.size, info.size, device="cpu")
        mask[..., : info.size // 2] = 1
        kept = torch.randn(n, info.channels, info.size, info.size, generator=generator, device="cpu") * (1 - mask)
        return {"mask": mask, "masked": kept}
