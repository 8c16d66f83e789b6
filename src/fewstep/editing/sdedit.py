"""Editing (SDEdit, 2108.01073): noise a picture up to a time of the model's grid, and sample from there under a condition."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.data.images import Say, into_model, warn
from fewstep.errors import InputError
from fewstep.method import samplers
from fewstep.method.conditioning import split, to
from fewstep.method.guidance import DenoiserFn
from fewstep.method.process import add_noise
from fewstep.models.model import Model, Samples


@torch.no_grad()
def edit(
    model: Model,
    images: Tensor,
    condition: Any,
    *,
    strength: float,
    steps: int | None = None,
    guidance_scale: float = 1.0,
    seed: int = 0,
    sampler: str | None = None,
    noise: Tensor | None = None,
    batch_size: int = 256,
    say: Say = warn,
    progress: Callable[[int], None] = lambda done: None,
) -> Samples:
    """Images (n, c, h, w) in [-1, 1] redrawn under a condition of n rows, from t = `strength`: 1 keeps nothing of them.

    With N steps the strength is i/N and takes i of them; another is rounded to the grid, which `say` is told.

    Raises:
        InputError: a strength below 1/N or above 1; a choice that the model was not trained for; counts that do not agree.
    """
    choice = choose(model, steps, guidance_scale, sampler)
    start = start_of(strength, choice.steps, say)
    x, generator = into_model(model, images), torch.Generator().manual_seed(seed)
    noise = noise_like(x, generator, noise)
    done, began, process = [], time.perf_counter(), model.denoiser.process
    for (x_part, eps), label in batches((x, noise), condition, batch_size, model.denoiser.device):
        t = samplers.times_left(choice.steps, start, eps.device)[:1].expand(len(eps))
        arguments = (choice.estimate, add_noise(x_part, eps, t, process), choice.steps, label, choice.weights(eps), process)
        if choice.sampler == "stochastic":
            drawn = samplers.stochastic(*arguments, generator, start)
        else:
            drawn = samplers.deterministic(*arguments, start)
        done.append(drawn.float().cpu())
        progress(sum(len(d) for d in done))
    seconds = time.perf_counter() - began
    return Samples(noise, torch.cat(done), choice.steps, choice.sampler, start * choice.evaluations, seconds, model.decode)


def start_of(strength: float, steps: int, say: Say = warn) -> int:
    """i of the strength i/N on a grid of N steps, rounded; `say` is told where it was not on the grid.

    Raises:
        InputError: it is below 1/N, above 1, or not a number.
    """
    if not isinstance(strength, int | float) or not strength <= 1 or strength * steps < 1 - 1e-9:
        least = f"1/{steps} to 1" if steps > 1 else "1"
        plural = "s" if steps > 1 else ""
        raise InputError(f"strength is {strength}; with {steps} step{plural} it can be {least}, in parts of 1/{steps}")
    start = math.floor(strength * steps + 0.5)
    if abs(strength * steps - start) > 1e-6:
        say(f"strength {strength:g} is rounded to {start}/{steps} = {start / steps:g}, on the grid of {steps} steps")
    return start


@dataclass(frozen=True)
class Choice:
    """What a model was asked for, once checked: the denoiser to call, its weight, and its evaluations a step."""

    steps: int
    sampler: str
    estimate: DenoiserFn
    w: float | None
    evaluations: int

    def weights(self, like: Tensor) -> Tensor | None:
        """w (b,) for a batch `like` (b, ...)."""
        return None if self.w is None else torch.full((len(like),), self.w, device=like.device)


def choose(model: Model, steps: int | None, guidance_scale: float, sampler: str | None) -> Choice:
    """The checked choices of sampling with a teacher or a student.

    Raises:
        InputError: steps, a guidance scale or a sampler that the model was not trained for.
    """
    return Choice(model._check_steps(steps), model._check_sampler(sampler), *model._branches(guidance_scale))


def noise_like(x: Tensor, generator: torch.Generator, noise: Tensor | None = None) -> Tensor:
    """`noise`, or float32 noise drawn on the generator's device, shaped as x (n, c, h, w).

    Raises:
        InputError: `noise` has another shape.
    """
    if noise is not None and noise.shape != x.shape:
        raise InputError(f"noise has shape {tuple(noise.shape)}; {tuple(x.shape)} is needed for these images")
    return torch.randn(x.shape, generator=generator) if noise is None else noise


def batches(
    tensors: tuple[Tensor, ...], condition: Any, batch_size: int, device: torch.device
) -> Iterator[tuple[list[Tensor], Any]]:
    """Parts of tensors (n, ...) with the same part of a condition: a tensor, or a dict of tensors, of n rows.

    Raises:
        InputError: the condition has another number of rows.
    """
    n, parts = len(tensors[0]), condition.values() if isinstance(condition, dict) else [condition]
    for part in parts:
        if len(part) != n:
            raise InputError(f"there are {n} images and {len(part)} conditions; give one condition an image")
    pieces = zip(*(tensor.split(batch_size) for tensor in tensors), strict=True)
    for rows, label in zip(pieces, split(condition, batch_size), strict=True):
        yield [piece.to(device) for piece in rows], to(label, device)
