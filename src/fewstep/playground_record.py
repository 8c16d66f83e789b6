"""The words of the playground: code that draws an answer again, pictures that carry it, figures, facts of the models, and sentences for errors."""

import base64
import html
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import torch

from fewstep.errors import InputError
from fewstep.playground import Answer, Group, enlarged
from fewstep.playground_models import Models, Opened

SMALL = 64  # pixels: pictures up to here are shown with sharp squares for pixels


def python_of(record: dict[str, Any]) -> str:
    """Three lines of Python that draw an answer again, beside the files that its downloads hold."""
    task, words, scale = record["task"], record["words"], record["guidance_scale"]
    numbers = ", ".join(
        f"{key}={record[key]!r}" for key in ("strength", "encoder_steps", "guidance_scale", "seed") if key in record
    )
    if record.get("batch_size", 256) != 256:
        numbers += f", batch_size={record['batch_size']}"
    opened = f"import fewstep\nmodel = fewstep.open_model({record['model']!r}"
    opened += f")\nimages = {'[' if task == 'sweep' else ''}model."
    given = f"{'prompts=' if record['condition'] == 'text' else ''}{words!r}"
    steps = f"steps={record['steps']}"
    if task == "sample":
        return f"{opened}sample({given}, {steps}, {numbers})"
    if task == "sweep":
        return f"{opened}sample({given}, {steps}, guidance_scale=s, seed={record['seed']})[0] for s in {scale!r}]"
    if task == "edit":
        return f'{opened}edit("input.png", {words!r}, {steps}, {numbers})'
    if task == "inpaint":
        return f'{opened}inpaint("input.png", "mask.png", {words!r}, {steps}, {numbers})'
    source, target = words
    encoder = "model" if record["encoder"] == record["model"] else f"fewstep.open_model({record['encoder']!r})"
    return f'{opened}translate("input.png", {[source]!r}, {[target]!r}, {encoder}, {steps}, {numbers})'


def command_of(record: dict[str, Any]) -> str:
    """The command that draws an answer again, as typed in a shell; of a sweep, a loop of them."""
    task, words = record["task"], record["words"]
    what = "--prompt" if record["condition"] == "text" else "--class-label"
    asked = [part for word in words for part in (what, word)]
    tail = ["--steps", record["steps"]] + (["--seed", record["seed"]] if "seed" in record else [])
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


def figures(groups: list[Group]) -> str:
    """HTML of the pictures, each over its caption; small ones with sharp pixels."""
    parts = []
    for group in groups:
        kind = "pictures few" if len(group.images) < 4 else "pictures"
        parts.append(f'<section class="{kind}"><h3>{html.escape(group.title)}</h3><div>')
        for image, text in zip(group.images, group.captions, strict=True):
            sharp = ' class="sharp"' if image.width <= SMALL else ""
            words, name = html.escape(text), html.escape(text.split(" · ")[0], quote=True)
            parts.append(
                f'<figure><img{sharp} src="{data_url(image)}" alt="{name}"><figcaption>{_lines(words)}</figcaption></figure>'
            )
        parts.append("</div></section>")
    return "".join(parts)


def _lines(words: str) -> str:
    first, *rest = words.split(" · ")
    return f"<b>{first}</b>" + "".join(f" <span>{part}</span>" for part in rest)


def data_url(image: Any) -> str:
    """The picture as a PNG within the page; a small one is enlarged, so that what a person saves from the page can be seen."""
    held = io.BytesIO()
    (enlarged(image, 128) if image.width <= SMALL else image).save(held, format="PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def facts_of(models: Models) -> str:
    """Markdown: what each model is, and what was measured of it."""
    rows, measured = ["| model | kind | steps | guidance scale | weights |", "|---|---|---|---|---|"], []
    seen = {opened.path: opened for opened in (*models.by_steps.values(), models.teacher, models.encoder) if opened}
    for opened in seen.values():
        rows.append(_row(opened))
        measured += [f"- **{opened.path}**: {line}" for line in lines_of(opened.model.info.quality)]
    first = next(iter(models.by_steps.values())).model.info
    shown = f"{first.picture[1]}x{first.picture[1]} pixels, {first.picture[0]} channel{'s' if first.picture[0] > 1 else ''}"
    data = first.data.get("path") or first.data.get("kind")
    about = f"{shown}; family {first.family}; process {first.process['name']}" + (f"; trained on {data}" if data else "")
    none = f"None is recorded in `fewstep.json`. Measure it: `fewstep evaluate {next(iter(seen))} --out evaluated`"
    return "\n".join([about, "", *rows, "", "**Measured quality**", "", *(measured or [none])])


def _row(opened: Opened) -> str:
    info, weights = opened.model.info, sum(p.numel() for p in opened.model.denoiser.network.parameters())
    scales = "{:g} to {:g}".format(*info.guidance_scale) if info.guidance_scale else "any"
    return f"| `{opened.path}` | {info.kind} | {info.steps or 'any'} | {scales} | {weights / 1e6:,.2f} M |"


def lines_of(quality: dict[str, Any]) -> list[str]:
    """Measured numbers, nested or not, one line a number."""
    found = []
    for key, value in quality.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            found += [f"{name}, {line}" for line in lines_of(value)]
        else:
            found.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return found


def sentence(error: BaseException) -> str:
    """What a person reads of an error: ours as it is, lack of memory with its remedy, what is left by its kind."""
    if isinstance(error, InputError):
        text = " ".join(str(error).split())
        return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or re.search("out of memory|can't allocate", str(error)):
        return "There is not enough memory for this; ask for fewer images or steps."
    return f"This failed ({type(error).__name__}); the playground goes on. What happened is printed where it was started."
