"""Model folders: a diffusers pipeline folder, safetensors only, plus `fewstep.json`. Opened, checked and saved here."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fewstep.compat import checkpoint_kind
from fewstep.devices import best_device, return_memory
from fewstep.errors import InputError, as_input_error, check_whole_number, shown
from fewstep.files import contents, replace_folder, temporary, usual_mode, utf8_path_of, writing
from fewstep.method.guidance_rules import rule_of
from fewstep.method.parameterization import prediction_of
from fewstep.method.process import process_of
from fewstep.models.denoiser import Denoiser, check_finite
from fewstep.models.families import Family, family_for, family_of
from fewstep.models.families.pipeline_folder import naming_damage, quiet, variant_to_open
from fewstep.models.families.unchanged_parts import link_same_files
from fewstep.models.file_hashes import HASHES, changing, check_hashes, hashes_of, write_hashes
from fewstep.models.half_weights import HALF
from fewstep.models.lora import merged, save_adapters
from fewstep.models.lora_files import folder_with, loras_of
from fewstep.models.metadata import HUB_ID, INFO, Info, find_folder, is_run, read_info, rung_of, write_info
from fewstep.models.model import Model
from fewstep.models.negative_prompts import NegativeCall, open_network, remove_embedding, save_embedding
from fewstep.models.verify import compared

WriteCard = Callable[[Model, Path, str], None]


def open_model(
    path: str | Path,
    device: torch.device | str = "cpu",
    steps: int | None = None,
    network: Any = None,
    *,
    revision: str | None = None,
    variant: str | None = None,
    lora: Any = None,
    force: bool = False,
    verify: bool = True,
    dtype: torch.dtype | None = torch.float32,
) -> Model:
    """The model of a folder, of a run folder, a hub id, a single file, or the bundled one of a name; `fewstep.open_model` says more.

    Weights are kept in `dtype` (None: as the folder has them), and computed with in float32 where that is half precision.

    Raises:
        InputError: nothing there, a folder of something else, or damaged files.
    """
    if steps is not None:
        check_whole_number("steps", steps, 1)
    for name, value in (("revision", revision), ("variant", variant)):
        if not isinstance(value, str | None):
            raise InputError(f"{name} is {shown(value)}; give text, or leave it out")
    device = best_device("cpu" if device is None else device)
    loras = loras_of(lora)
    folder = local_folder(path, revision, variant)
    if is_run(folder):
        folder = rung_of(folder, steps)
    if loras:
        folder, variant = folder_with(folder, loras, variant), None
    own = (folder / INFO).is_file() or (folder / HASHES).is_file()
    if not own and not (folder / "model_index.json").is_file():
        for file in folder.glob("*.safetensors"):
            check_whole(file)
        raise InputError(
            f"{folder} is not a model folder: neither fewstep.json nor model_index.json is in it; name a pipeline folder"
        )
    with naming_damage(folder):  # files that are missing, cut short or of another kind
        if own:
            info = read_info(folder)
            if verify:
                check_hashes(folder)
            if variant is not None:
                variant_to_open(folder, variant)
            family = family_of(info.family, network, folder)
        else:
            check_safe(folder)
            family = family_for(folder, variant_to_open(folder, variant), force)
            info = family.describe(folder)
        network = open_network(family, folder, dtype or family.stored_dtype(folder))
        if own:
            family.check_info(info)
    check_finite(network, str(folder))
    return Model(denoiser_of(network, info, family), info, family).to(device)


def save_model(model: Model, folder: Path, write_card: WriteCard | None = None, dtype: torch.dtype | None = None) -> Path:
    """Write a model folder aside and rename it into place; then sample from it with diffusers alone, compare, and note the difference.

    `write_card(model, folder, name)` adds the model's card to the complete folder. The network's weights are written in `dtype`, by
    default in that of the folder which the model's other parts come from. A difference is a warning: what is saved stays.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    folder = utf8_path_of("folder", folder)
    if not folder.name:
        raise InputError(f"folder '{folder}' has no name; give one, as ./model")
    if folder.exists() and (not folder.is_dir() or (contents(folder) and not (folder / INFO).is_file())):
        raise InputError(f"{folder} holds something else; name a folder that is new or empty")
    given, model = model, model.fold_negative_prompt()
    network = merged(model.denoiser.network, dtype or (model.family.stored_dtype() if model.family.folder else None), "cpu")
    aside = temporary(folder)
    try:
        with writing(folder):
            aside.mkdir(parents=True)
            write_info(aside, model.info.model_copy(update={"stock": {}}))
            model.family.write(remove_embedding(network), model.denoiser.process, prediction_of(model.info.prediction), aside)
            save_embedding(network, aside)
            if model is given:  # a negative prompt that was baked in is in no adapter
                save_adapters(model, aside)
            if write_card is not None:
                write_card(model, aside, folder.name)
            del network
            return_memory()
            for file in aside.rglob("*"):
                if file.is_file():
                    usual_mode(file)
            write_hashes(aside, but=INFO)  # which changes once more
            link_same_files(aside, folder.parent)
            replace_folder(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    note_comparison(model, folder)
    return folder


def note_comparison(model: Model, folder: Path) -> None:
    """Compare a model folder with the model by stock diffusers and write the figures into its `fewstep.json`, which then has its hash."""
    found = compared(model, folder)
    with changing(folder, INFO):
        write_info(folder, model.info.model_copy(update={"stock": found}))


def is_compared(folder: Path) -> bool:
    """Whether a save of ours came to its end: not where it was killed after the folder was in place, before the comparison was noted."""
    hashes = hashes_of(folder)
    return not hashes or INFO in hashes


LORA_MARKS = (
    "lora_A.",
    "lora_B.",
    "lora_down.",
    "lora_up.",
    ".lora.",
    "lora_linear_layer",
    "hada_w1",
    "lokr_w1",
)  # in names of tensors
SINGLE_FILES = {  # what diffusers calls a checkpoint's kind, by its beginning -> the pipeline that reads it
    "inpainting": "StableDiffusionInpaintPipeline", "v1": "StableDiffusionPipeline", "v2": "StableDiffusionPipeline",
    "xl_base": "StableDiffusionXLPipeline", "xl_inpaint": "StableDiffusionXLInpaintPipeline", "sd3": "StableDiffusion3Pipeline",
}  # fmt: skip


def local_folder(path: str | Path, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder on this machine for a folder, a bundled name, a hub id or a `.safetensors` file, downloaded or converted where needed.

    Raises:
        InputError: nothing there, or weights that are pickled.
    """
    given = find_folder(path)
    if given.is_dir():
        return given
    if given.suffix in (".ckpt", ".bin", ".pt", ".pth"):
        raise InputError(
            f"{path} is pickled, which can run code when opened; convert it once where you trust it: {conversion(path)}"
        )
    if given.is_file():
        return Path(_converted(given.resolve(), given.stat().st_mtime).name)
    if not HUB_ID.fullmatch(str(path)):
        raise InputError(
            f"model '{path}' is not a folder; name a model folder, a run folder, a hub id, a .safetensors file, or a bundled teacher: digits"
        )
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    problem = f"model '{path}' is not a folder here, and as a hub id it gives no pipeline of safetensors"
    with quiet(), as_input_error(problem, "check id, revision and variant"):
        return Path(DiffusionPipeline.download(str(path), revision=revision, variant=variant, use_safetensors=True))


@cache
def _converted(file: Path, changed: float) -> tempfile.TemporaryDirectory[str]:
    """A folder with the pipeline of a single checkpoint of this time, converted by diffusers; it is removed when the process ends.

    Raises:
        InputError: not a checkpoint that diffusers knows, or configs that it cannot download.
    """
    import diffusers

    with as_input_error(f"{file} cannot be opened as a checkpoint", f"convert it: {conversion(file)}"):
        check_whole(file)
        kind = checkpoint_kind(file)
        known = [name for start, name in SINGLE_FILES.items() if kind.startswith(start)]
        if not known:
            raise InputError(f"{file} is a checkpoint of kind {kind!r}; known: {', '.join(SINGLE_FILES)}")
        pipeline = getattr(diffusers, known[0]).from_single_file(str(file), safety_checker=None)
        folder = tempfile.TemporaryDirectory(prefix="fewstep-")
        pipeline.save_pretrained(folder.name, safe_serialization=True)
        return folder


def check_whole(file: Path) -> None:
    """Raises InputError where a `.safetensors` file holds a LoRA, which is no model by itself."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            names = list(opened.keys())
    except (OSError, SafetensorError):  # what opens it says so
        return
    if any(mark in name for name in names for mark in LORA_MARKS):
        raise InputError(
            f"{file} is a LoRA, adapters for the weights of a base model: name the base as the model, and this by --lora {file}"
        )


def conversion(path: str | Path) -> str:
    """The command that makes a safetensors folder of pickled weights."""
    name = "DiffusionPipeline.from_pretrained" if Path(path).is_dir() else "StableDiffusionPipeline.from_single_file"
    kind, chosen = name.split(".")[0], ", use_safetensors=False" if Path(path).is_dir() else ""
    return f"python -c \"from diffusers import {kind}; {name}('{path}'{chosen}).save_pretrained('converted')\""


def denoiser_of(network: torch.nn.Module, info: Info, family: Family) -> Denoiser:
    """The network with the prediction, process and calls that `info` names."""
    call = NegativeCall(family.call) if info.negative_prompts else family.call
    dtype = torch.float32 if next(network.parameters()).dtype in HALF else None
    made = Denoiser(network, prediction_of(info.prediction), process_of(info.process), family.null(info), call, dtype=dtype)
    if info.kind != "teacher" or not info.guidance:
        return made
    if "weak" in info.guidance:
        raise InputError(
            f"this teacher was guided by the weak model {info.guidance['weak']}; open the teacher that it was saved from"
        )
    return replace(made, rule=rule_of(info.guidance))


def guided_as(teacher: Model, guidance: dict[str, Any]) -> Model:
    """The teacher guided by the rule of `fewstep.json` or of a recipe: a name, its numbers, and maybe the folder of a weak model.

    Raises:
        InputError: an unknown rule, or a weak model that is not here or does not belong to the teacher.
    """
    weak, rule = guidance.get("weak"), {key: value for key, value in guidance.items() if key != "weak"}
    if not guidance or guidance == teacher.info.guidance:
        return teacher
    return teacher.with_guidance(rule, None if weak is None else open_model(weak, teacher.denoiser.device))


def check_safe(folder: Path) -> None:
    """Raises InputError where a component of a pipeline folder has pickled weights alone."""
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        kinds = {file.suffix for file in part.iterdir()}
        if kinds & {".bin", ".ckpt", ".pt"} and ".safetensors" not in kinds:
            raise InputError(
                f"{part} has pickled weights alone, which can run code when opened; convert the folder once where you trust it: {conversion(folder)}"
            )
