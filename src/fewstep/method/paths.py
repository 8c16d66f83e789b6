"""Paths: the guided teacher's own trajectories, and a student taught between their consecutive states.

A rung of stage two sees noised data and the student before it. Here a student sees the states that sampling visits, and its target comes
straight from the guided teacher (2503.07274 and 2511.20410 found the same for guidance and for consistency): of two states z_t, z_s of one
path, `landing_target` is the clean estimate whose one DDIM step carries the first to the second.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fewstep.method.guidance import DenoiserFn, draw_w
from fewstep.method.process import Process, expand_to, to_float64
from fewstep.method.stage_two import landing_target


def second_order_states(
    denoiser: DenoiserFn, z: Tensor, times: Tensor, condition: Any, w: Tensor | None, process: Process
) -> Iterator[Tensor]:
    """The states (b, ...), float64, at times[1:] of a path from noise z (b, ...) at times[0], falling: DPM-Solver++ 2M (2211.01095, algorithm 2).

    Each step is one evaluation, of a straight line through the last two clean estimates in log-SNR; the first step, and one to t = 0, where
    the state is the clean estimate itself, have one estimate alone.
    """
    z, before = to_float64(z), None
    for t, s in pairwise(times):
        x = denoiser(z, t.expand(len(z)), condition, w)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.at(t.expand(1), z), process.at(s.expand(1), z)
        half_log_snr = alpha_t.log() - sigma_t.log()
        if s <= 0:
            yield x
            return
        line = x
        if before is not None:
            last, at = before
            ahead = alpha_s.log() - sigma_s.log() - half_log_snr
            line = x + ahead / (2 * (half_log_snr - at)) * (x - last)
        shrink = sigma_s / sigma_t
        z, before = shrink * z + (alpha_s - shrink * alpha_t) * line, (x, half_log_snr)
        yield z


def draw_path_w(uniform: Tensor, guidance_scale: tuple[float, float], at_low_end: float) -> Tensor:
    """Weights w (b,) from uniform numbers in [0, 1): a share `at_low_end` at the lowest scale itself, the others continuous over the range.

    At the low end guidance hides the least, and a student has the least to go by: without the share it is learnt last.
    """
    rest = (uniform - at_low_end).clamp(min=0) / max(1 - at_low_end, 1e-12)
    return draw_w(rest, guidance_scale)


def path_target(states: Tensor, index: Tensor, steps: int, process: Process) -> tuple[Tensor, Tensor, Tensor]:
    """(z, target, t) of one step of each path: where a student of `steps` steps is at t = i/N, and what it should say there.

    `states` (b, N + 1, ...) are those at t = 1, 1 - 1/N, ..., 1/N and 0; `index` i (b,) is in 1..N. The target carries z (b, ...) at t (b,) to the
    next state by one DDIM step; at i = 1 it is the path's end itself.
    """
    rows = torch.arange(len(states), device=states.device)
    z, end = to_float64(states[rows, steps - index]), to_float64(states[rows, steps - index + 1])
    t, s = to_float64(index) / steps, to_float64(index - 1) / steps
    landing = landing_target(z, end, t, s, process)
    return z, torch.where(expand_to(index == 1, z), end, landing), t
