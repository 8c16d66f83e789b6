"""Where a teacher comes from: a diffusers folder, a hub id, or a single checkpoint file. Each becomes a folder on this machine."""

import re
import tempfile
from pathlib import Path

import torch

from fewstep.denoiser import Denoiser
from fewstep.errors import InputError, first_line
from fewstep.families import Family, family_for
from fewstep.info import Info
from fewstep.model import Model
from fewstep.negative_embedding import NegativeCall
from fewstep.prediction import prediction_of
from fewstep.process import process_of

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
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

    from fewstep.families.stock import quiet

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
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint

    key = (file.resolve(), file.stat().st_mtime)
    if key in _converted:
        return Path(_converted[key].name)
    try:
        kind = infer_diffusers_model_type(load_single_file_checkpoint(str(file)))
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
        network = family.open(folder, variant=variant)
    except InputError:
        raise
    except Exception as error:  # whatever diffusers and safetensors raise of files that are missing, cut short or of another kind
        raise InputError(f"{folder} cannot be opened: {first_line(error)}; copy it again") from error
    return Model(denoiser_of(network, info, family), info, family)


def denoiser_of(network: torch.nn.Module, info: Info, family: Family) -> Denoiser:
    """The network as what `info` says that it is."""
    call = NegativeCall(family.call) if info.negative_prompts else family.call
    return Denoiser(network, prediction_of(info.prediction), process_of(info.process), family.null(info), call)


def check_safe(folder: Path) -> None:
    """Raises InputError where a component of a pipeline folder has pickled weights alone."""
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        names = [file.name for file in part.iterdir()]
        if any(n.endswith((".bin", ".ckpt", ".pt")) for n in names) and not any(n.endswith(".safetensors") for n in names):
            raise InputError(
                f"{part} has pickled weights alone, which can run code when opened; convert the folder once where you trust it: {conversion(folder)}"
            )
