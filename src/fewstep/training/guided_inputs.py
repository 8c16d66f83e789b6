"""Training inputs from where sampling goes: guided samples instead of data (the weakness that arXiv 2503.07274 names).

Noised data is what the paper trains on, but a sampler at a high guidance scale visits other places. A share of the examples may
therefore start from a pool of the teacher's own guided samples, each noised and trained at the weight that it was made with.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.method.conditioning import Condition, choose, leaf, split, take, to
from fewstep.method.guidance import DenoiserFn, draw_w
from fewstep.method.process import Process, expand_to, to_float64
from fewstep.method.samplers import deterministic

POOL = 1024  # samples
STEPS = 8  # at most, to make each


@dataclass(frozen=True)
class GuidedPool:
    """Clean samples x (n, ...), their conditions (n, ...) and weights (n,)."""

    x: Tensor
    condition: Condition
    w: Tensor

    def replace(self, index: Tensor, x: Tensor, condition: Condition, w: Tensor) -> tuple[Tensor, Condition, Tensor]:
        """(x, condition, w) of a batch, those with an index (b,) of 0 or more taken from the pool."""
        taken, index = index >= 0, index.clamp(min=0)
        pooled = torch.where(expand_to(taken, x), self.x[index], x)
        return pooled, choose(taken, take(self.condition, index), condition), torch.where(taken, self.w[index].to(w), w)


def draw_pooled(which: Tensor, place: Tensor, share: float) -> Tensor:
    """Index into the pool for a `share` of the examples, -1 for the others, int64 (b,), from two sets of uniform numbers."""
    return torch.where(which < share, (place * POOL).long().clamp(max=POOL - 1), -1)


@torch.no_grad()
def guided_pool(
    estimate: DenoiserFn,
    process: Process,
    shape: tuple[int, ...],
    conditions: int | Condition,
    guidance_scale: tuple[float, float],
    steps: int,
    device: torch.device,
) -> GuidedPool:
    """A pool of samples of `shape` (c, h, w) by `estimate`, which is guided already; always the same for the same weights.

    `conditions` are those to sample for, or the number of classes, of which labels are drawn.
    """
    generator = torch.Generator().manual_seed(0)
    n = POOL if isinstance(conditions, int) else len(leaf(conditions))
    noise = torch.randn(n, *shape, generator=generator)
    condition = torch.randint(conditions, (n,), generator=generator) if isinstance(conditions, int) else conditions
    w = to_float64(draw_w(torch.rand(n, generator=generator, dtype=torch.float64), guidance_scale), device)
    count = max(d for d in range(1, STEPS + 1) if steps % d == 0)  # times that a student of `steps` steps knows
    parts = zip(noise.split(256), split(condition, 256), w.split(256), strict=True)
    done = [deterministic(estimate, z.to(device), count, to(c, device), v, process) for z, c, v in parts]
    return GuidedPool(torch.cat(done).float(), to(condition, device), w)
