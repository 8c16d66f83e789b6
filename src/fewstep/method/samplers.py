"""Samplers (2210.03142, sections 3.3 and 4): N steps are exactly N evaluations of the denoiser, towards data or towards noise."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.method.guidance import DenoiserFn
from fewstep.method.process import EARLIEST, Process, ddim_step, renoise, time_grid, to_float64

Noise = Callable[[Tensor], Tensor]  # fresh noise, shaped as what it is given (b, ...)


def deterministic(
    denoiser: DenoiserFn, z: Tensor, steps: int, condition: Any, w: Tensor | None, process: Process, start: int | None = None
) -> Tensor:
    """DDIM from noise z (b, ...) on t = 1, 1 - 1/N, ..., 1/N: the sample is the last clean estimate, float64 (b, ...).

    `start` begins at t = start/N instead of 1 (z is then noisy data at that time) and takes `start` evaluations.

    Raises:
        InputError: `steps` is below 1, or `start` is not within 1..`steps`.
    """
    z, times = to_float64(z), [t.expand(len(z)) for t in times_left(steps, start, z.device)[:-1]]
    x = denoiser(z, times[0], condition, w)
    for t, s in pairwise(times):
        z = ddim_step(z, x, t, s, process)
        x = denoiser(z, s, condition, w)
    return x


def stochastic(
    denoiser: DenoiserFn,
    z: Tensor,
    steps: int,
    condition: Any,
    w: Tensor | None,
    process: Process,
    fresh: Noise = torch.randn_like,
    start: int | None = None,
) -> Tensor:
    """From noise z (b, ...): from t a jump of 2/N, then noise back up by 1/N; at t = 1/N one step of 1/N ends it (section 3.3).

    `fresh` gives the noise of each step but the last; `start` as for `deterministic`.
    """
    z, times = to_float64(z), times_left(steps, start, z.device)
    for i in range(len(times) - 2):
        t, up, low = (time.expand(len(z)) for time in times[i : i + 3])
        jumped = ddim_step(z, denoiser(z, t, condition, w), t, low, process)
        z = renoise(jumped, fresh(z), low, up, process)
    return denoiser(z, times[-2].expand(len(z)), condition, w)


def times_left(steps: int, start: int | None = None, device: torch.device | str = "cpu") -> Tensor:
    """Times start/N, (start - 1)/N, ..., 1/N, 0, float64 (start + 1,): what is left of the grid; all of it without `start`.

    Raises:
        InputError: `steps` is below 1, or `start` is not within 1..`steps`.
    """
    times, start = time_grid(steps, device), steps if start is None else start
    if not 1 <= start <= steps:
        raise InputError(f"start is {start}; give 1 to {steps}, the number of the {steps} steps that are left to take")
    return times[steps - start :]


def encode(denoiser: DenoiserFn, x: Tensor, steps: int, condition: Any, w: Tensor | None, process: Process) -> Tensor:
    """Carry data x (b, ...) to noise at t = 1 on t = 0, 1/N, ..., 1 - 1/N, float64 (b, ...) (section 4, the encoder)."""
    times = time_grid(steps, x.device).flip(0).clamp(min=EARLIEST)
    z = to_float64(x)
    for t, s in zip(times[:-1], times[1:], strict=True):
        estimate = denoiser(z, t.expand(len(z)), condition, w)
        z = ddim_step(z, estimate, t.expand(len(z)), s.expand(len(z)), process)
    return z
