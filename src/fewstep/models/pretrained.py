"""Model folders: a diffusers pipeline folder, safetensors only, plus `fewstep.json`. Opened, checked and saved here."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewstep.compat import checkpoint_kind
from fewstep.errors import InputError, first_line
from fewstep.method.guidance_rules import rule_of
from fewstep.method.parameterization import prediction_of
from fewstep.method.process import process_of
from fewstep.models.denoiser import Denoiser
from fewstep.models.families import Family, family_for, family_of
from fewstep.models.lora import merged, save_adapters
from fewstep.models.metadata import HUB_ID, INFO, Info, find_folder, is_run, read_info, rung_of
from fewstep.models.model import Model
from fewstep.models.negative_prompts import NegativeCall, open_network, remove_embedding, save_embedding
from fewstep.models.verify import check_agreement

WriteCard = Callable[[Model, Path, str], None]


def open_model(
    path: str | Path,
    device: torch.device | str = "cpu",
    steps: int | None = None,
    network: Any = None,
    *,
    revision: str | None = None,
    variant: str | None = None,
) -> Model:
    """The model of a folder, of a run folder (its rung for `steps`, else its last), or the bundled one of a name ("digits", "digits-student").

    A folder of a stock diffusers pipeline, a hub id (with its `revision` and `variant`) or a single `.safetensors` checkpoint is
    opened as a teacher. `network` is the module, or the `Denoiser`, whose weights the folder of a network of one's own holds.

    Raises:
        InputError: nothing there, a folder of something else, or damaged files.
    """
    folder = find_folder(path)
    folder = local_folder(folder if folder.exists() else path, revision, variant)
    if is_run(folder):
        folder = rung_of(folder, steps)
    if not (folder / INFO).is_file():
        return open_teacher(folder, variant).to(device)
    info = read_info(folder)
    family = family_of(info.family, network, folder)
    try:
        network = open_network(family, folder)
    except InputError:
        raise
    except Exception as error:  # whatever diffusers and safetensors raise of files that are missing, cut short or of another kind
        raise InputError(f"{folder} cannot be opened as {info.family}: {first_line(error)}; copy it again") from error
    return Model(denoiser_of(network, info, family), info, family).to(device)


def check_free(folder: Path) -> None:
    """Nothing but a model folder may be replaced.

    Raises:
        InputError: the folder holds something else.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / INFO).is_file())):
        raise InputError(f"{folder} holds something else; name a folder that is new or empty")


def save_model(model: Model, folder: Path, write_card: WriteCard | None = None) -> Path:
    """Write a model folder aside, sample from it with diffusers alone, compare, and rename it into place.

    `write_card(model, folder, name)` adds the model's card to the complete folder.

    Raises:
        InputError: the folder holds something else, or cannot be written.
        RuntimeError: stock diffusers gives other samples than we do (a fault of ours; nothing is left behind).
    """
    from safetensors import SafetensorError

    check_free(folder)
    given, model = model, model.fold_negative_prompt()
    network = merged(model.denoiser.network)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        (aside / INFO).write_text(json.dumps(model.info.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
        model.family.write(remove_embedding(network), model.denoiser.process, prediction_of(model.info.prediction), aside)
        save_embedding(network, aside)
        if model is given:  # a negative prompt that was baked in is in no adapter
            save_adapters(model, aside)
        if write_card is not None:
            write_card(model, aside, folder.name)
        check_agreement(model, aside)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(aside, folder)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {folder}: {error}; free some space and run the same command again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


SINGLE_FILES = {  # what diffusers calls a checkpoint's kind, by its beginning -> the pipeline that reads it
    "inpainting": "StableDiffusionInpaintPipeline", "v1": "StableDiffusionPipeline", "v2": "StableDiffusionPipeline",
    "xl_base": "StableDiffusionXLPipeline", "xl_inpaint": "StableDiffusionXLInpaintPipeline", "sd3": "StableDiffusion3Pipeline",
}  # fmt: skip


_converted: dict[tuple[Path, float], tempfile.TemporaryDirectory[str]] = {}  # they are removed when the process ends


def local_folder(path: str | Path, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder on this machine for a folder, a hub id or a `.safetensors` file; what is not here is downloaded or converted.

    Raises:
        InputError: nothing there, or weights that are pickled.
    """
    given = Path(path)
    if given.is_dir():
        return given
    if given.suffix in (".ckpt", ".bin", ".pt", ".pth"):
        raise InputError(
            f"{path} is pickled, which can run code when opened; convert it once where you trust it: {conversion(path)}"
        )
    if given.is_file():
        return from_single_file(given)
    if not HUB_ID.fullmatch(str(path)):
        raise InputError(
            f"model '{path}' is not a folder; name a model folder, a run folder, a hub id, a .safetensors file, or a bundled teacher: digits"
        )
    return download(str(path), revision, variant)


def download(hub_id: str, revision: str | None, variant: str | None) -> Path:
    """The folder of a hub repository's pipeline, downloaded as diffusers does it, safetensors only.

    Raises:
        InputError: no such repository, no pipeline in it, or no connection.
    """
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from fewstep.models.families.pipeline_folder import quiet

    try:
        with quiet():
            return Path(DiffusionPipeline.download(hub_id, revision=revision, variant=variant, use_safetensors=True))
    except Exception as error:  # the hub's own kinds of error are many: no repository, no file, no connection, gated, offline
        reason = first_line(error)
        raise InputError(
            f"model '{hub_id}' is not a folder here, and as a hub id it gives no pipeline of safetensors: {reason}; check id, revision and variant"
        ) from error


def from_single_file(file: Path) -> Path:
    """A folder with the pipeline of a single checkpoint, converted by diffusers; it lasts as long as this process.

    Raises:
        InputError: not a checkpoint that diffusers knows.
    """
    import diffusers

    key = (file.resolve(), file.stat().st_mtime)
    if key in _converted:
        return Path(_converted[key].name)
    try:
        kind = checkpoint_kind(file)
        known = [name for start, name in SINGLE_FILES.items() if kind.startswith(start)]
        if not known:
            raise InputError(f"{file} is a checkpoint of kind {kind!r}; known: {', '.join(SINGLE_FILES)}")
        folder = tempfile.TemporaryDirectory(prefix="fewstep-")
        pipeline = getattr(diffusers, known[0]).from_single_file(str(file), safety_checker=None)
        pipeline.save_pretrained(folder.name, safe_serialization=True)
    except InputError:
        raise
    except Exception as error:  # whatever diffusers raises of a file of another kind, or of configs that it cannot download
        reason = first_line(error)
        raise InputError(f"{file} cannot be opened as a checkpoint: {reason}; convert it: {conversion(file)}") from error
    _converted[key] = folder
    return Path(folder.name)


def conversion(path: str | Path) -> str:
    """The command that makes a safetensors folder of pickled weights."""
    name = "DiffusionPipeline.from_pretrained" if Path(path).is_dir() else "StableDiffusionPipeline.from_single_file"
    kind, chosen = name.split(".")[0], ", use_safetensors=False" if Path(path).is_dir() else ""
    return f"python -c \"from diffusers import {kind}; {name}('{path}'{chosen}).save_pretrained('converted')\""


def open_teacher(folder: Path, variant: str | None = None) -> Model:
    """The teacher of a diffusers folder that `fewstep` did not write.

    Raises:
        InputError: no pipeline folder, of no known family, no teacher, or weights that are pickled or damaged.
    """
    if not (folder / "model_index.json").is_file():
        raise InputError(
            f"{folder} is not a model folder: neither fewstep.json nor model_index.json is in it; name a pipeline folder"
        )
    try:
        family = family_for(folder, variant)
        check_safe(folder)
        info = family.describe(folder)
        network = family.open(folder)
    except InputError:
        raise
    except Exception as error:  # whatever diffusers and safetensors raise of files that are missing, cut short or of another kind
        raise InputError(f"{folder} cannot be opened: {first_line(error)}; copy it again") from error
    return Model(denoiser_of(network, info, family), info, family)


def denoiser_of(network: torch.nn.Module, info: Info, family: Family) -> Denoiser:
    """The network with the prediction, process and calls that `info` names."""
    call = NegativeCall(family.call) if info.negative_prompts else family.call
    made = Denoiser(network, prediction_of(info.prediction), process_of(info.process), family.null(info), call)
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
        names = [file.name for file in part.iterdir()]
        if any(n.endswith((".bin", ".ckpt", ".pt")) for n in names) and not any(n.endswith(".safetensors") for n in names):
            raise InputError(
                f"{part} has pickled weights alone, which can run code when opened; convert the folder once where you trust it: {conversion(folder)}"
            )
