"""The model card: README.md of a model folder, which says what the model is, how to draw from it, and what is known of it.

The Hugging Face hub shows it as the page of a model, and reads the front matter. A licence is not in it: that is for the author to say.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.export.example_code import diffusers_code, fewstep_code, lora_code, onnx_code, scale_for, why_not
from fewstep.export.lora_file import EXPORTED
from fewstep.models.families import Family
from fewstep.models.metadata import Info
from fewstep.models.model import Model

CARD = "README.md"
PAPER = "[On Distillation of Guided Diffusion Models](https://arxiv.org/abs/2210.03142)"
SECOND_TIME = (
    "ControlNet image-to-image and inpainting, depth2img, upscale, InstructPix2Pix, DiffEdit and AnimateDiff do not pass the scale on and would "
    "guide it a second time: bake a scale in for them."
)


def write_card(model: Model, folder: Path, name: str | None = None) -> None:
    """Write the card of a complete model folder into it; `name` is what its lines of code open, without it the folder's."""
    (folder / CARD).write_text(card(model.info, model.family, folder, name or folder.name), encoding="utf-8")


def card(info: Info, family: Family, folder: Path, name: str) -> str:
    """The text of the card of a model whose files are in `folder`."""
    sections = [front_matter(info), f"# {name}", what_it_is(info), usage(info, family, folder, name), quality(info), origin(info)]
    return "\n\n".join(sections) + "\n"


def front_matter(info: Info) -> str:
    """What the hub reads."""
    tags = ["fewstep", "distillation", "diffusion", info.family.replace("_", "-"), *(["few-step"] if info.steps else [])]
    task = (
        "text-to-video"
        if info.family == "wan"
        else "text-to-image"
        if info.condition == "text"
        else "unconditional-image-generation"
    )
    listed = "\n".join(f"- {tag}" for tag in dict.fromkeys([*tags, task]))
    return f"---\nlibrary_name: diffusers\npipeline_tag: {task}\ntags:\n{listed}\n---"


def what_it_is(info: Info) -> str:
    """A paragraph, and the facts."""
    first = {
        "student": f"A guided diffusion model, distilled with fewstep by the method of {PAPER}: one evaluation of the network a step.",
        "encoder": f"An encoder, distilled with fewstep by the method of {PAPER}: it carries images to the noise that they come from.",
        "teacher": "A guided diffusion model, made with fewstep: a teacher to distil.",
    }[info.kind]
    channels, size = info.picture
    shown = f"{channels} x {size} x {size} pixels"
    if info.latent_shape:
        shown = f"latents of {' x '.join(map(str, info.latent_shape))}, {size} pixels wide"
    facts = {
        "family": f"`{info.family}`", "images": shown, "steps": str(info.steps or "any number"), "guidance scale": scales(info),
        "condition": f"{len(info.classes)} classes" if info.condition == "class" else "text", "sampler": info.sampler,
        "prediction": info.prediction, "process": ", ".join(f"{key} {said(value)}" for key, value in info.process.items() if key != "betas"),
    }  # fmt: skip
    return f"{first}\n\n{table(('', ''), facts.items())}"


def scales(info: Info) -> str:
    """The guidance scales that the model knows; 1 is none, as in diffusers."""
    if info.baked and info.guidance_scale is None:
        return "baked into the class labels"
    if info.guidance_scale is None:
        return "any (two evaluations a step)" if info.kind == "teacher" else "any"
    low, high = info.guidance_scale
    return f"{low:g}, baked into the weights" if info.baked else f"{low:g} to {high:g}, an input of the network"


def usage(info: Info, family: Family, folder: Path, name: str) -> str:
    """How to draw from the folder: with diffusers alone, with fewstep, and what to do where one cannot."""
    if (folder / "network.onnx").is_file():
        return f"## Use\n\n`network.onnx` is the network alone; `onnx.json` names its inputs and the times of each step.\n\n{block(onnx_code(info, name))}"
    if (folder / EXPORTED).is_file():
        return f"## Use\n\nWith diffusers and the teacher's own folder, guidance off:\n\n{block(lora_code(info, family, folder, name))}"
    parts, reason = ["## Use"], why_not(info, folder)
    if reason is None:
        parts += ["With diffusers alone:", block(diffusers_code(info, folder, name)), runs_in(info, family)]
    elif info.kind == "teacher":
        parts.append(
            f"To distil it: `fewstep distill --teacher {name} --data DATA --steps 4 --guidance-scale 1,5 --out runs/mine`. "
            "To draw from it in many steps of two evaluations, with fewstep (`pip install fewstep`):"
        )
    else:
        parts.append(f"Not with diffusers alone: {reason}. With fewstep (`pip install fewstep`):")
    parts += [*([] if reason else ["With fewstep:"]), block(fewstep_code(info, family, name))]
    if info.negative_prompts:
        parts.append('With fewstep it takes a negative prompt: `model.sample(..., negative_prompt="blurry")`.')
    if info.takes_w and info.kind == "student" and info.family != "own":
        fetch, here = (f"`hf download {name} --local-dir student`, then ", "student") if "/" in name else ("", name)
        bake = f"{fetch}`fewstep export {here} OUT --guidance-scale {scale_for(info):g}`"
        parts.append(f"A plain model of one scale, for every pipeline that runs the teacher's weights: {bake}.")
    return "\n\n".join(parts)


def runs_in(info: Info, family: Family) -> str:
    """Which stock pipelines run the folder."""
    if info.family == "class_conditional":
        return "With fewstep installed, `fewstep.models.families.class_conditional.ClassConditionalPipeline` is the same loop as a pipeline."
    names = ", ".join(f"`{name}`" for name in family.pipelines)
    if info.baked:
        return f"It runs wherever its teacher's weights run ({names} and their kin), with guidance off, in {info.steps or 'any number of'} steps."
    more = f" {SECOND_TIME}" if info.family.startswith("stable_diffusion") else ""
    return f"It runs in {names}, one evaluation a step; a negative prompt has no effect.{more}"


def quality(info: Info) -> str:
    """What was measured, as the folder's fewstep.json has it."""
    if not info.quality:
        return (
            "## Quality\n\nNot measured yet: `fewstep evaluate` compares it with its teacher and with the teacher's stock samplers."
        )
    plain = {key: value for key, value in info.quality.items() if not isinstance(value, dict | list)}
    columns = {key: value for key, value in info.quality.items() if isinstance(value, dict)}
    parts = ["## Quality", *([table(("measured", ""), plain.items())] if plain else [])]
    if columns:
        keys = dict.fromkeys(key for column in columns.values() for key in column)
        parts.append(table(("guidance scale", *columns), ((key, *(c.get(key, "") for c in columns.values())) for key in keys)))
    for key, value in info.quality.items():
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            heads = tuple(dict.fromkeys(head for row in value for head in row))
            parts.append(f"{key}:\n\n{table(heads, (tuple(row.get(head, '') for head in heads) for row in value))}")
    return "\n\n".join(parts)


def origin(info: Info) -> str:
    """How it was made, of what, and what it leaves to its author."""
    rows = ((h.get("stage", ""), h.get("updates", ""), h.get("batch_size", ""), h.get("loss", "")) for h in info.history)
    history = table(("stage", "updates", "batch size", "loss"), rows) if info.history else "Nothing is recorded."
    kept = {key: value for key, value in info.data.items() if key != "classes" and value not in (None, "", [], {})}
    if "path" in kept:  # the last part alone: where data lies on one machine is nobody's business
        kept["path"] = Path(str(kept["path"])).name
    data = table(("data", ""), kept.items()) if kept else "No data is recorded."
    licence = (
        "Not stated: the licences of the teacher's weights and of the data hold. Add `license:` to the front matter of this page."
    )
    return f"## History\n\n{history}\n\n## Data\n\n{data}\n\n## Licence\n\n{licence}"


def block(code: str) -> str:
    """Python on a page."""
    return f"```python\n{code}\n```"


def table(heads: Sequence[str], rows: Any) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(said(value) for value in row) + " |" for row in rows)])


def said(value: Any) -> str:
    """A value in a table: short, on one line, and nothing that ends a cell."""
    text = (
        f"{value:.4g}"
        if isinstance(value, float)
        else ", ".join(map(said, value))
        if isinstance(value, list | tuple)
        else str(value)
    )
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= 200 else text[:197] + "..."
