"""Stage one (2210.03142, section 3.1): one student learns the estimates of the guided teacher, for every guidance weight.

L1 = E[ omega(lambda_t) || X_student(z_t, t, c, w) - X^w_teacher(z_t, t, c) ||^2 ],   t ~ U,  w ~ U[w_min, w_max]
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewstep.method.guidance import DenoiserFn, scale_of
from fewstep.method.process import Process, log_snr

Weighting = Callable[[Tensor], Tensor]  # omega(lambda) for log-SNR (b,)


def snr_plus_one(log_snr: Tensor) -> Tensor:
    """omega = SNR + 1: the plain squared error in v."""
    return log_snr.exp() + 1


def truncated_snr(log_snr: Tensor) -> Tensor:
    """omega = max(SNR, 1) (2202.00512, section 4)."""
    return log_snr.exp().clamp(min=1)


def snr(log_snr: Tensor) -> Tensor:
    """omega = SNR: the plain squared error in eps, blind at t = 1."""
    return log_snr.exp()


WEIGHTINGS: dict[str, Weighting] = {"snr_plus_one": snr_plus_one, "truncated_snr": truncated_snr, "snr": snr}


def guided_target(teacher: DenoiserFn, z: Tensor, t: Tensor, condition: Any, w: Tensor) -> Tensor:
    """X^w_teacher(z_t, t, c), float64 (b, ...), without gradient: section 3.1. `teacher` is already guided."""
    with torch.no_grad():
        return teacher(z, t, condition, w)


def weighted_error(x: Tensor, target: Tensor, t: Tensor, process: Process, weighting: Weighting) -> Tensor:
    """omega(lambda_t) || x - target ||^2, the mean over each example's elements, (b,): the loss of both stages."""
    error = (x - target).square().flatten(1).mean(1)
    return weighting(log_snr(t, process)) * error


def balance(w: Tensor, power: float) -> Tensor:
    """(1 + w)^-power (b,), 1 where w < 0: the guided target's error grows like 1 + w, so without it large weights drown small ones."""
    return scale_of(w).clamp(min=1) ** -power
