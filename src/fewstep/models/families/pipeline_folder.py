"""A pipeline folder of diffusers as JSON: its index and its components' configs, and whether they belong together."""

import json
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from fewstep.errors import InputError, first_line

DISTILLED_NAMES = re.compile(
    r"(?i)(?:^|[-_. ])(turbo|lightning|schnell|hyper-?sd|lcm|tcd|dmd2?|distilled|\d-?steps?)(?=$|[-_. ])"
)  # networks that guide no more
LONGEST_PROMPT = 10**6  # tokens; transformers puts 10^30 where a tokenizer names no limit


def index_of(folder: Path) -> dict[str, Any]:
    """The content of a pipeline folder's model_index.json.

    Raises:
        InputError: it is not there, damaged, or names no pipeline.
    """
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder} has no readable model_index.json ({first_line(error)}); name a whole pipeline folder") from None
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise InputError(f"{folder}/model_index.json names no pipeline (_class_name); name a whole pipeline folder")
    return index


def absent(folder: Path) -> dict[str, Any]:
    """The components that a pipeline folder is without, as None, as some stock pipelines must be given them."""
    return {name: None for name, kind in components_of(folder).items() if kind[0] is None}


def components_of(folder: Path) -> dict[str, list[str | None]]:
    """The components that a pipeline folder names, with (library, class) of each; its other values are settings, lists among them."""
    index = index_of(folder).items()
    return {
        name: kind
        for name, kind in index
        if isinstance(kind, list) and len(kind) == 2 and {type(x) for x in kind} <= {str, type(None)}
    }


def has_part(folder: Path | None, name: str) -> bool:
    """Whether a pipeline folder names a component and holds it."""
    if folder is None or not (folder / name).is_dir():
        return False
    value = index_of(folder).get(name)
    return isinstance(value, list) and bool(value) and value[0] is not None


def config_of(folder: Path, part: str) -> dict[str, Any]:
    """The config of a component.

    Raises:
        InputError: the folder has none, or it is damaged.
    """
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no table of values")
        return config
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{folder} has no readable {part}/{file.name} ({first_line(error)}); name a whole pipeline folder"
        ) from None


@contextmanager
def naming_damage(folder: Path) -> Iterator[None]:
    """Raises InputError in place of whatever a library raises of a pipeline folder, naming the file or part of it that is damaged."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        found = damaged_part(folder)
        where, why = (folder, first_line(error)) if found is None else found
        raise InputError(f"{where} is damaged or missing ({why}); copy {folder} again") from error


def damaged_part(folder: Path) -> tuple[Path, str] | None:
    """(the file or part of a pipeline folder that cannot be read, why): what is no JSON or no safetensors, else what its class refuses."""
    from safetensors import safe_open

    for file in sorted(folder.rglob("*.*")):
        try:
            if file.is_file():
                file.open("rb").close()  # which says why, as safetensors does not
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            elif file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
        except Exception as error:
            return file, first_line(error)
    parts = {name: value for name, value in index_of(folder).items() if isinstance(value, list) and len(value) == 2 and all(value)}
    unknown: tuple[Path, str] | None = None
    for name, (library, kind) in parts.items():
        try:
            made = getattr(import_module(library), kind)
        except (ImportError, AttributeError, TypeError, ValueError):  # as of what only its own pipeline knows
            unknown = folder / "model_index.json", f"it names {library}.{kind}, which is not known"
            continue
        try:
            with quiet():
                made.from_pretrained(folder, subfolder=name)
        except ImportError:  # a scheduler that needs a package which is not here (Stable Audio's)
            continue
        except Exception as error:
            return folder / name, first_line(error)
    return unknown


def variants_of(part: Path) -> set[str]:
    """The variants of the weights in a component's folder: "fp16", "" for plain ones; nothing where it has none."""
    names = [file.name.split(".") for file in part.glob("*.safetensors")]
    return {
        name[1].split("-")[0] if len(name) > 2 else "" for name in names
    }  # model.safetensors, model.fp16-00001-of-00002.safetensors


DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # what safetensors calls them


def dtype_of(part: Path, variant: str | None = None) -> torch.dtype:
    """The dtype of most of the weights in a component's folder, of a variant where it has that; float32 where they are in another form."""
    from safetensors import safe_open

    counts: dict[str, int] = {}
    for file in part.glob("*.safetensors"):
        if (f".{variant}" in file.name) == (variant in variants_of(part)):
            with safe_open(file, "pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - not a dict
                    piece = opened.get_slice(key)
                    counts[piece.get_dtype()] = counts.get(piece.get_dtype(), 0) + math.prod(piece.get_shape())
    most = max(counts, key=lambda name: counts[name], default="F32")
    return DTYPES.get(most, torch.float32)


def variant_to_open(folder: Path, variant: str | None) -> str | None:
    """The variant of a folder's weights: the one that is asked for, else "" alone is plain; where a part has but one other, that, with a warning.

    Raises:
        InputError: no part has weights of the variant that is asked for, or there are several to choose from.
    """
    found = [kinds for part in folder.iterdir() if part.is_dir() and (kinds := variants_of(part))]
    others = set().union(*(kinds for kinds in found if "" not in kinds))
    if variant is not None:
        known = set().union(*found)
        if variant not in known:
            named = ", ".join(sorted(kind or "plain" for kind in known)) or "none"
            raise InputError(f"{folder} has no weights of the variant {variant!r}, but {named}; name another --variant, or none")
        return variant
    if len(others) > 1:
        raise InputError(
            f"{folder} has no plain weights, but the variants {', '.join(sorted(others))}; name one: --variant {min(others)}"
        )
    if others:
        warnings.warn(f"{folder} has {min(others)} weights alone; they are opened as float32", stacklevel=3)
    return min(others, default=None)


def set_token_limits(pipeline: Any) -> None:
    """Give each tokenizer that names no model_max_length that of its text encoder: stock pipelines fill prompts up to it."""
    for name, part in pipeline.components.items():
        encoder = getattr(pipeline, name.replace("tokenizer", "text_encoder"), None) if "tokenizer" in name else None
        limit = None if encoder is None else getattr(encoder.config, "max_position_embeddings", None)
        if limit and part is not None and part.model_max_length > LONGEST_PROMPT:
            part.model_max_length = limit


def check_weights(pipeline: Any, folder: Path) -> None:
    """Raises InputError where the file of a part lacks some of its weights: diffusers leaves those without content."""
    for name, part in pipeline.components.items():
        for weight, value in part.named_parameters() if hasattr(part, "named_parameters") else ():
            if value.is_meta:
                raise InputError(f"{folder / name} lacks the weight {weight}; copy {folder} again")


def check_fit(folder: Path, what: str, gives: Any, takes: Any) -> None:
    """Raises InputError where what a part gives is not what the network takes."""
    if gives != takes:
        raise InputError(f"{folder}: {what} are {gives}, the network takes {takes}; they do not belong together")


def check_guided(folder: Path, config: dict[str, Any], *, hint: str = "its teacher", force: bool = False) -> None:
    """Raises InputError where the network has an input for guidance, or scheduler or name are those of distilled networks alone.

    With `force` the last two are no reason.
    """
    scheduler, name = config_of(folder, "scheduler").get("_class_name", ""), hub_name(folder)
    inputs = [f"{key} is set" for key in ("time_cond_proj_dim", "guidance_embeds") if config.get(key)]
    marks = [f"its scheduler is {scheduler}"] if "LCM" in scheduler or "TCD" in scheduler else []
    marks += [f"its name has '{mark[1]}'" for mark in [DISTILLED_NAMES.search(name)] if mark]
    if inputs:
        raise InputError(
            f"{folder} is guidance-distilled already ({inputs[0]}): it has no unguided branch to learn from; name {hint}"
        )
    if marks and not force:
        raise InputError(
            f"{folder} is distilled already ({marks[0]}), and guides no more; name {hint}, or give --force (teacher.force) where you know better"
        )


def hub_name(folder: Path) -> str:
    """What a pipeline is called: its repository's name where the folder is in the cache of the hub, else the folder's."""
    stored = [part for part in folder.resolve().parts if part.startswith("models--")]
    return stored[-1].split("--")[-1] if stored else folder.resolve().name


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and remarks of diffusers and transformers: our own errors say what matters."""
    import diffusers.utils.logging as ours
    import transformers.utils.logging as theirs

    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in (ours, theirs)]
    try:
        for log, _, _ in before:
            log.set_verbosity_error()
            log.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")  # of how diffusers uses itself
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*weight_norm")  # of Stable Audio's autoencoder
            warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit.script")  # of Kolors' text encoder
            yield
    finally:
        for log, verbosity, bar in before:
            log.set_verbosity(verbosity)
            if bar:
                log.enable_progress_bar()
