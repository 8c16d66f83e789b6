"""Stage two (2210.03142, section 3.2; 2202.00512): k steps of the teacher become one step of the student, rung by rung.

The teacher of a rung is the student of the rung before, **at the same w, with no further guidance**. For k = 2, from t on the
student's grid by t' = t - 1/(2N) to t'' = t - 1/N:

    z'  = ddim(z_t, X(z_t, t),  t  -> t')
    z'' = ddim(z',  X(z', t'),  t' -> t'')
    x~  = (z'' - (sigma''/sigma_t) z_t) / (alpha'' - (sigma''/sigma_t) alpha_t)
    L2  = omega(lambda_t) || X_student(z_t, t, w) - x~ ||^2

What differs between the deterministic sampler, the stochastic sampler and the encoder is the path of times alone: three functions
give it, one makes the target.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.method.guidance import DenoiserFn
from fewstep.method.process import EARLIEST, Process, ddim_step, expand_to, to_float64

Path = Callable[[Tensor, int, int], Tensor]  # (index i (b,), steps N, k) -> times (k + 1, b)


def forward_path(index: Tensor, steps: int, k: int) -> Tensor:
    """From t = i/N in k equal steps to t - 1/N: times (k + 1, b) for i (b,) in 1..N."""
    back = torch.arange(k + 1, device=index.device)[:, None]
    return to_float64(index * k - back) / (steps * k)


def stochastic_path(index: Tensor, steps: int, k: int) -> Tensor:
    """From t = i/N by jumps of the k N-step stochastic teacher, each of 2/(k N), to t - 2/N: times (k + 1, b) for i in 1..N.

    At i = 1 the path ends at t = 0 and stays there; its last jump is half as long where k is odd.
    """
    back = 2 * torch.arange(k + 1, device=index.device)[:, None]
    return to_float64((index * k - back).clamp(min=0)) / (steps * k)


def encoder_path(index: Tensor, steps: int, k: int) -> Tensor:
    """From t = i/N in k equal steps towards noise, to t + 1/N: times (k + 1, b) for i (b,) in 0..N-1."""
    on = torch.arange(k + 1, device=index.device)[:, None]
    return (to_float64(index * k + on) / (steps * k)).clamp(min=EARLIEST)


def draw_index(uniform: Tensor, steps: int) -> Tensor:
    """i ~ U{1..N}, int64 (b,), from uniform numbers in [0, 1)."""
    return (uniform * steps).long().clamp(max=steps - 1) + 1


def landing_target(z: Tensor, z_end: Tensor, t: Tensor, end: Tensor, process: Process) -> Tensor:
    """x~ (b, ...): the clean estimate whose one DDIM step carries z from t (b,) to z_end at `end` (b,)."""
    (alpha_t, sigma_t), (alpha_end, sigma_end) = process.at(t, z), process.at(end, z)
    shrink = sigma_end / sigma_t
    return (z_end - shrink * z) / (alpha_end - shrink * alpha_t)


def collapsed_target(teacher: DenoiserFn, z: Tensor, path: Tensor, condition: Any, w: Tensor | None, process: Process) -> Tensor:
    """x~ (b, ...): the estimate with which one student step from path[0] lands where the teacher's steps along `path` (k + 1, b) do.

    Where a path reaches t = 0 the target is the teacher's last clean estimate itself (2202.00512, appendix G). One evaluation
    of the teacher a step, at the same w: guiding again here is the field's commonest error.
    """
    z_now, x = z, z
    with torch.no_grad():
        for t, s in zip(path[:-1], path[1:], strict=True):
            arrived = expand_to(t <= 0, z)  # a stochastic path that is already at the data
            estimate = teacher(z_now, t.clamp(min=EARLIEST), condition, w)
            x = torch.where(arrived, x, estimate)
            z_now = torch.where(arrived, z_now, ddim_step(z_now, x, t.clamp(min=EARLIEST), s, process))
        landing = landing_target(z, z_now, path[0], path[-1], process)
    return torch.where(expand_to(path[-1] <= 0, z), x, landing)


def rungs(ladder: Sequence[int]) -> list[tuple[int, int]]:
    """[(steps, k), ...] of a ladder: [64, 16, 8] gives [(16, 4), (8, 2)].

    Raises:
        InputError: a step count is below 1 or does not divide the one before.
    """
    for before, steps in zip(ladder[:-1], ladder[1:], strict=True):
        if steps < 1 or steps >= before or before % steps:
            raise InputError(
                f"ladder {list(ladder)}: {steps} does not divide {before} into two or more; each number must divide the one before"
            )
    if not ladder or ladder[0] < 1:
        raise InputError(f"ladder {list(ladder)}: it needs at least one number, 1 or more")
    return [(steps, before // steps) for before, steps in zip(ladder[:-1], ladder[1:], strict=True)]
