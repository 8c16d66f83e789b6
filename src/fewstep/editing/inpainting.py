"""Inpainting with any model: what is known of a picture is put back at each step's noise level (after RePaint, 2201.09865)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewstep.data.images import Say, into_model, warn
from fewstep.errors import InputError, check_number, check_whole_number
from fewstep.method.conditioning import Condition, cycle, join, take, to
from fewstep.method.guidance import DenoiserFn
from fewstep.method.process import Process, add_noise, ddim_step, renoise, to_float64
from fewstep.method.samplers import Noise, times_left
from fewstep.models.labels import as_list
from fewstep.models.model import DECODED, Model
from fewstep.models.sampling import Progress, Samples, fresh_noise, initial_noise, sample_in_batches

MOST_REPEATS = 1000  # of each step


@torch.no_grad()
def inpaint(
    model: Model,
    images: Tensor,
    masks: Tensor,
    condition: Any,
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    sampler: str | None = None,
    feather: float | None = None,
    resample: int = 0,
    noise: Tensor | None = None,
    batch_size: int = 256,
    say: Say = warn,
    progress: Progress = lambda done: None,
) -> Samples:
    """Pixels (n, c, h, w) of images in [-1, 1], drawn anew where `masks` (n, 1, h, w) are set, under a condition of n rows.

    Outside the mask and its fading edge they are the input's, to the bit, whatever space the model works in.

    `feather` pixels around the mask fade from what was drawn to what was there; without it as many as a latent stands for, and none
    where the model works in pixels. `resample` goes back up and repeats each step but the first so many times: N + resample (N - 1)
    steps in all, each one evaluation of a student. Without a guidance scale it is 1, or the one baked in.

    Raises:
        InputError: masks of another shape, a negative feather or resample; a choice that the model was not trained for.
    """
    plan = model.sampling_plan(steps, guidance_scale, sampler)
    feather = edge_of(model) if feather is None else feather
    masks = _checked(images, masks, feather, resample, plan.steps)
    weight, passes = soften(masks, feather), plan.steps + resample * (plan.steps - 1)
    for i in (~masks.flatten(1).any(1)).nonzero().flatten().tolist():
        say(f"the mask of image {i} is black all over: nothing is filled in and the picture comes back as it is")
    x = into_model(model, images)
    noise = initial_noise(x.shape, seed, noise)
    if not bool(masks.any()):
        return Samples(noise, images.float().cpu(), plan.steps, plan.sampler, 0, 0.0)
    hole = F.adaptive_max_pool2d(masks.float(), x.shape[-2:]) > 0  # the same mask where the model works in pixels
    if isinstance(condition, dict) and "masked" in condition:  # the network sees what is known: nothing is put back on the way
        hole = torch.ones_like(hole)

    def draw(places: range, rows: Condition, known: Tensor, eps: Tensor, open_: Tensor) -> Tensor:
        fresh = fresh_noise(seed, places)
        advance = noising(fresh) if plan.sampler == "stochastic" else following
        path = Path(known, open_, eps, plan.steps, plan.process)
        return fill(plan.estimate, path, rows, plan.weights(eps), advance, resample, fresh)

    batching = {"batch_size": batch_size, "device": model.denoiser.device, "progress": progress}
    drawn, seconds = sample_in_batches(draw, (x, noise, hole), condition, **batching)
    pixels = blend(model.decode(drawn), images, weight)
    return Samples(noise, pixels, plan.steps, plan.sampler, passes * plan.evaluations, seconds)


def condition_of(model: Model, images: Tensor, masks: Tensor, labels_or_prompts: Sequence[int | str]) -> Condition:
    """The condition (n, ...) of labels or prompts, taken in turn; with masks (n, 1, h, w) and images where the network takes them."""
    n, family, device = len(images), model.family, model.denoiser.device
    if not family.takes_mask:
        return model.labels_or_prompts(labels_or_prompts, n)
    if model.info.condition == "text":
        prompts = list(map(str, as_list(labels_or_prompts)))
        condition = cycle(family.encode_prompts(prompts, device), n)
    else:
        condition = to(model.labels_or_prompts(labels_or_prompts, n), device)
    parts = torch.arange(n, device=device).split(DECODED)
    return reduce(join, (family.with_mask(take(condition, i), images.to(device)[i], masks.to(device)[i]) for i in parts))


@dataclass(frozen=True)
class Path:
    """What stays the same along the way: `known` data, the `hole` to fill, the noise at its start, N steps, the process."""

    known: Tensor  # (b, c, h, w)
    hole: Tensor  # bool (b, 1, h, w)
    noise: Tensor  # (b, c, h, w)
    steps: int
    process: Process

    def kept(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """z (b, c, h, w) with the known part put back at times t (b,), noised by eps."""
        return torch.where(self.hole, z, add_noise(to_float64(self.known), eps, t, self.process))


Advance = Callable[[Tensor, Tensor, Tensor, Path], tuple[Tensor, Tensor]]  # (z, x, times t s low (3, b), path) -> z at s, its noise


def following(z: Tensor, x: Tensor, times: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    """The deterministic step from t to s; the known part keeps the noise that it began with."""
    return ddim_step(z, x, times[0], times[1], path.process), path.noise


def noising(fresh: Noise) -> Advance:
    """The stochastic step: the jump to `low`, then back up to s with fresh noise, for the known part too."""

    def advance(z: Tensor, x: Tensor, times: Tensor, path: Path) -> tuple[Tensor, Tensor]:
        t, s, low = times
        eps = fresh(z)
        return renoise(ddim_step(z, x, t, low, path.process), eps, low, s, path.process), eps

    return advance


def fill(
    estimate: DenoiserFn,
    path: Path,
    condition: Any,
    w: Tensor | None,
    advance: Advance,
    resample: int = 0,
    fresh: Noise = torch.randn_like,
) -> Tensor:
    """The last clean estimate, float64 (b, c, h, w), of a path whose known part is put back after every step.

    `resample` times a step that does not begin at t = 1, where nothing would be kept, is undone by noise and taken again.
    """
    grid = times_left(path.steps, device=path.noise.device)
    times = torch.cat([grid, grid[-1:]])[:, None].expand(-1, len(path.noise))
    z = path.kept(to_float64(path.noise), path.noise, times[0])
    x = z
    for i in range(path.steps):
        t, s, _ = window = times[i : i + 3]
        for left in range(resample if i else 0, -1, -1):
            x = estimate(z, t, condition, w)
            if i == path.steps - 1:
                landed = torch.where(path.hole, x, to_float64(path.known))
            else:
                landed = path.kept(*advance(z, x, window, path), s)
            z = renoise(landed, fresh(landed), s, t, path.process) if left else landed
    return x


def edge_of(model: Model) -> float:
    """Pixels over which a mask's edge fades where nothing else is said: those of one latent, 0 for a model in pixel space."""
    return 0.0 if model.info.image_size is None else float(model.info.image_size // model.info.size)


def soften(masks: Tensor, feather: float) -> Tensor:
    """How much of what was drawn is shown, float32 (n, 1, h, w): 1 in the mask, down to 0 within `feather` pixels around it."""
    if not feather:
        return masks.float()
    from scipy.ndimage import distance_transform_edt

    holes = masks[:, 0].cpu().numpy()
    far = [np.asarray(distance_transform_edt(~hole)) if hole.any() else np.full(hole.shape, np.inf) for hole in holes]
    return torch.from_numpy(1 - np.stack(far) / (feather + 1)).clamp(0, 1).float()[:, None]


def blend(drawn: Tensor, known: Tensor, weight: Tensor) -> Tensor:
    """weight * drawn + (1 - weight) * known, float32 (n, c, h, w); where the weight is 0 or 1 it is one of the two, to the bit."""
    mixed = torch.lerp(known.float().cpu(), drawn, weight.expand_as(drawn))
    return torch.where(weight == 0, known.float().cpu(), torch.where(weight == 1, drawn, mixed))


def _checked(images: Tensor, masks: Tensor, feather: float, resample: int, steps: int) -> Tensor:
    """The masks as bool (n, 1, h, w)."""
    shape = (len(images), 1, *images.shape[-2:])
    if masks.shape != shape:
        raise InputError(f"masks are shaped {tuple(masks.shape)}; {shape} is needed for these images")
    check_number("feather", feather, 0, 1e6)
    check_whole_number("resample", resample, 0, MOST_REPEATS)
    if resample and steps == 1:
        raise InputError(f"resample is {resample}; with 1 step there is no later one to repeat; give 0, or a model of more steps")
    return masks > 0.5
