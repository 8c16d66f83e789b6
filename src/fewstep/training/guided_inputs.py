"""Training inputs from where sampling goes: guided samples instead of data (the weakness that arXiv 2503.07274 names).

Noised data is what the paper trains on, but a sampler at a high guidance scale visits other places. A share of the examples may
therefore start from a pool of the teacher's own guided samples, each noised and trained at the weight that it was made with.
"""

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition, choose, leaf, split, take, to
from fewstep.method.guidance import DenoiserFn, draw_w
from fewstep.method.process import expand_to, to_float64
from fewstep.method.samplers import deterministic
from fewstep.models.model import Model
from fewstep.training.draws import Draws
from fewstep.training.stage import Batch, Examples

POOL = 1024  # samples
STEPS = 8  # at most, to make each
Inputs = tuple[Tensor, Condition, Tensor]  # clean x (n, ...), conditions (n, ...) and weights w (n,)


class GuidedInputs:
    """The clean inputs of a stage, a share of them from a pool of guided samples, which is made when first needed.

    The pool is of `guided`, a guided teacher or a student of `steps` steps, at weights of the range of scales; always the same for the
    same weights. Its conditions are labels of `teacher`'s classes, or those of the first examples of `data`.
    """

    def __init__(
        self, share: float, guided: DenoiserFn, teacher: Model, scales: tuple[float, float], steps: int, data: Examples | None
    ) -> None:
        self.share, self.guided, self.teacher, self.scales, self.data = share, guided, teacher, scales, data
        self.steps = max(d for d in range(1, STEPS + 1) if steps % d == 0)  # times that a student of `steps` steps knows
        self.pool: Inputs | None = None

    def draw(self, draws: Draws) -> Batch:
        """Each example's place in the pool, int64 (n,), -1 for those that are not of it; nothing where none are."""
        if not self.share:
            return {}
        which, place = draws.uniform(), draws.uniform()
        return {"pool_index": torch.where(which < self.share, (place * POOL).long().clamp(max=POOL - 1), -1)}

    def __call__(self, batch: Batch) -> Inputs:
        """A batch's (x, condition, w), those with an index of 0 or more taken from the pool.

        Raises:
            InputError: the teacher takes no class, and there are no data to take conditions of.
        """
        x, condition, w = batch["x"], batch["condition"], batch["w"]
        if "pool_index" not in batch:
            return x, condition, w
        self.pool = self.pool or self.sampled(x)
        pool_x, pool_condition, pool_w = self.pool
        taken, index = batch["pool_index"] >= 0, batch["pool_index"].clamp(min=0)
        x = torch.where(expand_to(taken, x), pool_x[index], x)
        return x, choose(taken, take(pool_condition, index), condition), torch.where(taken, pool_w[index].to(w), w)

    @torch.no_grad()
    def sampled(self, like: Tensor) -> Inputs:
        """The pool, of the shape and on the device of `like` (b, ...)."""
        generator, process = torch.Generator().manual_seed(0), self.teacher.denoiser.process
        if self.teacher.info.condition == "class" and not self.teacher.family.takes_mask:
            noise = torch.randn(POOL, *like.shape[1:], generator=generator)
            condition: Condition = torch.randint(len(self.teacher.info.classes), (POOL,), generator=generator)
        elif self.data is None:
            raise InputError("guided_inputs needs the data's conditions; give data, or set guided_inputs to 0")
        else:
            condition = self.data.batch(0, POOL)[1]
            noise = torch.randn(len(leaf(condition)), *like.shape[1:], generator=generator)
        w = to_float64(draw_w(torch.rand(len(noise), generator=generator, dtype=torch.float64), self.scales), like.device)
        parts = zip(noise.split(256), split(condition, 256), w.split(256), strict=True)
        x = [deterministic(self.guided, z.to(w.device), self.steps, to(c, w.device), part, process) for z, c, part in parts]
        return torch.cat(x).float(), to(condition, w.device), w
