"""What the playground draws: every answer is pictures with captions, and the record of what it takes to draw them again. No page here."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep import editing, inpainting, translation
from fewstep.errors import InputError
from fewstep.images import read_images
from fewstep.model import Samples, to_images
from fewstep.playground_models import LARGE, Models, bounded, on_grid

TEACHER_STEPS = 64  # of the teacher's pictures beside, and of a teacher that encodes
SWEPT = 7  # scales of a strip
BOXES = {"top half": (0, 0, 2, 1), "bottom half": (0, 1, 2, 2), "left half": (0, 0, 1, 2), "right half": (1, 0, 2, 2)}

Progress = Callable[[int], None]  # called with the number of images made


@dataclass(frozen=True)
class Group:
    """A line of pictures: PIL images of the model's size, each with its caption."""

    title: str
    images: list[Any]
    captions: list[str]


@dataclass(frozen=True)
class Answer:
    """What was drawn, what was asked (`record`), the pictures that it started with by file name, and the noise of what was drawn."""

    groups: list[Group]
    record: dict[str, Any]
    inputs: dict[str, Any] = field(default_factory=dict)
    noise: Tensor | None = None


def caption(word: str, drawn: Samples) -> str:
    """What stands under a picture: evaluations of the network, and its share of the time."""
    plural = "" if drawn.evaluations == 1 else "s"
    return f"{word} · {drawn.evaluations} evaluation{plural} · {1000 * drawn.seconds / len(drawn.samples):.1f} ms"


def group_of(title: str, words: list[str], drawn: Samples) -> Group:
    """The pictures of samples, one a word."""
    return Group(title, drawn.images(), [caption(word, drawn) for word in words])


def batch_of(models: Models) -> int:
    """Images at a time: large ones one by one, so that progress is seen and a stop is heard."""
    return 256 if models.first.info.picture[1] <= LARGE else 1


def generate(
    models: Models, words: list[str], steps: int, guidance_scale: float, seed: int, count: int, progress: Progress = lambda done: None
) -> Answer:  # fmt: skip
    """Images from the seed's noise.

    Raises:
        InputError: a choice outside its bounds.
    """
    words = bounded(models, words, steps, guidance_scale, seed, count)
    opened, batch = models.by_steps[steps], batch_of(models)
    choices = {"steps": steps, "guidance_scale": float(guidance_scale), "seed": int(seed)}
    drawn = opened.model.sample_tensor(opened.model.wanted(words, len(words)), batch_size=batch, progress=progress, **choices)
    title = f"{opened.model.info.kind}, {steps} step{'s' if steps > 1 else ''}"
    record = {"task": "sample", "model": opened.path, "words": words, "batch_size": batch} | choices
    return Answer([group_of(title, words, drawn)], record | _kind(models), noise=drawn.noise)


def beside(models: Models, answer: Answer, progress: Progress = lambda done: None) -> Answer:
    """The answer with the teacher's images from the same noise under it.

    Raises:
        InputError: there is no teacher, or it does not know one of the classes.
    """
    if models.teacher is None:
        raise InputError("there is no teacher here; start the playground again with --teacher FOLDER")
    teacher, words, batch = models.teacher.model, answer.record["words"], batch_of(models)
    steps = min(TEACHER_STEPS, teacher.denoiser.process.train_timesteps)
    scale = answer.record["guidance_scale"]
    condition = teacher.wanted(words, len(words))
    drawn = teacher.sample_tensor(
        condition, steps=steps, guidance_scale=scale, noise=answer.noise, batch_size=batch, progress=progress
    )
    return replace(answer, groups=[*answer.groups, group_of(f"teacher, {steps} steps, from the same noise", words, drawn)])


def sweep(
    models: Models, words: list[str], steps: int, seed: int, progress: Progress = lambda done: None
) -> Answer:  # fmt: skip
    """The first class or prompt at scales over the whole range, from one noise.

    Raises:
        InputError: a choice outside its bounds.
    """
    low, high = models.scales
    word = bounded(models, words, steps, low, seed)
    opened, drawn = models.by_steps[steps], []
    scales = [round(low + (high - low) * i / (SWEPT - 1), 2) for i in range(SWEPT)] if high > low else [low]
    condition = opened.model.wanted(word, 1)
    for scale in scales:
        drawn.append(opened.model.sample_tensor(condition, steps=steps, guidance_scale=scale, seed=int(seed)))
        progress(len(drawn))
    captions = [caption(f"{word[0]} · scale {scale:g}", one) for scale, one in zip(scales, drawn, strict=True)]
    record = {"task": "sweep", "model": opened.path, "words": word, "steps": steps, "guidance_scale": scales, "seed": int(seed)}
    group = Group("guidance scale over its range, from one noise", [one.images()[0] for one in drawn], captions)
    return Answer([group], record | _kind(models))


def redraw(
    models: Models, image: Any, words: list[str], strength: float, steps: int, guidance_scale: float, seed: int,
    progress: Progress = lambda done: None,
) -> Answer:  # fmt: skip
    """A picture redrawn under another class or prompt; the strength is brought to the grid of the steps.

    Raises:
        InputError: no picture, or a choice outside its bounds.
    """
    word, pixels = bounded(models, words, steps, guidance_scale, seed), _pixels(models, image)
    opened, strength = models.by_steps[steps], on_grid(strength, steps)
    choices = {"strength": strength, "steps": steps, "guidance_scale": float(guidance_scale), "seed": int(seed)}
    drawn = editing.edit(opened.model, pixels, opened.model.wanted(word, 1), progress=progress, **choices)
    record = {"task": "edit", "model": opened.path, "words": word} | choices | _kind(models)
    return _changed(pixels, f"{word[0]} · strength {strength:g}", drawn, record)


def fill(
    models: Models, image: Any, mask: Any, words: list[str], steps: int, guidance_scale: float, seed: int,
    progress: Progress = lambda done: None,
) -> Answer:  # fmt: skip
    """A picture drawn anew where the mask (a PIL image, or a name of `BOXES`) is white; the rest comes back to the bit.

    Raises:
        InputError: no picture, nothing painted, or a choice outside its bounds.
    """
    word, pixels = bounded(models, words, steps, guidance_scale, seed), _pixels(models, image)
    opened, masks = models.by_steps[steps], mask_of(mask, pixels)
    choices = {"steps": steps, "guidance_scale": float(guidance_scale), "seed": int(seed)}
    condition = inpainting.condition_of(opened.model, pixels, masks, word)
    drawn = inpainting.inpaint(opened.model, pixels, masks, condition, progress=progress, **choices)
    record = {"task": "inpaint", "model": opened.path, "words": word} | choices | _kind(models)
    return _changed(pixels, word[0], drawn, record, {"mask.png": to_images(masks * 2.0 - 1)[0]})


def restyle(
    models: Models, image: Any, source: str, target: str, steps: int, guidance_scale: float, progress: Progress = lambda done: None
) -> Answer:  # fmt: skip
    """A picture carried to noise under `source` and back under `target`, both a class or a prompt.

    Raises:
        InputError: no picture, no encoder, or a choice outside its bounds.
    """
    if models.encoder is None:
        raise InputError("style transfer needs an encoder; start the playground again with --encoder or --teacher")
    words, pixels = [bounded(models, [one], steps, guidance_scale, 0)[0] for one in (source, target)], _pixels(models, image)
    opened, encoder = models.by_steps[steps], models.encoder.model
    trained = encoder.info.steps or min(TEACHER_STEPS, encoder.denoiser.process.train_timesteps)
    choices = {"steps": steps, "encoder_steps": trained, "guidance_scale": float(guidance_scale)}
    conditions = encoder.wanted(words[:1], 1), opened.model.wanted(words[1:], 1)
    drawn = translation.translate(opened.model, encoder, pixels, *conditions, progress=progress, **choices)
    record = {"task": "translate", "model": opened.path, "encoder": models.encoder.path, "words": words} | choices | _kind(models)
    return _changed(pixels, f"{words[0]} to {words[1]}", drawn, record)


def _pixels(models: Models, image: Any) -> Tensor:
    """The picture (1, c, size, size) in [-1, 1] of an image of Pillow."""
    if image is None:
        raise InputError("no picture is given; upload one, or take the one that was drawn last")
    info = models.first.info
    return read_images([natural(image, info.picture[1])], info, say=lambda line: None).pixels


def _changed(pixels: Tensor, words: str, drawn: Samples, record: dict[str, Any], inputs: dict[str, Any] | None = None) -> Answer:
    """The answer of a picture with what became of it."""
    before = to_images(pixels)[0]
    shown = {"input.png": before} | (inputs or {})
    captions = ["before", *(["mask"] if inputs else []), caption(words, drawn)]
    return Answer([Group("before and after", [*shown.values(), *drawn.images()], captions)], record, shown, drawn.noise)


def _kind(models: Models) -> dict[str, Any]:
    return {"condition": models.first.info.condition}


def enlarged(image: Any, least: int = 256) -> Any:
    """A small picture with every pixel a square of whole pixels, so that it is at least so wide; a larger one as it is."""
    times = -(-least // image.width)
    return image.resize((image.width * times, image.height * times), 0) if times > 1 else image  # 0: the nearest pixel


def natural(image: Any, size: int) -> Any:
    """The small picture that `enlarged` made this of, else the picture as it is."""
    if image.width != image.height or image.width <= size or image.width % size:
        return image
    small = image.resize((size, size), 0)
    return small if small.resize(image.size, 0).tobytes() == image.tobytes() else image


def painted(value: dict[str, Any] | None) -> tuple[Any, Any]:
    """The picture and the mask (mode L, white where painted) of an editor's value; None for what there is not."""
    if not value or value.get("background") is None:
        return None, None
    from PIL import Image, ImageChops

    image, mask = value["background"], Image.new("L", value["background"].size)
    for layer in value.get("layers") or []:
        alpha = layer.convert("RGBA").getchannel("A").resize(mask.size)
        mask = ImageChops.lighter(mask, alpha.point([0] * 64 + [255] * 192))
    return image, mask


def mask_of(mask: Any, pixels: Tensor) -> Tensor:
    """bool (1, 1, size, size) of what was painted over a picture of pixels (1, c, size, size), or of a box of that name.

    What is painted over by a quarter is filled; where nothing is, whatever was touched.

    Raises:
        InputError: nothing is painted, or the mask has other proportions than a square.
    """
    from PIL import Image

    size = pixels.shape[-1]
    if isinstance(mask, str):
        if mask not in BOXES:
            raise InputError(f"mask '{mask}' is not known; known: {', '.join(BOXES)}")
        whole = Image.new("L", (size, size))
        left, top, right, bottom = (round(edge * size / 2) for edge in BOXES[mask])
        whole.paste(255, (left, top, right, bottom))
        mask = whole
    if mask is None or not mask.getbbox():
        raise InputError("nothing is painted; paint over what is to be drawn anew, or choose a half")
    side = min(mask.size)
    left, top = (mask.width - side) // 2, (mask.height - side) // 2
    shrunk = mask.resize((size, size), Image.Resampling.BOX, box=(left, top, left + side, top + side))
    small = shrunk.point([0] * 64 + [255] * 192)
    small = small if small.getbbox() else shrunk.point([0] + [255] * 255)
    if not small.getbbox():
        raise InputError("only what lies outside the picture's central square is painted, which is cut away; paint within it")
    return torch.from_numpy(np.asarray(small) > 0)[None, None]
