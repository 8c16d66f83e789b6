"""What the page's tabs do with the models. Every answer is pictures with captions, and the record of what draws them again.

Each task raises an InputError where a choice is outside its bounds, or where a picture, a teacher or an encoder is missing.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count as counting
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.api import Model
from fewstep.editing import inpainting, sdedit, style_transfer
from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.sampling import Samples, to_images
from fewstep.playground.models import LARGE, SEEDS, Models, checked
from fewstep.playground.pictures import mask_of, pixels_of

TEACHER_STEPS = 64  # of the teacher's pictures beside, and of a teacher that encodes
SWEPT = 7  # scales of a sweep
STRIP = 8  # seeds of a strip of variety; of large pictures 4

Progress = Callable[[int, int], None]  # called with the steps taken, and with how many there are; what it raises ends the work


def no_progress(taken: int, steps: int) -> None:
    """Nothing is shown."""


@dataclass(frozen=True)
class Group:
    """A line of PIL images of the model's size, each with its caption."""

    title: str
    images: list[Any]
    captions: list[str]


@dataclass(frozen=True)
class Answer:
    """The pictures, the settings that draw them again (`record`), the pictures that it started with by file name, noise and warnings."""

    groups: list[Group]
    record: dict[str, Any]
    inputs: dict[str, Any] = field(default_factory=dict)
    noise: Tensor | None = None
    notes: tuple[str, ...] = ()
    asked: tuple[Any, ...] = ()  # the values of the request


def generate(
    models: Models, labels: list[str] | str, steps: int, guidance_scale: float | list[float], seed: int, count: int, sampler: str | None = None,
    progress: Progress = no_progress,
) -> Answer:  # fmt: skip
    """Images from the seed's noise; `labels` are classes or prompts, `guidance_scale` may be one for each step."""
    labels, choices = checked(models, labels, steps, guidance_scale, seed, sampler, count)
    choices["batch_size"], notes = _batch_size(models), []
    [model] = watched(progress, steps * -(-len(labels) // choices["batch_size"]), models.by_steps[steps].model)
    drawn = model.sample_tensor(condition_of(model, labels, notes), **choices)
    group = _group(f"{model.info.kind}, {steps} step{'s' if steps > 1 else ''}", labels, drawn)
    return Answer([group], _record(models, "sample", labels, choices), noise=drawn.noise, notes=tuple(notes))


def preview(
    models: Models, labels: list[str] | str, guidance_scale: float, seed: int, sampler: str | None = None, progress: Progress = no_progress
) -> Answer:  # fmt: skip
    """The first picture of `generate` in the fewest steps that there is a model for."""
    return generate(models, labels, min(models.by_steps), guidance_scale, seed, 1, sampler, progress)


def strip(
    models: Models, labels: list[str] | str, steps: int, guidance_scale: float | list[float], seed: int, sampler: str | None = None,
    progress: Progress = no_progress,
) -> Answer:  # fmt: skip
    """The first class or prompt from several seeds, `seed` and those after it: how much it varies."""
    label, choices = checked(models, labels, steps, guidance_scale, seed, sampler)
    choices["batch_size"], count = _batch_size(models), min(STRIP, models.most)
    seeds = [(choices["seed"] + i) % SEEDS for i in range(count)]
    [model], notes = watched(progress, steps * count, models.by_steps[steps].model), []
    condition = condition_of(model, label, notes)
    drawn = [model.sample_tensor(condition, **{**choices, "seed": one}) for one in seeds]
    captions = [_caption(f"seed {one}", samples) for one, samples in zip(seeds, drawn, strict=True)]
    group = Group(f"{label[0]}, from {count} seeds", [samples.images()[0] for samples in drawn], captions)
    record = _record(models, "strip", label, choices | {"seed": seeds})
    return Answer([group], record, noise=torch.cat([samples.noise for samples in drawn]), notes=tuple(notes))


def with_teacher(models: Models, answer: Answer, progress: Progress = no_progress) -> Answer:
    """The answer of `generate` or `strip` with the teacher's images from the same noise under it.

    Of scales for each of a student's steps the teacher takes that of the step within which its own lies.
    """
    if models.teacher is None:
        raise InputError("there is no teacher here; start the playground again with --teacher FOLDER")
    own, captions = models.teacher.model, [caption.rsplit(" · ", 2)[0] for caption in answer.groups[0].captions]
    steps, scale, size = (
        min(TEACHER_STEPS, own.denoiser.process.train_timesteps),
        answer.record["guidance_scale"],
        answer.record["batch_size"],
    )
    if isinstance(scale, list):
        scale = [scale[i * len(scale) // steps] for i in range(steps)]
    [teacher] = watched(progress, steps * -(-len(captions) // size), own)
    condition = condition_of(teacher, answer.record["labels_or_prompts"], [], len(captions))
    drawn = teacher.sample_tensor(condition, steps=steps, noise=answer.noise, guidance_scale=scale, batch_size=size)
    group = _group(f"teacher, {steps} steps, from the same noise", captions, drawn)
    return replace(answer, groups=[*answer.groups, group], notes=())


def sweep(
    models: Models, labels: list[str] | str, steps: int, seed: int, sampler: str | None = None, progress: Progress = no_progress
) -> Answer:
    """The first class or prompt at scales over the whole range, from one noise."""
    low, high = models.scales
    label, choices = checked(models, labels, steps, low, seed, sampler)
    scales = [round(low + (high - low) * i / (SWEPT - 1), 2) for i in range(SWEPT)] if high > low else [low]
    [model], notes = watched(progress, steps * len(scales), models.by_steps[steps].model), []
    condition = condition_of(model, label, notes)
    drawn = [model.sample_tensor(condition, **{**choices, "guidance_scale": scale}) for scale in scales]
    captions = [_caption(f"{label[0]} · scale {scale:g}", one) for scale, one in zip(scales, drawn, strict=True)]
    group = Group("guidance scale over its range, from one noise", [one.images()[0] for one in drawn], captions)
    return Answer([group], _record(models, "sweep", label, choices | {"guidance_scale": scales}), notes=tuple(notes))


def edit(
    models: Models, image: Any, label: str, strength: float, steps: int, guidance_scale: float, seed: int,
    sampler: str | None = None, progress: Progress = no_progress,
) -> Answer:  # fmt: skip
    """A picture (a file, or a PIL image) redrawn under a class or prompt, at a strength on the grid of the steps."""
    notes: list[str] = []
    labels, choices = checked(models, label, steps, guidance_scale, seed, sampler)
    start = sdedit.start_of(strength, steps, notes.append)
    choices: dict[str, Any] = {"strength": start / steps, **choices}
    pixels = pixels_of(image, models.first.info, notes.append)
    [model] = watched(progress, start, models.by_steps[steps].model)
    drawn = sdedit.edit(model, pixels, condition_of(model, labels, notes), **choices)
    record = _record(models, "edit", labels, choices)
    return _changed(pixels, f"{labels[0]} · strength {start / steps:g}", drawn, record, notes)


def inpaint(
    models: Models, image: Any, mask: Any, label: str, steps: int, guidance_scale: float, seed: int,
    sampler: str | None = None, progress: Progress = no_progress,
) -> Answer:  # fmt: skip
    """A picture drawn anew where the mask (a PIL image, or the name of a half) is white; the rest comes back."""
    models, notes = models.for_inpainting, []
    labels, choices = checked(models, label, steps, guidance_scale, seed, sampler)
    pixels = pixels_of(image, models.first.info, notes.append)
    masks, [model] = mask_of(mask, pixels.shape[-1]), watched(progress, steps, models.by_steps[steps].model)
    drawn = inpainting.inpaint(model, pixels, masks, inpainting.condition_of(model, pixels, masks, labels), **choices)
    record = _record(models, "inpaint", labels, choices)
    return _changed(pixels, labels[0], drawn, record, notes, {"mask.png": to_images(masks * 2.0 - 1)[0]})


def translate(
    models: Models, image: Any, source: str, target: str, steps: int, guidance_scale: float, progress: Progress = no_progress
) -> Answer:
    """A picture carried to noise under `source` and back under `target`, both a class or a prompt."""
    if models.encoder is None:
        raise InputError("style transfer needs an encoder; start the playground again with --encoder or --teacher")
    notes, own = [], models.encoder.model
    if not isinstance(source, str) or not source.strip():
        raise InputError("nothing is said of what the picture shows; fill in From")
    labels, choices = checked(models, target, steps, guidance_scale, 0)
    labels = [source.strip(), *labels]
    pixels = pixels_of(image, models.first.info, notes.append)
    encoder_steps = own.info.steps or min(TEACHER_STEPS, own.denoiser.process.train_timesteps)
    model, encoder = watched(progress, encoder_steps + steps, models.by_steps[steps].model, own)
    choices = {"steps": choices["steps"], "encoder_steps": encoder_steps, "guidance_scale": choices["guidance_scale"]}
    conditions = condition_of(encoder, labels[:1], notes), condition_of(model, labels[1:], notes)
    drawn = style_transfer.translate(model, encoder, pixels, *conditions, **choices)
    record = _record(models, "translate", labels, {"encoder": models.encoder.path} | choices)
    return _changed(pixels, f"{labels[0]} to {labels[1]}", drawn, record, notes)


def watched(progress: Progress, steps: int, *models: Model) -> list[Model]:
    """The models, which together call `progress` after each of so many steps; a guided teacher's two evaluations are one step."""
    taken = counting(1)

    def counted(model: Model) -> Model:
        def call(network: nn.Module, *given: Any) -> Tensor:
            output = model.denoiser.call(network, *given)
            progress(next(taken), steps)
            return output

        return replace(model, denoiser=replace(model.denoiser, call=call))

    return [counted(model) for model in models]


def condition_of(model: Model, labels: list[str], notes: list[str], count: int | None = None) -> Condition:
    """The condition (n, ...) of n classes or prompts, or of `count`; warnings, as of a prompt that is cut, are added to `notes`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        condition = model.labels_or_prompts(labels, count or len(labels))
    notes += dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning))
    return condition


def _batch_size(models: Models) -> int:
    """Images at a time: large ones one by one, for their memory."""
    return 256 if models.first.info.picture[1] <= LARGE else 1


def _caption(label: str, drawn: Samples) -> str:
    """The label, evaluations of the network for an image, and its share of the time."""
    plural = "" if drawn.evaluations == 1 else "s"
    return f"{label} · {drawn.evaluations} evaluation{plural} · {1000 * drawn.seconds / len(drawn.samples):.1f} ms"


def _group(title: str, labels: list[str], drawn: Samples) -> Group:
    return Group(title, drawn.images(), [_caption(label, drawn) for label in labels])


def _record(models: Models, task: str, labels: list[str], choices: dict[str, Any]) -> dict[str, Any]:
    """What draws the answer again; `run` says that the model's path is a run folder, of which the steps choose a student."""
    opened = models.by_steps[choices["steps"]]
    record = {"task": task, "model": opened.path, "labels_or_prompts": labels, "condition": models.first.info.condition}
    return record | ({"run": True} if opened.steps else {}) | choices


def _changed(
    pixels: Tensor, label: str, drawn: Samples, record: dict[str, Any], notes: list[str], inputs: dict[str, Any] | None = None
) -> Answer:
    """The answer of a picture (1, c, h, w), with its mask where there is one, and what became of it."""
    before = {"input.png": to_images(pixels)[0]} | (inputs or {})
    captions = ["before", *(["mask"] if inputs else []), _caption(label, drawn)]
    group = Group("before and after", [*before.values(), *drawn.images()], captions)
    return Answer([group], record, before, drawn.noise, tuple(notes))
