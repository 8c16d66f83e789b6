"""The model card: README.md of a model folder, rendered from `model_card.md.j2`, with code that samples from the folder.

The Hugging Face hub shows it as the page of a model, and reads the front matter. A licence is in it where the folder that the model was made of
states one; else that is for the author to do.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fewstep.compat import optional_components
from fewstep.export.comfyui import WORKFLOW
from fewstep.export.lora_file import EXPORTED
from fewstep.method.process import process_of
from fewstep.models.families import Family
from fewstep.models.families.diffusers_family import STUDENT
from fewstep.models.families.flow_latents import ChosenSize
from fewstep.models.families.pipeline_folder import absent, config_of, dtype_of, index_of, variants_of
from fewstep.models.families.vae import latent_scaling
from fewstep.models.metadata import Info
from fewstep.models.model import DEFAULT_STEPS, Model

CARD, TEMPLATE = "README.md", Path(__file__).with_name("model_card.md.j2")
USUAL = 3.0  # guidance scale in the code, as far as the model's range allows
ARGUMENTS = {  # pipeline class -> arguments of its call besides prompt, steps and scale
    "StableDiffusionInpaintPipeline": {"image": "image", "mask_image": "mask", "strength": "1.0"},
    "StableDiffusionXLInpaintPipeline": {"image": "image", "mask_image": "mask", "strength": "1.0"},
    "IFSuperResolutionPipeline": {"image": "image", "noise_level": "250"},
    "PixArtAlphaPipeline": {"use_resolution_binning": "False"},
    "PixArtSigmaPipeline": {"use_resolution_binning": "False"},
    "SanaPipeline": {"use_resolution_binning": "False"},
    "HunyuanDiTPipeline": {"use_resolution_binning": "False"},
    "LongCatImagePipeline": {"enable_prompt_rewrite": "False"},
    "PRXPipeline": {"use_resolution_binning": "False"},
}  # fmt: skip
SIZED = (
    "kandinsky",
    "sana",
    "aura_flow",
    "hunyuan_dit",
)  # families that draw another size by default, beside those of `ChosenSize`
WHOLE_TIMES = ("cogview4",)  # flows whose stock pipelines round times to whole timesteps
SHIFTED = (
    "stable_diffusion_3",
    "wan",
    "wan_two",
    "sana",
    "aura_flow",
    "prx",
)  # whose students of any number of steps have a grid that stock pipelines do not make


def write_card(model: Model, folder: Path, name: str | None = None) -> None:
    """Write the card of a complete model folder into it, and the licence files of the folder that it was made of.

    `name` is what the card's code opens, without it the folder's.
    """
    (folder / CARD).write_text(card(model.info, model.family, folder, name or folder.name), encoding="utf-8", errors="replace")
    source = model.family.folder
    for file in licence_files(source):
        place = folder / file.relative_to(source)  # pyright: ignore[reportArgumentType] - without a folder there are no files
        if place.parent.is_dir() and not place.exists():
            shutil.copy(file, place)


def licence_files(folder: Path | None) -> list[Path]:
    """The files of a model folder, and of its components' folders, that state a licence."""
    found = [] if folder is None else [*folder.glob("LICEN[CS]E*"), *folder.glob("*/LICEN[CS]E*")]
    return sorted(file for file in found if file.is_file())


def licence_of(folder: Path | None) -> dict[str, Any]:
    """What the card of a folder says of its licence in its front matter: `license`, maybe `license_name` and `license_link`."""
    from huggingface_hub import metadata_load

    try:
        known = metadata_load(folder / CARD) if folder is not None and (folder / CARD).is_file() else None
    except Exception:  # whatever a card of another hand has in it: it is no part of the model
        return {}
    return {key: str(value) for key, value in (known or {}).items() if key in ("license", "license_name", "license_link")}


def card(info: Info, family: Family, folder: Path, name: str) -> str:
    """The text of the card of a model whose files are in `folder`, or of its export as ComfyUI file, ONNX or LoRA."""
    from huggingface_hub import ModelCard, ModelCardData

    task = "text-to-image" if info.condition == "text" else "unconditional-image-generation"
    task = "text-to-video" if info.condition == "text" and len(info.shape) == 4 else task
    task = "text-to-audio" if info.makes_sounds else task
    tags = ["fewstep", "distillation", "diffusion", info.family.replace("_", "-"), *(["few-step"] if info.steps else []), task]
    data = {key: value for key, value in info.data.items() if key != "classes" and value not in (None, "", [], {})}
    if "path" in data:  # its last part alone: where data lies on one machine is nobody's business
        data["path"] = Path(str(data["path"])).name
    files = [] if (folder / "model_index.json").is_file() else sorted(folder.glob("*.safetensors"))
    workflow, licence = (folder / WORKFLOW).is_file(), licence_of(family.folder)
    values = {
        "name": name, "info": info, "facts": facts_of(info), "table": table, "quality": quality(info), "data": data,
        "history": [[entry.get(key, "") for key in ("stage", "updates", "batch_size", "loss")] for entry in info.history],
        "steps": info.steps or DEFAULT_STEPS, "scale": scale_for(info), "reason": why_not(info, folder), "video": len(info.shape) == 4,
        "sound": info.makes_sounds, "subject": "class_labels=[0]" if info.condition == "class" else f'prompt="{subject_of(info)}"',
        "pipelines": ", ".join(f"`{name}`" for name in family.pipelines),
        "onnx": (folder / "network.onnx").is_file(), "comfyui": workflow and files[0].name,
        "lora": lora_values(info, family, files) if files and not workflow and (folder / "scheduler").is_dir() else None,
        "licence": licence, "licence_files": [file.relative_to(family.folder or file).as_posix() for file in licence_files(family.folder)],
        "image_inputs": "image and mask" if family.takes_mask else "image" if "super_resolution" in info.family else None,
    } | stock_values(info, family, folder)  # fmt: skip
    front = ModelCardData(library_name="diffusers", pipeline_tag=task, tags=list(dict.fromkeys(tags)), **licence)
    return str(ModelCard(template().render(card_data=front.to_yaml(), **values))).rstrip() + "\n"


@cache
def template() -> Any:
    """The template, compiled once: `ModelCard.from_template` compiles it for every card."""
    from jinja2 import Template

    return Template(TEMPLATE.read_text(encoding="utf-8"))


def why_not(info: Info, folder: Path) -> str | None:
    """Why no stock pipeline samples from the folder as it is; None where one does."""
    if info.kind != "student":
        return {"teacher": "any sampler of its pipeline samples from a teacher", "encoder": "it carries images to noise"}[info.kind]
    if not (folder / "model_index.json").is_file():
        return "its network is one of your own, whose code diffusers does not have"
    import diffusers

    pipeline = index_of(folder)["_class_name"]
    if info.family != "class_conditional" and not hasattr(diffusers, pipeline):
        return f"its pipeline, {pipeline}, is no part of diffusers"
    if (folder / STUDENT).is_dir():
        return "its stock pipeline has no input for the guidance scale; with a scale baked in it runs there"
    if info.sampler == "stochastic":
        return "it was trained for the stochastic sampler, which is no setting of a stock scheduler"
    known = process_of(info.process).train_timesteps
    if info.family in SHIFTED and info.steps is None:
        return "stock pipelines make another grid of times for a model of any number of steps"
    if ("shift" not in info.process or info.family in WHOLE_TIMES) and info.steps and known % info.steps:
        return f"{info.steps} does not divide {known}, for which stock pipelines make another grid of times"
    return None


def stock_values(info: Info, family: Any, folder: Path) -> dict[str, Any]:
    """The values of the template that come from a pipeline folder's parts; none of another folder."""
    import diffusers

    if not (folder / "model_index.json").is_file():
        return {}
    pipeline = index_of(folder)["_class_name"]
    arguments = family.step_arguments(info.steps or DEFAULT_STEPS) | ARGUMENTS.get(pipeline, {})
    vae = config_of(folder, "vae") if (folder / "vae").is_dir() else {}
    if (info.family in SIZED or isinstance(family, ChosenSize)) and info.image_size is not None:
        pixels = info.image_size // info.size
        arguments |= {"height": info.shape[-2] * pixels, "width": info.shape[-1] * pixels}
    if isinstance(family, ChosenSize) and (frames := family.frames_of_latent(folder)):
        arguments["num_frames"] = (info.shape[1] - 1) * frames + 1
    scale = family.unguided if info.baked else scale_for(info)
    arguments["true_cfg_scale" if pipeline == "QwenImagePipeline" else "guidance_scale"] = scale
    parts = [part for part in folder.iterdir() if part.is_dir() and variants_of(part)]
    dtypes = {str(dtype_of(part)).removeprefix("torch.") for part in parts} - {"float32"}  # stock pipelines open a mixture as it is
    optional = optional_components(getattr(diffusers, pipeline)) if hasattr(diffusers, pipeline) else ()
    return {
        "half": min(dtypes, default=None), "pipeline": pipeline, "arguments": arguments, "absent": [part for part in absent(folder) if part not in optional],
        "vae": vae.get("_class_name"), "latent_scaling": latent_scaling(vae) if vae else None,
        "image_features": config_of(folder, "unet")["encoder_hid_dim"] if pipeline == "KandinskyV22Pipeline" else None,
    }  # fmt: skip


def lora_values(info: Info, family: Any, files: list[Path]) -> dict[str, Any]:
    """What a LoRA file's metadata holds (base, guidance scale, ...), with the classes of pipeline and scheduler; of several the first's."""
    from safetensors import safe_open

    with safe_open(files[0], framework="pt") as opened:
        known, names = json.loads(opened.metadata()["fewstep"]), list(opened.keys())
    scheduler = json.loads((files[0].parent / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))["_class_name"]
    known |= {"file": files[0].name if files[0].name != EXPORTED else None, "files": [file.name for file in files]}
    arguments = family.step_arguments(info.steps or DEFAULT_STEPS) | {"guidance_scale": family.unguided}
    kohya = any(name.startswith("lora_unet_") for name in names)
    return known | {"pipeline": family.pipeline_class().__name__, "scheduler": scheduler, "kohya": kohya, "arguments": arguments}


def subject_of(info: Info) -> str:
    """The prompt in the code."""
    return "the call of an owl" if info.makes_sounds else "a photo of an owl"


def scale_for(info: Info) -> float:
    """A guidance scale for the code: the usual one, or the nearest in the model's range; 1 where it is baked in."""
    low, high = info.guidance_scale or (USUAL, USUAL)
    return 1.0 if info.baked else min(max(USUAL, low), high)


def facts_of(info: Info) -> dict[str, str]:
    """The rows of the card's first table."""
    channels, height, size = info.picture_shape
    shown = f"{channels} x {height} x {size} pixels"
    if info.latent_shape and info.image_size:
        shown = f"latents of {' x '.join(map(str, info.latent_shape))}, {size} pixels wide"
    made = "images"
    if info.sampling_rate is not None:
        made, seconds = "sounds", size / info.sampling_rate
        shown = f"latents of {' x '.join(map(str, info.shape))}, {seconds:.4g} seconds of {info.sampling_rate} samples, {channels} channels"
    return {
        "family": f"`{info.family}`", made: shown, "steps": str(info.steps or "any number"), "guidance scale": scales(info),
        "condition": f"{len(info.classes)} classes" if info.condition == "class" else "text", "sampler": info.sampler,
        "prediction": info.prediction, "process": ", ".join(f"{key} {cell(value)}" for key, value in info.process.items() if key != "betas"),
    }  # fmt: skip


def scales(info: Info) -> str:
    """The guidance scales that the model takes; 1 is none, as in diffusers."""
    if info.guidance_scale is None:
        any_scale = "any (two evaluations a step)" if info.kind == "teacher" else "any"
        return "baked into the class labels" if info.baked else any_scale
    low, high = info.guidance_scale
    return f"{low:g}, baked into the weights" if info.baked else f"{low:g} to {high:g}, an input of the network"


def quality(info: Info) -> str:
    """The section of what was measured, as the folder's fewstep.json has it."""
    if not info.quality and info.makes_sounds:
        return "## Quality\n\nNot measured: `fewstep evaluate` is for pictures."
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


def table(heads: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in rows)])


def cell(value: Any) -> str:
    """A value in a table: short, on one line, and nothing that ends a cell."""
    if isinstance(value, list | tuple):
        value = ", ".join(map(cell, value))
    text = " ".join((f"{value:.4g}" if isinstance(value, float) else str(value)).split()).replace("|", "\\|")
    return text if len(text) <= 200 else text[:197] + "..."
