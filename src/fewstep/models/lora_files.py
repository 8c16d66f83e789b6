"""LoRA files that people bring: a model with them merged into its weights, by its own stock pipeline."""

import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fewstep.errors import InputError, as_input_error, shown
from fewstep.models.families import family_for, family_of
from fewstep.models.families.added_embedding import WEIGHTS
from fewstep.models.families.diffusers_family import STUDENT
from fewstep.models.families.pipeline_folder import absent, quiet, variant_to_open
from fewstep.models.metadata import INFO, read_info, write_info

DOWN = ("lora_down.weight", "lora_A.weight", "lora.down.weight")  # ends of names, one for each layer that a file changes
LoRA = tuple[Path, float]  # a file, and how much of it


def loras_of(given: Any) -> tuple[LoRA, ...]:
    """The files of `lora`, each "FILE" or "FILE:WEIGHT", with their weights; none for None.

    Raises:
        InputError: something else, no such file, pickled ones, or a weight that is no finite number.
    """
    texts = (given,) if isinstance(given, str | Path) else () if given is None else given
    if not isinstance(texts, Sequence) or not all(isinstance(text, str | Path) for text in texts):
        raise InputError(f"lora is {shown(given)}; give files, as 'style.safetensors' or 'style.safetensors:0.8'")
    found = []
    for text in map(str, texts):
        name, _, weight = text.rpartition(":")
        try:
            file, much = (Path(name), float(weight)) if name and not Path(text).exists() else (Path(text), 1.0)
        except ValueError:
            file, much = Path(text), 1.0
        if not file.is_file() or file.suffix != ".safetensors":
            raise InputError(f"lora {shown(text)} is no .safetensors file; give one, as style.safetensors or style.safetensors:0.8")
        if not math.isfinite(much):
            raise InputError(f"lora {shown(text)}: its weight is {much}; give a finite number, as 0.8")
        found.append((file.resolve(), much))
    return tuple(found)


def folder_with(folder: Path, loras: tuple[LoRA, ...], variant: str | None = None) -> Path:
    """A folder of the same model with the adapters merged into network and text encoders; it is removed when the process ends.

    Raises:
        InputError: a stock pipeline that loads no LoRA, or a file for another base.
    """
    if not loras:
        return folder
    times = tuple(file.stat().st_mtime_ns for file, _ in loras)
    return Path(_merged(folder.resolve(), loras, variant, times).name) / _name(folder.resolve(), loras)


@cache
def _merged(folder: Path, loras: tuple[LoRA, ...], variant: str | None, times: tuple[int, ...]) -> tempfile.TemporaryDirectory[str]:
    own = (folder / INFO).is_file()
    info = read_info(folder) if own else None
    if not (folder / "model_index.json").is_file():
        raise InputError(f"{folder} is no pipeline of diffusers, so no LoRA can be loaded into it; leave lora out")
    variant = variant_to_open(folder, variant)
    family: Any = family_of(info.family, folder=folder) if info else family_for(folder, variant)
    pipeline_class = family.pipeline_class()
    if not hasattr(pipeline_class, "load_lora_weights") or not family.lora_files:
        raise InputError(f"{pipeline_class.__name__} loads no LoRA into all of {folder}; leave lora out")
    place = family.network_folder(folder)
    made = tempfile.TemporaryDirectory(prefix="fewstep-")
    out, files = Path(made.name) / _name(folder, loras), ", ".join(file.name for file, _ in loras)
    try:
        with quiet(), as_input_error(f"{folder} with {files} cannot be made", "name a LoRA of this base model"):
            network = family.network_class().from_pretrained(folder, subfolder=place, variant=variant, use_safetensors=True)
            parts = absent(folder) | {family.component: network}
            pipeline = pipeline_class.from_pretrained(folder, use_safetensors=True, variant=variant, **parts)
            for number, (file, much) in enumerate(loras):
                merge(pipeline, file, much, f"lora{number}")
            pipeline.save_pretrained(out, safe_serialization=True)
    except BaseException:
        made.cleanup()
        raise
    if place == STUDENT:
        os.rename(out / family.component, out / STUDENT)
        shutil.copy(folder / STUDENT / WEIGHTS, out / STUDENT / WEIGHTS)
    if info:
        entry = {"stage": "lora: " + ", ".join(f"{file.name} ({much:g})" for file, much in loras)}
        write_info(out, info.model_copy(update={"history": (*info.history, entry)}))
    return made


def _name(folder: Path, loras: tuple[LoRA, ...]) -> str:
    """What the merged model is called: the base and its adapters."""
    return "-".join([folder.name, *(file.stem for file, _ in loras)])


def merge(pipeline: Any, file: Path, weight: float, name: str) -> None:
    """Add `weight` times the adapters of a file to the weights of a stock pipeline.

    Raises:
        InputError: not all of the file's layers are in this model: it is for another.
    """
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        there = sum(key.endswith(DOWN) for key in opened.keys())  # noqa: SIM118 - not a dict
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    parts = [part for part in pipeline.components.values() if hasattr(part, "named_modules")]
    layers = [layer for part in parts for layer in part.modules() if name in getattr(layer, "lora_A", {})]
    if not there or len(layers) < there:
        raise InputError(
            f"{file} changes {there} layers, of which {type(pipeline).__name__} has {len(layers)}: it is for another base model"
        )
    changed = [part for part, names in pipeline.get_list_adapters().items() if name in names]
    pipeline.fuse_lora(lora_scale=weight, adapter_names=[name], components=changed)
    pipeline.unload_lora_weights()
