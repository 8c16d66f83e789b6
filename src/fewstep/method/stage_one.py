"""Stage one (2210.03142, section 3.1): one student learns the estimates of the guided teacher, for every guidance weight.

L1 = E[ omega(lambda_t) || X_student(z_t, t, c, w) - X^w_teacher(z_t, t, c) ||^2 ],   t ~ U,  w ~ U[w_min, w_max]
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewstep.method.guidance import DenoiserFn, scale_of
from fewstep.method.parameterization import Prediction
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


def min_snr(log_snr: Tensor, gamma: float = 5.0) -> Tensor:
    """omega = min(SNR + 1, gamma): min-SNR (2303.09556), with the 1 since sampling begins where SNR is 0; bounded for every prediction."""
    return snr_plus_one(log_snr).clamp(max=gamma)


WEIGHTINGS: dict[str, Weighting] = {
    "snr_plus_one": snr_plus_one, "truncated_snr": truncated_snr, "snr": snr, "min_snr": min_snr,
}  # fmt: skip


def largest_weight(weighting: Weighting, prediction: Prediction, process: Process) -> float:
    """The largest weight, over the process's times n / T, of the squared error in what the network itself gives.

    Of v and of a flow the error in x is sigma times the network's, so SNR + 1 and max(SNR, 1) are bounded; of x it is the same one,
    and they grow like SNR at t = 0; of eps like 1 / alpha^2 at t = 1.
    """
    t = torch.arange(1, process.train_timesteps + 1).double() / process.train_timesteps
    alpha, sigma = process.at(t, t)
    one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
    slope = prediction.to_x(one, zero, alpha, sigma) - prediction.to_x(zero, zero, alpha, sigma)
    return float((weighting(log_snr(t, process)) * slope**2).nan_to_num(0.0).max())


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
