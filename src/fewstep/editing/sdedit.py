"""Editing (SDEdit, 2108.01073): noise a picture up to a time of the model's grid, and sample from there under a condition."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from fewstep.data.images import Say, into_model, warn
from fewstep.errors import InputError, shown
from fewstep.method.process import add_noise
from fewstep.method.samplers import times_left
from fewstep.models.model import Model
from fewstep.models.sampling import Progress, Samples, fresh_noise, initial_noise, sample_in_batches


@torch.no_grad()
def edit(
    model: Model,
    images: Tensor,
    condition: Any,
    *,
    strength: float,
    steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    sampler: str | None = None,
    noise: Tensor | None = None,
    batch_size: int = 256,
    say: Say = warn,
    progress: Progress = lambda done: None,
) -> Samples:
    """Images (n, c, h, w) in [-1, 1] redrawn under a condition of n rows, from t = `strength`: 1 keeps nothing of them.

    With N steps the strength is i/N and takes i of them; another is rounded to the grid, which `say` is called with. Without a guidance
    scale it is 1, or the one baked in.

    Raises:
        InputError: a strength below 1/N or above 1; a choice that the model was not trained for; counts that do not agree.
    """
    plan = model.sampling_plan(steps, guidance_scale, sampler)
    start = start_of(strength, plan.steps, say)
    x = into_model(model, images)
    noise = initial_noise(x.shape, seed, noise)

    def draw(images: range, rows: Any, x: Tensor, eps: Tensor) -> Tensor:
        t = times_left(plan.steps, start, eps.device)[:1].expand(len(eps))
        return plan.sample(add_noise(x, eps, t, plan.process), rows, fresh_noise(seed, images), start)

    batching = {"batch_size": batch_size, "device": model.denoiser.device, "progress": progress}
    drawn, seconds = sample_in_batches(draw, (x, noise), condition, **batching)
    return Samples(noise, drawn, plan.steps, plan.sampler, start * plan.evaluations, seconds, model.decode)


def start_of(strength: float, steps: int, say: Say = warn) -> int:
    """i of the strength i/N on a grid of N steps, rounded; `say` is called where it was not on the grid.

    Raises:
        InputError: it is below 1/N, above 1, or not a number.
    """
    if not isinstance(strength, Real) or not strength <= 1 or strength * steps < 1 - 1e-9:
        least = f"1/{steps} to 1" if steps > 1 else "1"
        plural = "s" if steps > 1 else ""
        raise InputError(f"strength is {shown(strength)}; with {steps} step{plural} it can be {least}, in parts of 1/{steps}")
    start = math.floor(strength * steps + 0.5)
    if abs(strength * steps - start) > 1e-6:
        say(f"strength {strength:g} is rounded to {start}/{steps} = {start / steps:g}, on the grid of {steps} steps")
    return start
