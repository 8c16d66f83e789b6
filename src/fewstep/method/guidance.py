"""Classifier-free guidance (2210.03142, section 2): how two branches combine, and how a student takes the weight.

Inside the mathematics the weight is `w`, 0 for none. Users see `guidance_scale = 1 + w`, the convention of diffusers: the two
functions at the top are the only place where one becomes the other.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fewstep.method.conditioning import Condition, join
from fewstep.method.process import expand_to

DenoiserFn = Callable[[Tensor, Tensor, Any, Tensor | None], Tensor]  # X(z, t, condition, w)
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (x (b, ...), x_null (b, ...), w (b,), t (b,)) -> X^w (b, ...)


def weight_of(guidance_scale: Any) -> Any:
    """w of a guidance scale."""
    return guidance_scale - 1


def scale_of(w: Any) -> Any:
    """The guidance scale of w."""
    return 1 + w


def combine(x: Tensor, x_null: Tensor, w: Tensor) -> Tensor:
    """(1 + w) X(z, t, c) - w X(z, t, null) for w (b,): section 2, the guided model."""
    w = expand_to(w, x)
    return (1 + w) * x - w * x_null


def plain(x: Tensor, x_null: Tensor, w: Tensor, t: Tensor) -> Tensor:
    """The rule of 2207.12598, at every time alike: `combine`."""
    return combine(x, x_null, w)


def guided(denoiser: DenoiserFn, null: Callable[[Any], Any], rule: Rule = plain, weak: DenoiserFn | None = None) -> DenoiserFn:
    """The guided teacher X^w(z, t, c, w): both branches in one batched evaluation of twice the batch, combined by a rule.

    `null(condition)` gives the null condition of the same length. With a `weak` model, its estimate for the condition itself stands in the
    place of the null branch (autoguidance, 2406.02507).
    """

    def estimate(z: Tensor, t: Tensor, condition: Condition, w: Tensor | None) -> Tensor:
        if w is None:
            return denoiser(z, t, condition, None)
        if weak is not None:
            x, x_null = denoiser(z, t, condition, None), weak(z, t, condition, None)
        else:
            both = denoiser(torch.cat([z, z]), torch.cat([t, t]), join(condition, null(condition)), None)
            x, x_null = both.chunk(2)
        return rule(x, x_null, w.to(x.dtype), t)

    return estimate


def weight_by_step(denoiser: DenoiserFn, weights: Sequence[float]) -> DenoiserFn:
    """The denoiser asked at a weight of its own in each of N steps: weights[0] at t = 1, weights[N - 1] at t = 1/N."""
    steps = len(weights)

    def estimate(z: Tensor, t: Tensor, condition: Condition, w: Tensor | None) -> Tensor:
        index = steps - (t * steps).round().long().clamp(1, steps)
        return denoiser(z, t, condition, torch.tensor(weights, dtype=torch.float32, device=t.device)[index])

    return estimate


def draw_w(uniform: Tensor, guidance_scale: tuple[float, float]) -> Tensor:
    """Weights w (b,) from uniform numbers in [0, 1): continuous over the range (section 3.1, w ~ U[w_min, w_max])."""
    low, high = (weight_of(s) for s in guidance_scale)
    return low + (high - low) * uniform


def embed_w(w: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding of w (b,), float32 (b, dim): to the bit what diffusers' pipelines compute from guidance_scale - 1."""
    angles = (w.float() * 1000.0)[:, None] * _frequencies(dim // 2, w.device)[None, :]
    embedded = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.nn.functional.pad(embedded, (0, dim % 2))


@lru_cache(maxsize=16)  # a copy to the device waits for it: once, not in each update
def _frequencies(half: int, device: torch.device) -> Tensor:
    # float32 and on the CPU throughout, as in diffusers: angles reach 10^4, where the last bit of a frequency is worth 1e-3
    ladder = torch.arange(half, dtype=torch.float32, device="cpu")
    return torch.exp(ladder * -(torch.tensor(10000.0, device="cpu").log() / (half - 1))).to(device)
