"""What the playground draws: every answer is pictures with captions, and the record of what it takes to draw them again. No page here."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count as counting
from typing import Any

from torch import Tensor, nn

from fewstep.api import Model
from fewstep.editing import inpainting
from fewstep.editing import sdedit as editing
from fewstep.editing import style_transfer as translation
from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.sampling import Samples, to_images
from fewstep.playground.models import LARGE, Models, bounded, sampler_of
from fewstep.playground.pictures import mask_of, pixels_of

TEACHER_STEPS = 64  # of the teacher's pictures beside, and of a teacher that encodes
SWEPT = 7  # scales of a strip

Progress = Callable[[int, int], None]  # called with the steps taken, and with how many there are; what it raises ends the work


def unseen(taken: int, steps: int) -> None:
    """The progress that nobody watches."""


@dataclass(frozen=True)
class Group:
    """A line of pictures: PIL images of the model's size, each with its caption."""

    title: str
    images: list[Any]
    captions: list[str]


@dataclass(frozen=True)
class Answer:
    """What was drawn, what was asked (`record`), the pictures that it started with by file name, the noise, and what is to be said."""

    groups: list[Group]
    record: dict[str, Any]
    inputs: dict[str, Any] = field(default_factory=dict)
    noise: Tensor | None = None
    notes: tuple[str, ...] = ()


def caption(word: str, drawn: Samples) -> str:
    """What stands under a picture: evaluations of the network, and its share of the time."""
    plural = "" if drawn.evaluations == 1 else "s"
    return f"{word} · {drawn.evaluations} evaluation{plural} · {1000 * drawn.seconds / len(drawn.samples):.1f} ms"


def group_of(title: str, words: list[str], drawn: Samples) -> Group:
    """The pictures of samples, one a word."""
    return Group(title, drawn.images(), [caption(word, drawn) for word in words])


def batch_of(models: Models) -> int:
    """Images at a time: large ones one by one, for their memory."""
    return 256 if models.first.info.picture[1] <= LARGE else 1


def stepping(progress: Progress, steps: int) -> Callable[[], None]:
    """What tells `progress` of one more step, each time that it is called."""
    taken = counting(1)
    return lambda: progress(next(taken), steps)


def watched(model: Model, step: Callable[[], None]) -> Model:
    """The model, which calls `step` after each step; the two evaluations of a guided teacher's are one call of its network."""
    inner = model.denoiser.call

    def call(network: nn.Module, *given: Any) -> Tensor:
        output = inner(network, *given)
        step()
        return output

    return replace(model, denoiser=replace(model.denoiser, call=call))


def condition_of(model: Model, words: list[str], notes: list[str]) -> Condition:
    """The condition (n, ...) of words, one an image; what is warned of, as of a prompt that is cut, is noted for the page."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", UserWarning)
        condition = model.labels_or_prompts(words, len(words))
    notes += dict.fromkeys(str(one.message) for one in heard if issubclass(one.category, UserWarning))
    return condition


def generate(
    models: Models, words: list[str], steps: int, guidance_scale: float, seed: int, count: int, sampler: str | None = None,
    progress: Progress = unseen,
) -> Answer:  # fmt: skip
    """Images from the seed's noise.

    Raises:
        InputError: a choice outside its bounds.
    """
    words = bounded(models, words, steps, guidance_scale, seed, count)
    opened, batch = models.by_steps[steps], batch_of(models)
    model = watched(opened.model, stepping(progress, steps * -(-len(words) // batch)))
    choices: dict[str, Any] = {"steps": steps, "guidance_scale": float(guidance_scale), "seed": int(seed)} | sampler_of(
        models, sampler
    )
    notes: list[str] = []
    drawn = model.sample_tensor(condition_of(model, words, notes), batch_size=batch, **choices)
    title = f"{model.info.kind}, {steps} step{'s' if steps > 1 else ''}"
    record = _asked(models, "sample", words, steps) | choices | {"batch_size": batch}
    return Answer([group_of(title, words, drawn)], record, noise=drawn.noise, notes=tuple(notes))


def beside(models: Models, answer: Answer, progress: Progress = unseen) -> Answer:
    """The answer with the teacher's images from the same noise under it.

    Raises:
        InputError: there is no teacher, or it does not know one of the classes.
    """
    if models.teacher is None:
        raise InputError("there is no teacher here; start the playground again with --teacher FOLDER")
    words, batch, own = answer.record["words"], batch_of(models), models.teacher.model
    steps = min(TEACHER_STEPS, own.denoiser.process.train_timesteps)
    teacher = watched(own, stepping(progress, steps * -(-len(words) // batch)))
    condition, scale = condition_of(teacher, words, []), answer.record["guidance_scale"]
    drawn = teacher.sample_tensor(condition, steps=steps, guidance_scale=scale, noise=answer.noise, batch_size=batch)
    groups = [*answer.groups, group_of(f"teacher, {steps} steps, from the same noise", words, drawn)]
    return replace(answer, groups=groups, notes=())


def sweep(
    models: Models, words: list[str], steps: int, seed: int, sampler: str | None = None, progress: Progress = unseen
) -> Answer:
    """The first class or prompt at scales over the whole range, from one noise.

    Raises:
        InputError: a choice outside its bounds.
    """
    low, high = models.scales
    word = bounded(models, words, steps, low, seed)
    scales = [round(low + (high - low) * i / (SWEPT - 1), 2) for i in range(SWEPT)] if high > low else [low]
    model = watched(models.by_steps[steps].model, stepping(progress, steps * len(scales)))
    choices: dict[str, Any] = {"steps": steps, "seed": int(seed)} | sampler_of(models, sampler)
    notes: list[str] = []
    condition = condition_of(model, word, notes)
    drawn = [model.sample_tensor(condition, guidance_scale=scale, **choices) for scale in scales]
    captions = [caption(f"{word[0]} · scale {scale:g}", one) for scale, one in zip(scales, drawn, strict=True)]
    group = Group("guidance scale over its range, from one noise", [one.images()[0] for one in drawn], captions)
    return Answer([group], _asked(models, "sweep", word, steps) | choices | {"guidance_scale": scales}, notes=tuple(notes))


def redraw(
    models: Models, image: Any, words: list[str], strength: float, steps: int, guidance_scale: float, seed: int,
    sampler: str | None = None, progress: Progress = unseen,
) -> Answer:  # fmt: skip
    """A picture (a file, or an image of Pillow) redrawn under another class or prompt, at a strength on the grid of the steps.

    Raises:
        InputError: no picture, or a choice outside its bounds.
    """
    notes: list[str] = []
    word = bounded(models, words, steps, guidance_scale, seed)
    strength = editing.start_of(strength, steps, notes.append) / steps
    pixels = pixels_of(image, models.first.info, notes.append)
    model = watched(models.by_steps[steps].model, stepping(progress, round(strength * steps)))
    choices: dict[str, Any] = {"strength": strength, "steps": steps, "guidance_scale": float(guidance_scale), "seed": int(seed)}
    choices |= sampler_of(models, sampler)
    drawn = editing.edit(model, pixels, condition_of(model, word, notes), **choices)
    record = _asked(models, "edit", word, steps) | choices
    return _changed(pixels, f"{word[0]} · strength {strength:g}", drawn, record, notes)


def fill(
    models: Models, image: Any, mask: Any, words: list[str], steps: int, guidance_scale: float, seed: int,
    sampler: str | None = None, progress: Progress = unseen,
) -> Answer:  # fmt: skip
    """A picture drawn anew where the mask (a PIL image, or the name of a half) is white; the rest comes back.

    Raises:
        InputError: no picture, nothing painted, or a choice outside its bounds.
    """
    models, notes = models.filling, []
    word = bounded(models, words, steps, guidance_scale, seed)
    pixels = pixels_of(image, models.first.info, notes.append)
    masks, model = mask_of(mask, pixels.shape[-1]), watched(models.by_steps[steps].model, stepping(progress, steps))
    choices: dict[str, Any] = {"steps": steps, "guidance_scale": float(guidance_scale), "seed": int(seed)} | sampler_of(
        models, sampler
    )
    condition = inpainting.condition_of(model, pixels, masks, word)
    drawn = inpainting.inpaint(model, pixels, masks, condition, **choices)
    record = _asked(models, "inpaint", word, steps) | choices
    return _changed(pixels, word[0], drawn, record, notes, {"mask.png": to_images(masks * 2.0 - 1)[0]})


def restyle(
    models: Models, image: Any, source: str, target: str, steps: int, guidance_scale: float, progress: Progress = unseen
) -> Answer:  # fmt: skip
    """A picture carried to noise under `source` and back under `target`, both a class or a prompt.

    Raises:
        InputError: no picture, no encoder, or a choice outside its bounds.
    """
    if models.encoder is None:
        raise InputError("style transfer needs an encoder; start the playground again with --encoder or --teacher")
    notes: list[str] = []
    words = [str(source).strip(), bounded(models, [target], steps, guidance_scale, 0)[0]]
    if not words[0]:
        raise InputError("nothing is said of what the picture shows; fill in From")
    pixels, info = pixels_of(image, models.first.info, notes.append), models.encoder.model.info
    trained = info.steps or min(TEACHER_STEPS, models.encoder.model.denoiser.process.train_timesteps)
    step = stepping(progress, trained + steps)
    model, encoder = watched(models.by_steps[steps].model, step), watched(models.encoder.model, step)
    choices: dict[str, Any] = {"steps": steps, "encoder_steps": trained, "guidance_scale": float(guidance_scale)}
    conditions = condition_of(encoder, words[:1], notes), condition_of(model, words[1:], notes)
    drawn = translation.translate(model, encoder, pixels, *conditions, **choices)
    record = _asked(models, "translate", words, steps) | {"encoder": models.encoder.path} | choices
    return _changed(pixels, f"{words[0]} to {words[1]}", drawn, record, notes)


def _asked(models: Models, task: str, words: list[str], steps: int) -> dict[str, Any]:
    """What every record holds; `run` says that the model's path is a run, of which the steps choose."""
    opened = models.by_steps[steps]
    record = {"task": task, "model": opened.path, "words": words, "condition": models.first.info.condition}
    return record | ({"run": True} if opened.steps else {})


def _changed(
    pixels: Tensor, words: str, drawn: Samples, record: dict[str, Any], notes: list[str], inputs: dict[str, Any] | None = None
) -> Answer:
    """The answer of a picture with what became of it."""
    shown = {"input.png": to_images(pixels)[0]} | (inputs or {})
    captions = ["before", *(["mask"] if inputs else []), caption(words, drawn)]
    return Answer(
        [Group("before and after", [*shown.values(), *drawn.images()], captions)], record, shown, drawn.noise, tuple(notes)
    )
