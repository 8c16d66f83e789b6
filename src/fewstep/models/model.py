"""A model as users hold it: a denoiser, what is known about it, and sampling with every choice checked."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from fewstep.errors import InputError, nearest
from fewstep.method import samplers
from fewstep.method.conditioning import Condition, cycle, leaf, split, to
from fewstep.method.guidance import DenoiserFn, weight_of
from fewstep.models.denoiser import Denoiser
from fewstep.models.families import Family
from fewstep.models.metadata import Info
from fewstep.models.negative_prompts import fold_negative_prompt, with_negative_prompt

DECODED = 8  # latents at a time: a VAE takes more memory than the network


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

    def pictures(self) -> Tensor:
        """The samples as pictures (n, c, h, w), about -1 to 1."""
        return self.decode(self.samples)

    def images(self) -> list[Any]:
        """PIL images, clipped to the visible range."""
        return to_images(self.pictures())


@dataclass(frozen=True)
class Model:
    """A teacher, student or encoder that can be sampled; `fewstep.Model` adds what is done with pictures, and saving."""

    denoiser: Denoiser
    info: Info
    family: Family

    def sample(
        self,
        class_labels: Sequence[int | str] | None = None,
        num_images: int | None = None,
        *,
        prompts: Sequence[str] | str | None = None,
        negative_prompt: str | None = None,
        image: Any = None,
        mask: Any = None,
        **choices: Any,
    ) -> list[Any]:
        """PIL images, one a label or prompt, or `num_images` that go through them in turn; `choices` as for `sample_tensor`.

        Raises:
            InputError: an unknown class, what this model does not take, or a choice that it was not trained for.
        """
        condition = self.condition(class_labels, prompts, num_images, image=image, mask=mask)
        return self.with_negative_prompt(negative_prompt).sample_tensor(condition, **choices).images()

    @torch.no_grad()
    def sample_tensor(
        self,
        condition: Condition,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        noise: Tensor | None = None,
        sampler: str | None = None,
        batch_size: int = 256,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Samples:
        """Samples for labels (n,) or a tree (n, ...), from `noise` (n, c, h, w) or the seed; `progress(images done)` after each batch.

        Raises:
            InputError: steps, guidance scale or sampler that the model was not trained for; noise of another shape.
        """
        steps, sampler = self._check_steps(steps), self._check_sampler(sampler)
        estimate, w, per_step = self._branches(self.scale_or_own(guidance_scale))
        generator = torch.Generator().manual_seed(seed)
        shape = (len(leaf(condition)), *self.info.shape)
        noise = torch.randn(shape, generator=generator) if noise is None else noise
        if noise.shape != shape:
            raise InputError(f"noise has shape {tuple(noise.shape)}; {shape} is needed for these conditions")
        done, began, device = [], time.perf_counter(), self.denoiser.device
        for z, part in zip(noise.split(batch_size), split(condition, batch_size), strict=True):
            weights = None if w is None else torch.full((len(z),), w, device=device)
            arguments = (estimate, z.to(device), steps, to(part, device), weights, self.denoiser.process)
            x = samplers.stochastic(*arguments, generator) if sampler == "stochastic" else samplers.deterministic(*arguments)
            done.append(x.float().cpu())
            progress(sum(len(d) for d in done))
        seconds = time.perf_counter() - began
        return Samples(noise, torch.cat(done), steps, sampler, steps * per_step, seconds, self.decode)

    def scale_or_own(self, guidance_scale: float | None) -> float:
        """The scale, or without one that which is baked in, else 1."""
        if guidance_scale is not None:
            return guidance_scale
        return self.info.guidance_scale[0] if self.info.baked and self.info.guidance_scale else 1.0

    def condition(
        self,
        class_labels: Sequence[int | str] | None = None,
        prompts: Sequence[str] | str | None = None,
        num_images: int | None = None,
        **extra: Any,
    ) -> Condition:
        """The condition (n, ...) of labels or prompts, gone through in turn for `num_images`; `extra` may be image and mask.

        Raises:
            InputError: an unknown class, or what this model does not take.
        """
        extra = {name: value for name, value in extra.items() if value is not None}
        if self.info.condition == "class" and prompts is None and not extra:
            return self.labels(() if class_labels is None else class_labels, num_images)
        if class_labels is not None and self.info.condition == "text":
            raise InputError("this model takes prompts, no class labels; give prompts (--prompt)")
        words = [prompts] if isinstance(prompts, str) else list(prompts or ())
        if not words and self.info.condition == "text":
            raise InputError("no prompt is given; name at least one")
        condition = self.family.encode(words, self.denoiser.device, **extra)
        return cycle(condition, num_images) if num_images else condition

    def labels_or_prompts(self, words: Sequence[int | str] | int | str, count: int) -> Condition:
        """The condition (count, ...) of labels or of prompts, whichever the model takes, gone through in turn; one may stand alone."""
        words = [words] if isinstance(words, str | int) else words
        text = self.info.condition == "text"
        return self.condition(None, [str(word) for word in words], count) if text else self.condition(words, None, count)

    def with_negative_prompt(self, negative_prompt: str | None) -> Self:
        """The same teacher, or student that learnt to take one, guided away from a prompt in place of the empty one.

        Raises:
            InputError: another student, which has one branch alone, or a model without text.
        """
        if negative_prompt is None:
            return self
        return replace(self, denoiser=with_negative_prompt(self.denoiser, self.info, self.family, negative_prompt))

    def fold_negative_prompt(self, plain: bool = False) -> Self:
        """The model with its chosen negative prompt in a bias; to be `plain`, always without the layer for one. The samples are the same."""
        denoiser = fold_negative_prompt(self.denoiser, self.family, plain)
        if denoiser is self.denoiser:
            return self
        return replace(self, denoiser=denoiser, info=self.info.model_copy(update={"negative_prompts": False}))

    def example(self, n: int) -> Condition:
        """Some condition (n, ...) of the right shape, always the same."""
        return self.family.example(self.denoiser.network, self.info, n)

    @torch.no_grad()
    def decode(self, samples: Tensor) -> Tensor:
        """Pictures (n, c, h, w), on the CPU, of what the network denoises."""
        if not self.info.image_size:
            return samples
        device = self.denoiser.device
        return torch.cat([self.family.to_images(part.to(device)).cpu() for part in samples.split(DECODED)])

    def bake(self, guidance_scale: float) -> Self:
        """A plain model of one scale, with exactly the samples of this student at that scale: it runs wherever the teacher's does.

        Raises:
            InputError: not a student with an input for w, or a scale outside its range.
        """
        if not self.info.takes_w:
            raise InputError("only a student that takes a guidance scale can have one baked in; name such a student")
        self._branches(guidance_scale)
        plain = self.fold_negative_prompt(plain=True)
        network = self.family.bake(plain.denoiser.network, guidance_scale)
        info = plain.info.model_copy(update={"guidance_scale": (guidance_scale, guidance_scale), "baked": True})
        return replace(plain, denoiser=replace(plain.denoiser, network=network), info=info)

    def _branches(self, guidance_scale: float) -> tuple[DenoiserFn, float | None, int]:
        """The denoiser to call, the weight to give it, and its evaluations a step."""
        if not isinstance(guidance_scale, int | float) or not -1e6 < guidance_scale < 1e6:
            raise InputError(f"guidance_scale is {guidance_scale!r}; a finite number is needed")
        if self.info.kind == "teacher":
            return (self.denoiser, None, 1) if guidance_scale == 1 else (self.denoiser.guided(), weight_of(guidance_scale), 2)
        low, high = self.info.guidance_scale or (guidance_scale, guidance_scale)
        if not low <= guidance_scale <= high:
            raise InputError(
                f"guidance_scale {guidance_scale:g} is outside the range {low:g} to {high:g} that this student was trained for"
            )
        return self.denoiser, None if self.info.baked else weight_of(guidance_scale), 1

    def _check_steps(self, steps: int | None) -> int:
        if self.info.kind == "encoder":
            raise InputError("this is an encoder: it carries images to noise and draws none; name a student or a teacher")
        steps = steps or self.info.steps or 64
        if self.info.steps is None:
            limit = self.denoiser.process.train_timesteps
            if not 1 <= steps <= limit:
                raise InputError(f"steps is {steps}; this model takes 1 to {limit}")
        elif steps != self.info.steps:
            raise InputError(
                f"steps is {steps}, but this student was trained for {self.info.steps}; name that, or the run's folder steps-{steps:04d}"
            )
        return steps

    def _check_sampler(self, sampler: str | None) -> str:
        sampler = sampler or self.info.sampler
        if sampler not in ("deterministic", "stochastic"):
            raise InputError(f"sampler {sampler!r} is not known; known: deterministic, stochastic")
        if self.info.steps is not None and sampler != self.info.sampler:
            raise InputError(
                f"sampler is {sampler}, but this student was trained for the {self.info.sampler} one; distil with stage_two.sampler = '{sampler}'"
            )
        return sampler

    def labels(self, class_labels: Sequence[int | str], num_images: int | None = None) -> Tensor:
        """Labels int64 (n,) of classes given by name or by number; with `num_images` so many, going through them in turn.

        Raises:
            InputError: an unknown class, or none.
        """
        if isinstance(class_labels, str | int):
            class_labels = [class_labels]
        if not len(class_labels):
            raise InputError("no class label is given; name at least one")
        labels = torch.tensor([self._label(label) for label in class_labels])
        return labels.repeat(-(-num_images // len(labels)))[:num_images] if num_images else labels

    def _label(self, label: int | str) -> int:
        classes = self.info.classes
        if str(label) in classes:
            return classes.index(str(label))
        if str(label).isdecimal() and int(label) < len(classes):
            return int(label)
        raise InputError(f"class '{label}' is not known; {nearest(str(label), classes)} (or a number 0 to {len(classes) - 1})")

    def to(self, device: torch.device | str) -> Self:
        """The same model, its network moved to `device`."""
        self.denoiser.network.to(device)
        return self


def to_images(x: Tensor) -> list[Any]:
    """PIL images (mode L or RGB) of x (n, c, h, w) in [-1, 1]; what is outside is clipped. Of videos (n, c, frames, h, w), lists of them."""
    from PIL import Image

    if x.ndim == 5:
        return [to_images(video.transpose(0, 1)) for video in x]
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(p.squeeze(2) if p.shape[2] == 1 else p) for p in pixels]
