"""What a record becomes: Python and a command that draw the answer again, PNG files that carry both; and sentences for errors."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import torch

from fewstep.errors import InputError
from fewstep.playground.tasks import Answer

SETTINGS = ("strength", "encoder_steps", "guidance_scale", "seed", "sampler", "batch_size")
VARIED = {"sweep": "guidance_scale", "strip": "seed"}  # tasks of several pictures, and in what these differ
LONGEST = 300  # characters of a sentence


def python_of(record: dict[str, Any]) -> str:
    """Three lines of Python that draw an answer again, beside the files that its downloads hold."""
    task, labels, varied = record["task"], record["labels_or_prompts"], VARIED.get(record["task"])
    kept = {key: record[key] for key in SETTINGS if key in record and (key, record[key]) != ("batch_size", 256)}
    settings = [f"{key}={'s' if key == varied else repr(value)}" for key, value in kept.items()]
    call = "sample" if varied else task
    if call == "sample":
        given = [f"prompts={labels!r}" if record["condition"] == "text" else repr(labels)]
    elif task == "translate":
        encoder = "model" if record["encoder"] == record["model"] else f"fewstep.open_model({record['encoder']!r})"
        given = ['"input.png"', repr(labels[:1]), repr(labels[1:]), encoder]
    else:
        given = ['"input.png"', *(['"mask.png"'] if task == "inpaint" else []), repr(labels)]
    arguments = ", ".join([*given, f"steps={record['steps']}", *settings])
    line = f"model.{call}({arguments})"
    line = f"[{line}[0] for s in {record[varied]!r}]" if varied else line
    steps = f", steps={record['steps']}" if record.get("run") else ""
    return f"import fewstep\nmodel = fewstep.open_model({record['model']!r}{steps})\nimages = {line}"


def command_of(record: dict[str, Any]) -> str:
    """The command that draws an answer again, as typed in a shell; of a sweep or a strip, a loop of them."""
    task, labels, steps = record["task"], record["labels_or_prompts"], record["steps"]
    varied, option = VARIED.get(task), "--prompt" if record["condition"] == "text" else "--class-label"
    words = ["fewstep", "sample" if varied else task, record["model"]]
    if task == "translate" and record["encoder"] != record["model"]:
        words += ["--encoder", record["encoder"]]
    if task != "sample" and not varied:
        words += ["--image", "input.png"] + (["--mask", "mask.png"] if task == "inpaint" else [])
    if task == "translate":
        words += ["--from", labels[0], "--to", labels[1], "--encoder-steps", record["encoder_steps"]]
    else:
        words += [word for label in labels for word in (option, label)]
    if task == "edit":
        words += ["--strength", f"{round(record['strength'] * steps)}/{steps}"]
    if record.get("batch_size", 256) != 256:
        words += ["--batch-size", record["batch_size"]]
    words += ["--steps", steps]
    for key in ("seed", "sampler", "guidance_scale"):
        if key in record and key != varied:
            words += [f"--{key.replace('_', '-')}", "/".join(texts_of(record[key]))]
    if varied:
        return f'for s in {" ".join(texts_of(record[varied]))}; do {shlex.join(map(str, words))} --{varied.replace("_", "-")} "$s" --out "pictures-$s"; done'
    return shlex.join(map(str, [*words, "--out", "pictures"]))


def texts_of(values: Any) -> list[str]:
    """A value, or each of a list, as a command line has it."""
    return [
        f"{value:.10g}" if isinstance(value, float) else str(value) for value in (values if isinstance(values, list) else [values])
    ]


def write_pictures(folder: Path, answer: Answer) -> list[str]:
    """The paths of the answer's pictures, as the model drew them, as PNG files whose text fields hold their settings and code."""
    from PIL.PngImagePlugin import PngInfo

    fields = PngInfo()
    fields.add_itxt("fewstep", json.dumps(answer.record))
    fields.add_itxt("python", python_of(answer.record))
    fields.add_itxt("command", command_of(answer.record))
    drawn = {f"{i:05d}.png": image for i, image in enumerate(answer.groups[0].images[len(answer.inputs) :])}
    for name, image in (answer.inputs | drawn).items():
        image.save(folder / name, pnginfo=None if name in answer.inputs else fields)
    return [str(folder / name) for name in (*answer.inputs, *drawn)]


def sentence(error: BaseException) -> str:
    """What a person reads of an error: ours as it is, lack of memory with its remedy, what is left by its kind."""
    if isinstance(error, InputError):
        text = " ".join(str(error)[: 2 * LONGEST].split())
        text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
        return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or re.search("out of memory|can't allocate", str(error)):
        return "There is not enough memory for this; ask for fewer images or steps."
    return f"This failed ({type(error).__name__}); the playground goes on. What happened is printed where it was started."
