"""A model as users hold it: a denoiser, what is known about it, and sampling with every choice checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Self

import torch
from torch import Tensor

from fewstep.errors import InputError, check_choice, check_text, check_whole_number, shown
from fewstep.method.conditioning import Condition, cycle, leaf
from fewstep.method.guidance import DenoiserFn, Rule, weight_by_step, weight_of
from fewstep.method.guidance_rules import rule_of, rule_settings
from fewstep.models.denoiser import Denoiser
from fewstep.models.families import Family
from fewstep.models.labels import as_list, check_condition, label_of
from fewstep.models.metadata import Info
from fewstep.models.negative_prompts import NegativeCall, NegativePrompts, fold_negative_prompt
from fewstep.models.sampling import Progress, Samples, SamplingPlan, fresh_noise, initial_noise, sample_in_batches

DEFAULT_STEPS = 64  # of a model that takes any number
MOST_IMAGES = 10_000_000  # of one call
DECODED = 8  # latents at a time: a VAE takes more memory than the network


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
        """PIL images (of a model of sounds each a `Sound`), one a label or prompt, or `num_images` that go through them in turn.

        `choices` are as for `sample_tensor`.

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
        guidance_scale: float | Sequence[float] | None = None,
        seed: int = 0,
        noise: Tensor | None = None,
        sampler: str | None = None,
        batch_size: int = 256,
        progress: Progress = lambda done: None,
    ) -> Samples:
        """Samples for labels (n,) or a tree (n, ...), from `noise` (n, c, h, w) or the seed; `progress(images done)` after each batch.

        `guidance_scale` is one number, or one for each step, the first at t = 1. An image is a function of its seed, place and
        condition, whatever the batch size.

        Raises:
            InputError: steps, guidance scale or sampler that the model was not trained for; a seed, noise or batch size that is no such.
        """
        plan = self.sampling_plan(steps, guidance_scale, sampler)
        check_condition(condition, self.info)
        noise = initial_noise((len(leaf(condition)), *self.info.shape), seed, noise)

        def draw(images: range, part: Condition, z: Tensor) -> Tensor:
            return plan.sample(z, part, fresh_noise(seed, images))

        batches = {"batch_size": batch_size, "device": self.denoiser.device, "progress": progress}
        samples, seconds = sample_in_batches(draw, (noise,), condition, **batches)
        return Samples(
            noise, samples, plan.steps, plan.sampler, plan.steps * plan.evaluations, seconds, self.decode, self.info.sampling_rate
        )

    def sampling_plan(
        self, steps: int | None = None, guidance_scale: float | Sequence[float] | None = None, sampler: str | None = None
    ) -> SamplingPlan:
        """The checked choices of sampling; without one of them the model's own: its steps (64 of a teacher), its scale or 1, its sampler.

        Raises:
            InputError: steps, a guidance scale or a sampler that the model was not trained for.
        """
        steps, sampler = self._steps(steps), self._sampler(sampler)
        scale, process = self.scale_or_own(guidance_scale), self.denoiser.process
        if isinstance(scale, str) or not isinstance(scale, Sequence):
            return SamplingPlan(steps, sampler, process, *self.branches(scale))
        if len(scale) != steps:
            raise InputError(f"there are {len(scale)} guidance scales for {steps} steps; give one, or one a step")
        branches = [self.branches(one) for one in scale]
        estimate, w, evaluations = max(branches, key=lambda branch: branch[2])  # guided where any step is
        if w is not None:
            estimate = weight_by_step(estimate, [0.0 if w is None else w for _, w, _ in branches])
        return SamplingPlan(steps, sampler, process, estimate, w, evaluations)

    def scale_or_own(self, guidance_scale: float | Sequence[float] | None) -> float | Sequence[float]:
        """The scale, or the list of one a step; without one that which is baked in, else 1."""
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
        if num_images is not None:
            check_whole_number("num_images", num_images, 1, MOST_IMAGES)
        for prompt in (words := as_list(prompts)):
            check_text("a prompt", prompt)
        extra, text = {name: value for name, value in extra.items() if value is not None}, self.info.condition == "text"
        if text and class_labels is not None:
            raise InputError("this model takes prompts, no class labels; give prompts (--prompt)")
        if text and not words:
            raise InputError("no prompt is given; name at least one")
        if text or prompts is not None or extra:
            condition = self.family.encode(words, self.denoiser.device, **(self.family.size_arguments(self.info) | extra))
        else:
            condition = self.labels(class_labels)
        return cycle(condition, int(num_images)) if num_images else condition

    def labels_or_prompts(self, words: Sequence[int | str] | int | str, count: int) -> Condition:
        """The condition (count, ...) of labels or of prompts, whichever the model takes, gone through in turn; one may stand alone."""
        text = self.info.condition == "text"
        return self.condition(None, list(map(str, as_list(words))), count) if text else self.condition(as_list(words), None, count)

    def labels(self, class_labels: Sequence[int | str] | int | str | None) -> Tensor:
        """Labels int64 (n,) of classes given by name (text), or by index: a number, or text as "#3".

        Text is a name first; "3" is an index too where no class has a number for its name.

        Raises:
            InputError: an unknown class, or none.
        """
        if not (labels := [label_of(label, self.info.classes) for label in as_list(class_labels)]):
            raise InputError("no class label is given; name at least one")
        return torch.tensor(labels)

    def with_negative_prompt(self, negative_prompt: str | None) -> Self:
        """The same teacher, or student that learnt to take one, guided away from a prompt in place of the empty one.

        Raises:
            InputError: another student, which has one branch alone, or a model without text.
        """
        if negative_prompt is None:
            return self
        info, family, call = self.info, self.family, self.denoiser.call
        check_text("the negative prompt", negative_prompt)
        if info.condition != "text":
            raise InputError("this model takes class labels, and a negative prompt is for models of text; leave it out")
        if info.kind == "teacher":
            return replace(self, denoiser=replace(self.denoiser, null=family.null(info, negative_prompt)))
        if not isinstance(call, NegativeCall):
            raise InputError(
                "a negative prompt needs the second branch that a distilled student has not; leave it out, sample the teacher, or distil "
                "with student.negative_prompts = true"
            )
        chosen = NegativePrompts.encode(family, info, [negative_prompt]).summaries[1:]
        return replace(self, denoiser=replace(self.denoiser, call=replace(call, chosen=chosen)))

    def with_guidance(self, rule: "Rule | dict[str, Any]", weak: "Model | None" = None) -> Self:
        """The same teacher, its branches combined by another rule: a function X^w(x, x_null, w, t), or the settings of a known one.

        With a `weak` model its estimate for the condition takes the place of the null branch (autoguidance, 2406.02507).

        Raises:
            InputError: a student or an encoder, an unknown rule, or a weak model of another process, shape or kind of condition.
        """
        if self.info.kind != "teacher":
            raise InputError(f"this is a {self.info.kind}, whose guidance is in its weights; give a rule to its teacher")
        found = rule_of(rule) if isinstance(rule, dict) else rule
        known = rule_settings(found)
        if weak is not None:
            for what in ("shape", "condition", "classes"):
                if getattr(weak.info, what) != getattr(self.info, what):
                    raise InputError(f"the weak model's {what} is not the teacher's; name a weaker model of the same data")
            if weak.denoiser.process != self.denoiser.process:
                raise InputError(
                    "the weak model's noise process is not the teacher's; name a weaker model trained with the same one"
                )
            known |= {"weak": str(weak.family.folder or "from Python")}
        denoiser = replace(self.denoiser, rule=found, weak=None if weak is None else weak.denoiser)
        return replace(self, denoiser=denoiser, info=self.info.model_copy(update={"guidance": known}))

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
        """Pictures (n, c, h, w) or sounds (n, channels, samples), on the CPU, of what the network denoises."""
        if not self.info.image_size:
            return samples
        device, together = self.denoiser.device, 1 if self.info.makes_sounds else DECODED
        whole = torch.cat([self.family.to_images(part.to(device)).cpu() for part in samples.split(together)])
        return whole[:, :, : self.info.image_size] if self.info.makes_sounds else whole

    def bake(self, guidance_scale: float) -> Self:
        """A plain model of one scale, with exactly the samples of this student at that scale: it runs wherever the teacher's does.

        Raises:
            InputError: not a student with an input for w, or a scale outside its range.
        """
        if not self.info.takes_w:
            raise InputError("only a student that takes a guidance scale can have one baked in; name such a student")
        self.branches(guidance_scale)
        guidance_scale = guidance_scale if isinstance(guidance_scale, int | float) else float(guidance_scale)
        plain = self.fold_negative_prompt(plain=True)
        network = self.family.bake(plain.denoiser.network, guidance_scale)
        info = plain.info.model_copy(update={"guidance_scale": (guidance_scale, guidance_scale), "baked": True})
        return replace(plain, denoiser=replace(plain.denoiser, network=network), info=info)

    def branches(self, guidance_scale: float | Sequence[float]) -> tuple[DenoiserFn, float | None, int]:
        """The denoiser to call, the weight w to give it (None: it takes none), and its evaluations a step.

        Raises:
            InputError: a scale that is not finite, or outside the range that a student was trained for.
        """
        if not isinstance(guidance_scale, Real) or not -1e6 < guidance_scale < 1e6:  # pyright: ignore[reportOperatorIssue]
            raise InputError(f"guidance_scale is {shown(guidance_scale)}; a finite number is needed")
        guidance_scale = float(guidance_scale)
        if self.info.kind == "teacher":
            return (self.denoiser, None, 1) if guidance_scale == 1 else (self.denoiser.guided(), weight_of(guidance_scale), 2)
        low, high = self.info.guidance_scale or (guidance_scale, guidance_scale)
        if not low <= guidance_scale <= high:
            raise InputError(
                f"guidance_scale {guidance_scale:g} is outside the range {low:g} to {high:g} that this student was trained for"
            )
        return self.denoiser, None if self.info.baked else weight_of(guidance_scale), 1

    def _steps(self, steps: int | None) -> int:
        if self.info.kind == "encoder":
            raise InputError("this is an encoder: it carries images to noise and draws none; name a student or a teacher")
        if steps is None:
            return self.info.steps or DEFAULT_STEPS
        if self.info.steps is None:
            check_whole_number("steps", steps, 1, self.denoiser.process.train_timesteps)
        elif not isinstance(steps, Integral) or steps != self.info.steps:
            raise InputError(
                f"steps is {shown(steps)}, but this student was trained for {self.info.steps}; name that, or another student of its run"
            )
        return steps

    def _sampler(self, sampler: str | None) -> str:
        sampler = self.info.sampler if sampler is None else sampler
        check_choice("sampler", sampler, ("deterministic", "stochastic"))
        if self.info.steps is not None and sampler != self.info.sampler:
            raise InputError(
                f"sampler is {sampler}, but this student was trained for the {self.info.sampler} one; distil with stage_two.sampler = '{sampler}'"
            )
        return sampler

    def to(self, device: torch.device | str) -> Self:
        """The same model, its network moved to `device`."""
        self.denoiser.network.to(device)
        if self.denoiser.weak is not None:
            self.denoiser.weak.network.to(device)
        return self
