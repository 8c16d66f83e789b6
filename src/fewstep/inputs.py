"""Training inputs from where sampling goes: guided samples instead of data (the weakness that arXiv 2503.07274 names).

Noised data is what the paper trains on, but a sampler at a high guidance scale visits other places. A share of the examples may
therefore start from a pool of the teacher's own guided samples, each noised and trained at the weight that it was made with.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.guidance import EstimateX, draw_w
from fewstep.process import Process, match
from fewstep.samplers import deterministic

POOL = 1024  # samples
STEPS = 8  # at most, to make each


@dataclass(frozen=True)
class GuidedPool:
    """Clean samples x (n, ...), their labels (n,) and weights (n,)."""

    x: Tensor
    condition: Tensor
    w: Tensor

    def replace(self, index: Tensor, x: Tensor, condition: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x, condition, w) of a batch, those with an index (b,) of 0 or more taken from the pool."""
        taken, index = index >= 0, index.clamp(min=0)
        pooled = torch.where(match(taken, x), self.x[index], x)
        return pooled, torch.where(taken, self.condition[index], condition), torch.where(taken, self.w[index].to(w), w)


def draw_pooled(which: Tensor, place: Tensor, share: float) -> Tensor:
    """Index into the pool for a `share` of the examples, -1 for the others, int64 (b,), from two sets of uniform numbers."""
    return torch.where(which < share, (place * POOL).long().clamp(max=POOL - 1), -1)


@torch.no_grad()
def guided_pool(
    estimate: EstimateX,
    process: Process,
    shape: tuple[int, ...],
    classes: int,
    guidance_scale: tuple[float, float],
    steps: int,
    device: torch.device,
) -> GuidedPool:
    """A pool of samples of `shape` (c, h, w) by `estimate`, which is guided already; always the same for the same weights."""
    generator = torch.Generator().manual_seed(0)
    noise, condition = torch.randn(POOL, *shape, generator=generator), torch.randint(classes, (POOL,), generator=generator)
    w = draw_w(torch.rand(POOL, generator=generator, dtype=torch.float64), guidance_scale)
    parts = zip(*(values.to(device).split(256) for values in (noise, condition, w)), strict=True)
    x = torch.cat([deterministic(estimate, z, min(steps, STEPS), c, v, process).float() for z, c, v in parts])
    return GuidedPool(x, condition.to(device), w.to(device))
