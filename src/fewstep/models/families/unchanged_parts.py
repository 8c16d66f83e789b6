"""The parts of a pipeline folder that a student does not change, in the student's folder: as they came, and on disk once a run."""

import inspect
import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fewstep.compat import optional_components
from fewstep.models.families.pipeline_folder import LONGEST_PROMPT, config_of, has_part, index_of, variants_of
from fewstep.models.file_hashes import hash_of, hashes_of
from fewstep.models.metadata import is_run

PICKLED = (
    ".bin",
    ".ckpt",
    ".pt",
    ".pth",
    ".msgpack",
    ".h5",
    ".onnx",
    ".onnx_data",
)  # weights in forms that no student's folder has
LEAST = 1 << 16  # bytes of a file that is worth a link


def write_parts(source: Path, target: Path, variant: str | None, pipeline_class: Any, written: dict[str, Any]) -> None:
    """Write `model_index.json` into a new pipeline folder, and all parts of the folder `source` but those that are `written` by their name.

    Weights keep the dtype in which they came; those of `variant` take their plain names. Tokenizers without a limit get that of their
    text encoder, since stock pipelines fill prompts up to it.
    """
    import diffusers

    given, index = index_of(source), {"_class_name": pipeline_class.__name__, "_diffusers_version": diffusers.__version__}
    for name in sorted(set(inspect.signature(pipeline_class.__init__).parameters) - {"self"}):
        value = given.get(name)
        if name in written:
            value = ["diffusers", type(written[name]).__name__]
        elif isinstance(value, list) and value[0] is not None and has_part(source, name):
            write_part(source, target, name, variant)
        elif is_component(pipeline_class, name):
            value = [None, None]
        if name in given or value is not None:
            index[name] = value
    (target / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def is_component(pipeline_class: Any, name: str) -> bool:
    """Whether an argument of a pipeline class is a part, and no setting: settings have defaults."""
    given = inspect.signature(pipeline_class.__init__).parameters[name]
    return given.default is inspect.Parameter.empty or name in optional_components(pipeline_class)


def write_part(source: Path, target: Path, name: str, variant: str | None) -> None:
    """Put one part of a folder into another, without pickled weights and without weights of other variants."""
    part, known = source / name, variants_of(source / name)
    chosen = variant if variant in known else ""
    for file in sorted(path for path in part.rglob("*") if path.is_file() and path.suffix not in PICKLED):
        if ".safetensors" in file.name and variant_of(file.name) != chosen:
            continue
        made = target / name / file.relative_to(part).with_name(plain(file.name, chosen))
        made.parent.mkdir(parents=True, exist_ok=True)
        if chosen and file.name.endswith(".json") and ".safetensors" in file.name:  # the index of sharded weights names their files
            shards = json.loads(file.read_text(encoding="utf-8"))
            shards["weight_map"] = {key: plain(value, chosen) for key, value in shards["weight_map"].items()}
            made.write_text(json.dumps(shards, indent=2) + "\n", encoding="utf-8")
        else:
            place(file, made, target.parent)
    set_token_limit(source, target, name)


def variant_of(name: str) -> str:
    """The variant in the name of a file of weights: "fp16" of model.fp16.safetensors, model.safetensors.index.fp16.json and shards; else ""."""
    words = [word.split("-")[0] for word in name.split(".")]
    return next((word for word in words[1:] if word not in ("safetensors", "index", "json")), "")


def plain(name: str, variant: str) -> str:
    """The name of a file of weights without its variant."""
    return name.replace(f".{variant}", "", 1) if variant else name


def set_token_limit(source: Path, target: Path, name: str) -> None:
    """Give a tokenizer that names no model_max_length that of its text encoder."""
    file, encoder = target / name / "tokenizer_config.json", name.replace("tokenizer", "text_encoder")
    if "tokenizer" not in name or not file.is_file() or not has_part(source, encoder):
        return
    known, limit = json.loads(file.read_text(encoding="utf-8")), config_of(source, encoder).get("max_position_embeddings")
    if limit and known.get("model_max_length", LONGEST_PROMPT + 1) > LONGEST_PROMPT:
        file.unlink()  # it may be a link
        file.write_text(json.dumps(known | {"model_max_length": limit}, indent=2) + "\n", encoding="utf-8")


def place(source: Path, target: Path, run: Path) -> None:
    """Make `target` the same as `source`: a hard link to that file in another folder of the run, else a copy."""
    same = run_files(run).get(hash_of(source)) if is_run(run) and source.stat().st_size >= LEAST else None
    try:
        os.link(same or "", target)
    except OSError:  # there is none, or the file system has no links
        shutil.copyfile(source, target)


def link_same_files(folder: Path, run: Path) -> None:
    """Put hard links in the place of a folder's files that are in another folder of the run too."""
    if not is_run(run):
        return
    others = run_files(run)
    for name, found in hashes_of(folder).items():
        file, same = folder / name, others.get(found)
        if same is None or file.stat().st_nlink > 1 or file.stat().st_size < LEAST:
            continue
        aside = file.with_name(f".{file.name}.link")
        try:
            os.link(same, aside)
            os.replace(aside, file)
        except OSError:  # a file system without links
            return


def run_files(run: Path) -> dict[str, Path]:
    """The files in the model folders of a run by their hashes."""
    found: dict[str, Path] = {}
    for record in sorted(run.glob("*/fewstep-files.json")):
        if not record.parent.name.startswith("."):
            found |= _files_in(record.parent, record.stat().st_mtime_ns)
    return found


@cache
def _files_in(folder: Path, changed: int) -> dict[str, Path]:
    return {value: folder / name for name, value in hashes_of(folder).items()}


class Shapes:
    """A part of a pipeline without weights: its config and attributes are those of its class, on the meta device."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["made"], name)


def bare_pipeline(pipeline_class: Any, folder: Path, parts: dict[str, Any], autoencoder: str) -> Any:
    """The stock pipeline of a folder with these parts, its schedulers and the settings of its index; of its autoencoder the shapes, unless given."""
    import diffusers

    index, given = index_of(folder), dict(parts)
    for name in set(inspect.signature(pipeline_class.__init__).parameters) - {"self", *parts}:
        value = index.get(name)
        if not is_component(pipeline_class, name):
            given |= {name: value} if name in index else {}
        elif value is None:
            given[name] = None
        elif name.endswith("scheduler"):
            given[name] = getattr(diffusers, value[1]).from_pretrained(folder, subfolder=name)
        elif name == autoencoder and has_part(folder, name):
            with torch.device("meta"):
                given[name] = Shapes(getattr(diffusers, value[1]).from_config(config_of(folder, name)))
        else:
            given[name] = None
    pipeline = pipeline_class(**given)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
