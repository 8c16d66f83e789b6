"""What a network predicts and the clean estimate that it means (method: x = (z - sigma eps) / alpha = alpha z - sigma v).

All four predictions are affine in each other at a fixed (z, t), so guidance may be combined on any of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fewstep.errors import InputError, nearest, shown

FLOOR = 4.5e-5  # log-SNR of +-20: no division by less, so that every translation stays finite over the whole time range

Translate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (output or x, z, alpha, sigma) -> x or output


@dataclass(frozen=True)
class Prediction:
    """One parametrisation of a denoiser: `to_x(output, z, alpha, sigma)` and its inverse `from_x(x, z, alpha, sigma)`."""

    name: Literal["eps", "x", "v", "flow"]
    diffusers_name: str  # the scheduler's `prediction_type`
    to_x: Translate
    from_x: Translate


EPS = Prediction(
    "eps",
    "epsilon",
    to_x=lambda eps, z, alpha, sigma: (z - sigma * eps) / alpha.clamp(min=FLOOR),
    from_x=lambda x, z, alpha, sigma: (z - alpha * x) / sigma.clamp(min=FLOOR),
)
X = Prediction("x", "sample", to_x=lambda x, z, alpha, sigma: x, from_x=lambda x, z, alpha, sigma: x)
V = Prediction(
    "v",
    "v_prediction",
    to_x=lambda v, z, alpha, sigma: alpha * z - sigma * v,
    from_x=lambda x, z, alpha, sigma: (alpha * z - x) / sigma.clamp(min=FLOOR),
)
FLOW = Prediction(
    "flow",
    "flow_prediction",
    to_x=lambda u, z, alpha, sigma: z - sigma * u,
    from_x=lambda x, z, alpha, sigma: (z - x) / sigma.clamp(min=FLOOR),
)
PREDICTIONS: dict[str, Prediction] = {p.name: p for p in (EPS, X, V, FLOW)}


def prediction_of(name: str) -> Prediction:
    """The prediction with this name of ours ("v") or of diffusers ("v_prediction").

    Raises:
        InputError: the name is not known.
    """
    for prediction in PREDICTIONS.values():
        if name in (prediction.name, prediction.diffusers_name):
            return prediction
    raise InputError(f"prediction {shown(name)} is not known; {nearest(name[:80], PREDICTIONS)}")
