"""One sampling run: what was chosen, its noise, the loop over batches, and the samples that it gives."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.errors import InputError, as_input_error, check_whole_number, shown
from fewstep.method import samplers
from fewstep.method.conditioning import Condition, split, to
from fewstep.method.guidance import DenoiserFn
from fewstep.method.process import Process
from fewstep.models.sounds import Sound

LARGEST_SEED = 2**63 - 1

Draw = Callable[..., Tensor]  # (images: their places among all, condition, *inputs) -> results (b, ...)
Progress = Callable[[int], None]  # called with the number of images done


@dataclass(frozen=True)
class Samples:
    """`samples` (n, c, h, w) as the network gave them, pixels or latents, not clipped, with the `noise` they came from."""

    noise: Tensor
    samples: Tensor
    steps: int
    sampler: str
    evaluations: int  # of the network, for each image
    seconds: float  # for all images, in the network
    decode: Callable[[Tensor], Tensor] = lambda samples: samples
    sampling_rate: int | None = None  # of sounds

    def pictures(self) -> Tensor:
        """The samples as pictures (n, c, h, w), or sounds (n, channels, samples), about -1 to 1."""
        return self.decode(self.samples)

    def images(self) -> list[Any]:
        """PIL images, clipped to the visible range; of a model of sounds each a `Sound`."""
        if self.sampling_rate is not None:
            return [Sound(samples.float(), self.sampling_rate) for samples in self.pictures()]
        return to_images(self.pictures())


@dataclass(frozen=True)
class SamplingPlan:
    """Checked choices of sampling: the denoiser to call, its weight, and its evaluations a step."""

    steps: int
    sampler: str
    process: Process
    estimate: DenoiserFn
    w: float | None
    evaluations: int

    def weights(self, like: Tensor) -> Tensor | None:
        """w (b,) for a batch `like` (b, ...); None where the network takes none."""
        return None if self.w is None else torch.full((len(like),), self.w, device=like.device)

    def sample(self, z: Tensor, condition: Condition, fresh: samplers.Noise, start: int | None = None) -> Tensor:
        """Samples (b, ...), float64, from noise z (b, ...), or from noisy data at t = start/N; `fresh` is for the stochastic sampler."""
        arguments = (self.estimate, z, self.steps, condition, self.weights(z), self.process)
        if self.sampler == "stochastic":
            return samplers.stochastic(*arguments, fresh, start)
        return samplers.deterministic(*arguments, start)


def initial_noise(shape: tuple[int, ...], seed: int, noise: Tensor | None = None) -> Tensor:
    """`noise`, or float32 noise of this shape (n, ...), on the CPU, drawn for all images at once.

    Raises:
        InputError: a seed that is not a whole number from 0 to 2^63 - 1; noise of another shape, or that is not finite.
    """
    check_whole_number("seed", seed, 0, LARGEST_SEED)
    if noise is None:
        with as_input_error(f"no noise for {shape[0]} images", "ask for fewer"):  # more than the memory holds
            return torch.randn(shape, generator=torch.Generator().manual_seed(int(seed)))
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise InputError(f"noise is {shown(noise)}; give a tensor of floats from a normal distribution")
    if noise.shape != shape:
        raise InputError(f"noise has shape {tuple(noise.shape)}; {tuple(shape)} is needed for these images")
    if not noise.isfinite().all():
        raise InputError("noise holds numbers that are not finite; give float numbers from a normal distribution")
    return noise


def fresh_noise(seed: int, images: Iterable[int]) -> samplers.Noise:
    """A function that gives each of these images (their places among all of a seed) its next noise: like (b, ...) -> (b, ...).

    An image's noise is a function of (seed, image, how often it was asked), whatever the batches. Drawn in float32 on the CPU.
    """
    streams = [np.random.Generator(np.random.Philox(key=np.array([seed, image], dtype=np.uint64))) for image in images]

    def fresh(like: Tensor) -> Tensor:
        drawn = [stream.standard_normal(like.shape[1:], dtype=np.float32) for stream in streams]
        return torch.from_numpy(np.stack(drawn)).to(like)

    return fresh


def sample_in_batches(
    draw: Draw,
    inputs: tuple[Tensor, ...],
    condition: Condition,
    *,
    batch_size: int,
    device: torch.device,
    progress: Progress = lambda done: None,
) -> tuple[Tensor, float]:
    """(results, float32 (n, ...) on the CPU; seconds) of `draw(images, condition, *inputs)`, called on `device` batch by batch.

    `images` is the range of the batch's places among the n rows of inputs and condition; `progress(images done)` follows each batch.

    Raises:
        InputError: a batch size below 1, no image, or a condition of another number of rows.
    """
    check_whole_number("batch_size", batch_size, 1)
    n, leaves = len(inputs[0]), condition.values() if isinstance(condition, dict) else [condition]
    check_whole_number("the number of images", n, 1)
    batch_size = min(int(batch_size), n)
    for rows in map(len, leaves):
        if rows != n:
            raise InputError(f"there are {n} images and {rows} conditions; give one condition an image")
    done, began = [], time.perf_counter()
    parts = zip(*(tensor.split(batch_size) for tensor in inputs), strict=True)
    for start, part, rows in zip(range(0, n, batch_size), parts, split(condition, batch_size), strict=True):
        images = range(start, start + len(part[0]))
        done.append(draw(images, to(rows, device), *(tensor.to(device) for tensor in part)).float().cpu())
        progress(images.stop)
    return torch.cat(done), time.perf_counter() - began


def to_images(x: Tensor) -> list[Any]:
    """PIL images (mode L or RGB) of x (n, c, h, w) in [-1, 1]; what is outside is clipped. Of videos (n, c, frames, h, w), lists of them."""
    from PIL import Image

    if x.ndim == 5:
        return [to_images(video.transpose(0, 1)) for video in x]
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(p.squeeze(2) if p.shape[2] == 1 else p) for p in pixels]
