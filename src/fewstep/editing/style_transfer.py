"""Style transfer (2210.03142, section 4): a picture is encoded to noise under one condition and decoded under another."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.data.images import into_model
from fewstep.errors import InputError, shown
from fewstep.files import path_of
from fewstep.method import samplers
from fewstep.method.conditioning import Condition
from fewstep.models.metadata import INFO, rungs_in
from fewstep.models.model import Model
from fewstep.models.pretrained import open_model
from fewstep.models.sampling import Progress, Samples, SamplingPlan, sample_in_batches


@torch.no_grad()
def translate(
    decoder: Model,
    encoder: Model,
    images: Tensor,
    from_condition: Any,
    to_condition: Any,
    *,
    batch_size: int = 256,
    progress: Progress = lambda done: None,
    **choices: Any,
) -> Samples:
    """Images (n, c, h, w) in [-1, 1] as `decoder` draws them from the noise that `encoder` finds for them; conditions of n rows.

    `choices` as for `pair_of`; the decoder's guidance scale is the strength of the new style. What comes back has the code as its
    `noise`, and the `evaluations` of both models.

    Raises:
        InputError: models that do not belong together, a choice that one of them was not trained for, counts that do not agree.
    """
    pair = pair_of(decoder, encoder, **choices)
    codes, encoding = pair.encode(images, from_condition, batch_size)
    drawn, decoding = pair.decode(codes, to_condition, batch_size, progress)
    return Samples(codes, drawn, pair.decoding.steps, "deterministic", pair.evaluations, encoding + decoding, decoder.decode)


@torch.no_grad()
def interpolate(
    decoder: Model,
    encoder: Model,
    images: Tensor,
    from_condition: Any,
    to_condition: Any,
    *,
    frames: int = 8,
    batch_size: int = 256,
    progress: Progress = lambda done: None,
    **choices: Any,
) -> Samples:
    """`frames` pictures from the first to the second of images (2, c, h, w): their codes, one turned into the other, decoded.

    `from_condition` has 2 rows, `to_condition` one a frame; `choices` as for `pair_of`. `evaluations` are the decoder's alone, since
    the encoder's are made for the two ends only.

    Raises:
        InputError: not two images, fewer than two frames, or as for `translate`.
    """
    if len(images) != 2 or frames < 2:
        raise InputError(f"there are {len(images)} images and {frames} frames; give 2 images and 2 frames or more")
    pair = pair_of(decoder, encoder, **choices)
    (first, last), encoding = pair.encode(images, from_condition, batch_size)
    codes = torch.stack([turn(first, last, i / (frames - 1)) for i in range(frames)])
    (drawn, seconds), plan = pair.decode(codes, to_condition, batch_size, progress), pair.decoding
    return Samples(codes, drawn, plan.steps, "deterministic", plan.steps * plan.evaluations, encoding + seconds, decoder.decode)


@dataclass(frozen=True)
class Pair:
    """Two models that belong together, each with its checked choices."""

    decoder: Model
    encoder: Model
    decoding: SamplingPlan
    encoding: SamplingPlan

    @property
    def evaluations(self) -> int:
        """Of both networks, for each image."""
        return sum(plan.steps * plan.evaluations for plan in (self.encoding, self.decoding))

    def encode(self, images: Tensor, condition: Any, batch_size: int) -> tuple[Tensor, float]:
        """The noise, float32 (n, c, h, w), with the seconds in the network, that images (n, c, h, w) are carried to under a condition of n rows."""
        plan, x, device = self.encoding, into_model(self.encoder, images), self.encoder.denoiser.device

        def draw(_images: range, rows: Condition, x: Tensor) -> Tensor:
            return samplers.encode(plan.estimate, x, plan.steps, rows, plan.weights(x), plan.process)

        return sample_in_batches(draw, (x,), condition, batch_size=batch_size, device=device)

    def decode(self, codes: Tensor, condition: Any, batch_size: int, progress: Progress) -> tuple[Tensor, float]:
        """Samples, float32 (n, c, h, w), with the seconds in the network, of noise (n, c, h, w) under a condition of n rows."""
        batching = {"batch_size": batch_size, "device": self.decoder.denoiser.device, "progress": progress}

        def draw(_images: range, rows: Condition, z: Tensor) -> Tensor:
            return self.decoding.sample(z, rows, torch.randn_like)

        return sample_in_batches(draw, (codes,), condition, **batching)


def pair_of(
    decoder: Model,
    encoder: Model,
    *,
    guidance_scale: float | None = None,
    steps: int | None = None,
    encoder_steps: int | None = None,
    encoder_guidance_scale: float | None = None,
) -> Pair:
    """A decoder (student or teacher) and an encoder (an encoder, or a model that takes any number of steps), checked.

    Encoding is stable without guidance (section 4): without a scale it is 1, or the one baked in, of encoder and decoder alike.

    Raises:
        InputError: other channels, size or noise process; a choice that one of them was not trained for.
    """
    for what, ours, theirs in (
        ("channels", decoder.info.channels, encoder.info.channels),
        ("pixels a side", decoder.info.shape[1:], encoder.info.shape[1:]),
        ("noise processes", decoder.denoiser.process, encoder.denoiser.process),
    ):
        if ours != theirs:
            raise InputError(f"decoder and encoder have {what} {ours} and {theirs}; distil both from the same teacher")
    decoding = decoder.sampling_plan(steps, guidance_scale, "deterministic")
    return Pair(decoder, encoder, decoding, _encoding(encoder, encoder_steps, encoder_guidance_scale))


def _encoding(encoder: Model, steps: int | None, guidance_scale: float | None) -> SamplingPlan:
    trained = encoder.info.steps
    if trained is None:
        return encoder.sampling_plan(steps, guidance_scale, "deterministic")
    if encoder.info.kind != "encoder":
        raise InputError(
            f"the encoder is a student of {trained} steps from noise to data; name a run's encoder-NNNN, or the teacher"
        )
    if steps not in (None, trained):
        raise InputError(
            f"encoder steps is {shown(steps)}, but this encoder was trained for {trained}; name that, or another encoder"
        )
    return SamplingPlan(trained, "deterministic", encoder.denoiser.process, *encoder.branches(encoder.scale_or_own(guidance_scale)))


def turn(first: Tensor, last: Tensor, share: float) -> Tensor:
    """Spherical interpolation of two tensors of one shape: `first` at share 0, `last` at 1, as long as noise is in between."""
    cosine = (first.flatten() @ last.flatten()) / (first.norm() * last.norm())
    angle = cosine.clamp(-1, 1).acos()
    if not angle.sin() > 1e-6:  # the same direction, or opposite ones, between which no plane is given
        return torch.lerp(first, last, share)
    return (((1 - share) * angle).sin() * first + (share * angle).sin() * last) / angle.sin()


def open_encoder(
    path: str | Path, device: torch.device | str = "cpu", steps: int | None = None, variant: str | None = None
) -> Model:
    """The model of `encoder_folder`; an InputError as for that and for `open_model`."""
    return open_model(encoder_folder(path, steps), device, steps, variant=variant)


def encoder_folder(path: str | Path, steps: int | None = None) -> str | Path:
    """The folder of a run's encoder for `steps`, else of that of fewest; of what is no run, the path itself.

    Raises:
        InputError: the run has no such encoder.
    """
    run = path_of("encoder", path)
    if not (run / "recipe.toml").is_file() or (run / INFO).is_file():
        return path
    known = rungs_in(run, "encoder")
    if not known:
        raise InputError(f"run {run} has no encoder; distil one with --set encoder.ladder=[64,16,8], or name the teacher")
    if steps is not None and steps not in known:
        raise InputError(f"run {run} has no encoder of {steps} steps; it has {', '.join(map(str, sorted(known)))}")
    return known[steps or min(known)]
