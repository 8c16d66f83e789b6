"""The words of the playground: code that draws an answer again, pictures that carry it, and sentences for errors."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import torch

from fewstep.errors import InputError
from fewstep.playground.tasks import Answer


def python_of(record: dict[str, Any]) -> str:
    """Three lines of Python that draw an answer again, beside the files that its downloads hold."""
    task, words, scale = record["task"], record["labels_or_prompts"], record["guidance_scale"]
    keys = ("strength", "encoder_steps", "guidance_scale", "seed", "sampler", "batch_size")
    kept = {key: record[key] for key in keys if key in record and (key, record[key]) != ("batch_size", 256)}
    numbers = ", ".join(
        f"{key}={'s' if key == 'guidance_scale' and task == 'sweep' else repr(value)}" for key, value in kept.items()
    )
    rung = f", steps={record['steps']}" if record.get("run") else ""
    opened = (
        f"import fewstep\nmodel = fewstep.open_model({record['model']!r}{rung})\nimages = {'[' if task == 'sweep' else ''}model."
    )
    given = f"{'prompts=' if record['condition'] == 'text' else ''}{words!r}"
    steps = f"steps={record['steps']}"
    if task == "sample":
        return f"{opened}sample({given}, {steps}, {numbers})"
    if task == "sweep":
        return f"{opened}sample({given}, {steps}, {numbers})[0] for s in {scale!r}]"
    if task == "edit":
        return f'{opened}edit("input.png", {words!r}, {steps}, {numbers})'
    if task == "inpaint":
        return f'{opened}inpaint("input.png", "mask.png", {words!r}, {steps}, {numbers})'
    source, target = words
    encoder = "model" if record["encoder"] == record["model"] else f"fewstep.open_model({record['encoder']!r})"
    return f'{opened}translate("input.png", {[source]!r}, {[target]!r}, {encoder}, {steps}, {numbers})'


def command_of(record: dict[str, Any]) -> str:
    """The command that draws an answer again, as typed in a shell; of a sweep, a loop of them."""
    task, words = record["task"], record["labels_or_prompts"]
    what = "--prompt" if record["condition"] == "text" else "--class-label"
    asked = [part for word in words for part in (what, word)]
    tail = [
        "--steps",
        record["steps"],
        *(part for key in ("seed", "sampler") if key in record for part in (f"--{key}", record[key])),
    ]
    start = ["fewstep", "sample" if task == "sweep" else task, record["model"]]
    if task == "sweep":
        scales = " ".join(f"{scale:g}" for scale in record["guidance_scale"])
        return f'for s in {scales}; do {_shell(start + asked + tail)} --guidance-scale "$s" --out "pictures-$s"; done'
    tail += ["--guidance-scale", f"{record['guidance_scale']:g}", "--out", "pictures"]
    if task == "sample":
        return _shell(start + asked + (["--batch-size", record["batch_size"]] if record["batch_size"] != 256 else []) + tail)
    if task == "edit":
        return _shell([*start, "--image", "input.png", *asked, "--strength", strength_of(record), *tail])
    if task == "inpaint":
        return _shell([*start, "--image", "input.png", "--mask", "mask.png", *asked, *tail])
    encoder = [] if record["encoder"] == record["model"] else ["--encoder", record["encoder"]]
    ways = ["--from", words[0], "--to", words[1], "--encoder-steps", record["encoder_steps"]]
    return _shell([*start, *encoder, "--image", "input.png", *ways, *tail])


def strength_of(record: dict[str, Any]) -> str:
    """The strength as i/N."""
    return f"{round(record['strength'] * record['steps'])}/{record['steps']}"


def _shell(words: list[Any]) -> str:
    return shlex.join(map(str, words))


def write_pictures(folder: Path, answer: Answer) -> list[str]:
    """The paths of the answer's pictures, as the model drew them, as PNG files whose text fields hold their settings and code."""
    from PIL.PngImagePlugin import PngInfo

    texts = {"fewstep": json.dumps(answer.record), "python": python_of(answer.record), "command": command_of(answer.record)}
    drawn = [image for group in answer.groups[:1] for image in group.images][len(answer.inputs) :]
    files = dict(answer.inputs) | {f"{i:05d}.png": image for i, image in enumerate(drawn)}
    for name, image in files.items():
        fields = PngInfo()
        for key, text in ({} if name in answer.inputs else texts).items():
            fields.add_itxt(key, text)
        image.save(folder / name, pnginfo=fields)
    return [str(folder / name) for name in files]


def sentence(error: BaseException) -> str:
    """What a person reads of an error: ours as it is, lack of memory with its remedy, what is left by its kind."""
    if isinstance(error, InputError):
        text = " ".join(str(error).split())
        return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or re.search("out of memory|can't allocate", str(error)):
        return "There is not enough memory for this; ask for fewer images or steps."
    return f"This failed ({type(error).__name__}); the playground goes on. What happened is printed where it was started."
