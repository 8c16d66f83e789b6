"""Training inputs from where sampling goes: guided samples instead of data (the weakness that arXiv 2503.07274 names).

Noised data is what the paper trains on, but a sampler at a high guidance scale visits other places. A share of the examples may
therefore start from a pool of the teacher's own guided samples, each noised and trained at the weight that it was made with.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition, choose, leaf, split, take, to
from fewstep.method.guidance import DenoiserFn, draw_w
from fewstep.method.process import Process, expand_to, to_float64
from fewstep.method.samplers import deterministic
from fewstep.models.model import Model
from fewstep.training.stage import Batch, Examples, uniform

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


def draw_pool_index(generator: torch.Generator, n: int, share: float) -> Tensor:
    """Index into the pool for a `share` of n examples, -1 for the others, int64 (n,)."""
    which, place = uniform(generator, n), uniform(generator, n)
    return torch.where(which < share, (place * POOL).long().clamp(max=POOL - 1), -1)


@torch.no_grad()
def guided_pool(
    guided: DenoiserFn, process: Process, noise: Tensor, condition: Condition, w: Tensor, steps: int, device: torch.device
) -> GuidedPool:
    """The pool that `guided` samples from noise (n, ...) under a condition (n, ...) at weights w (n,), in at most `STEPS` steps."""
    count = max(d for d in range(1, STEPS + 1) if steps % d == 0)  # times that a student of `steps` steps knows
    w = to_float64(w, device)
    parts = zip(noise.split(256), split(condition, 256), w.split(256), strict=True)
    x = [deterministic(guided, z.to(device), count, to(c, device), part, process) for z, c, part in parts]
    return GuidedPool(torch.cat(x).float(), to(condition, device), w)


class GuidedInputs:
    """The clean inputs of a stage, a share of them from a pool of guided samples, which is made when first needed.

    The pool is of `guided`, a guided teacher or a student of `steps` steps, at weights of the range of scales; always the same for the
    same weights. Its conditions are labels of `teacher`'s classes, or those of the first examples of `data`.
    """

    def __init__(
        self, share: float, guided: DenoiserFn, teacher: Model, scales: tuple[float, float], steps: int, data: Examples | None
    ) -> None:
        self.share, self.guided, self.teacher, self.scales, self.steps, self.data = share, guided, teacher, scales, steps, data
        self.pool: GuidedPool | None = None

    def draw(self, generator: torch.Generator, n: int) -> Batch:
        """Which of n examples come from the pool, and which place in it they take; nothing where none do."""
        return {"pool_index": draw_pool_index(generator, n, self.share)} if self.share else {}

    def __call__(self, batch: Batch) -> tuple[Tensor, Condition, Tensor]:
        """A batch's (x, condition, w).

        Raises:
            InputError: the teacher takes no class, and there are no data to take conditions of.
        """
        own = batch["x"], batch["condition"], batch["w"]
        if "pool_index" not in batch:
            return own
        self.pool = self.pool or self._sample(own[0])
        return self.pool.replace(batch["pool_index"], *own)

    def _sample(self, like: Tensor) -> GuidedPool:
        generator = torch.Generator().manual_seed(0)
        if self.teacher.info.condition == "class" and not self.teacher.family.takes_mask:
            noise = torch.randn(POOL, *like.shape[1:], generator=generator)
            condition: Condition = torch.randint(len(self.teacher.info.classes), (POOL,), generator=generator)
        elif self.data is None:
            raise InputError("guided_inputs needs the data's conditions; give data, or set guided_inputs to 0")
        else:
            condition = self.data.batch(0, POOL)[1]
            noise = torch.randn(len(leaf(condition)), *like.shape[1:], generator=generator)
        w = draw_w(torch.rand(len(noise), generator=generator, dtype=torch.float64), self.scales)
        return guided_pool(self.guided, self.teacher.denoiser.process, noise, condition, w, self.steps, like.device)
