"""What a path is: a model, a run, a recipe or data, with what it takes to use it."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fewstep.data.bucketed import fits_of
from fewstep.data.buckets import described, usual_buckets
from fewstep.data.latent_cache import CachedData, is_cache, read_index
from fewstep.data.loading import Data, open_data, open_source
from fewstep.data.prompts import prompt_file
from fewstep.data.sources import SourceSettings
from fewstep.data.summary import contents_of, summary
from fewstep.errors import InputError
from fewstep.models.metadata import INFO, find_folder, is_run
from fewstep.models.pretrained import open_model
from fewstep.models.shapes import has_configs_alone, open_shapes
from fewstep.training.cost_estimate import about, distillation_size, plan, plan_text, planned_teacher
from fewstep.training.logging import entries_of
from fewstep.training.plan_of_stages import stages_of
from fewstep.training.recipe import RECIPE, load_recipe, make_recipe, shipped_recipes, to_toml
from fewstep.training.settings import DataSettings


def describe(path: str, variant: str | None = None, buckets: int | None = None, **training: Any) -> dict[str, Any]:
    """JSON-able facts about a model folder, run folder, recipe, cache or data; `what` says which it is. `training` as for `describe_model`.

    With `buckets` also how data would go to those of that square's area.

    Raises:
        InputError: it is none of these.
    """
    here = find_folder(path)
    if not here.exists():
        if path in shipped_recipes():
            return describe_recipe(shipped_recipes()[path])
        raise InputError(
            f"'{path}' is neither a file, a folder, nor a shipped name; shipped: {', '.join(sorted(shipped_recipes()))}"
        )
    if here.is_dir() and ((here / INFO).is_file() or (here / "model_index.json").is_file()):
        return describe_model(here, variant, **training)
    if here.is_dir() and is_run(here):
        return describe_run(here)
    if is_cache(here):
        return describe_cache(here)
    return describe_recipe(here) if here.suffix == ".toml" else describe_data(here, buckets)


def describe_model(folder: Path, variant: str | None = None, **training: Any) -> dict[str, Any]:
    """Facts about a model folder; the memory is that of float32 weights, and of training them with AdamW and an average.

    Of a folder that holds configs alone, and where something of `training` is given, also what its distillation takes
    (`cost_estimate.distillation_size`).
    """
    bare = not (folder / INFO).is_file() and has_configs_alone(folder)
    model = open_shapes(folder) if bare else open_model(folder, variant=variant)
    info = model.info
    parameters = sum(p.numel() for p in model.denoiser.network.parameters())
    given = {key: value for key, value in training.items() if value is not None}
    return {
        "what": "model",
        "path": str(folder),
        **({"weights": "not here: of the configs alone"} if bare else {}),
        **info.model_dump(mode="json", exclude={"format", "process"}),
        "process": info.process["name"],
        "parameters": parameters,
        "memory_bytes": {"weights": 4 * parameters, "training": 4 * 5 * parameters},  # weights, gradients, two moments, the average
        "evaluations": "2 a step, 1 at guidance scale 1" if info.kind == "teacher" else "1 a step",
        **(distillation_size(model, **given) if bare or given else {}),
    }


def describe_run(folder: Path) -> dict[str, Any]:
    """Facts about a run folder: its finished stages, and where it stands; of bundled students the models alone."""
    finished = [path.parent.name for path in sorted(folder.glob(f"*/{INFO}"), key=lambda p: p.stat().st_mtime)]
    facts: dict[str, Any] = {"what": "run", "path": str(folder), "models": finished}
    recipe = load_recipe(folder / RECIPE) if (folder / RECIPE).is_file() else None
    logged = entries_of(folder / "log.jsonl")
    stages = [name for name, *_ in stages_of(recipe, distilling=True)] if recipe else []
    facts["finished"] = set(stages) <= set(finished) or finished == ["teacher"]
    facts["last_logged"] = logged[-1] if logged else None
    return facts | ({"recipe": recipe.model_dump(mode="json")} if recipe else {})


def describe_recipe(path: Path) -> dict[str, Any]:
    """Facts about a recipe: its settings and the cost of distilling by it."""
    recipe = load_recipe(path)
    facts = {"what": "recipe", "path": str(path), "recipe": recipe.model_dump(mode="json")}
    try:
        return facts | {"cost": plan(recipe, planned_teacher(recipe) if recipe.teacher.path else None)}
    except InputError as error:  # neither a teacher nor what a new one's data is like
        return facts | {"cost": None, "cost_unknown": str(error)}


def describe_cache(folder: Path) -> dict[str, Any]:
    """Facts about a cache: what made it, how many examples of what shapes, and how pictures went to buckets."""
    data = CachedData(folder)
    index = read_index(folder)
    facts = {"examples": len(data), "shards": len(data.shards), "bytes": sum(shard["bytes"] for shard in data.shards)}
    return {"what": "cache", "path": str(folder), "summary": summary(data), **facts, "shapes": index["leaves"], **data.made_by}


def describe_data(path: Path, buckets: int | None = None) -> dict[str, Any]:
    """Facts about data, opened as training opens it (images resized to 64 where they differ in size), with the first captions.

    Where there are captions and classes as well, both are named: a teacher of text is distilled on the captions. `summary` is the
    line with which training begins. A .txt is a list of prompts.
    """
    if path.suffix.lower() == ".txt":
        file = prompt_file(path)
        facts = {"kind": "prompts", "prompts": len(file.prompts), "first_prompts": list(file.prompts[:5])}
        return {"what": "data", "path": str(path), "summary": summary(file), **facts, "left_out": list(file.left_out)}
    silent: dict[str, Any] = {"path": str(path), "captions": True, "report": lambda line: None}
    try:
        data = open_data(**silent)
    except InputError as error:
        if "data.size" not in str(error):
            raise
        data = open_data(**silent, size=64)
    facts = {"what": "data", "path": str(path), "summary": summary(data), **data.description}
    facts |= {"left_out": list(contents_of(data).left_out), "skipped_files": list(data.skipped)}
    if buckets is not None:
        sizes = usual_buckets(buckets, buckets, DataSettings().bucket_step, DataSettings().bucket_ratio)
        fits = fits_of(open_source(SourceSettings(path=str(path), captions=True)), sizes)
        facts |= {"buckets": described(sizes.names, fits)}
    if facts["kind"] != "captions" or not isinstance(data, Data):
        return facts
    with suppress(InputError):
        facts["classes"] = list(open_source(SourceSettings(path=str(path))).classes or ())
    captions = [data.classes[k] for k in data.labels[:5].tolist()]
    return facts | {"distinct_captions": len(data.classes), "first_captions": captions}


def describe_text(facts: dict[str, Any]) -> str:
    """The facts as lines of text."""
    if facts["what"] == "recipe":
        cost = plan_text(facts["cost"]) if facts["cost"] else f"cost not known: {facts['cost_unknown']}"
        return f"recipe {facts['path']}\n\n{to_toml(make_recipe(facts['recipe']))}\n{cost}"
    lines = [facts.get("summary") or f"{facts['what']} {facts['path']}"]
    for key, value in facts.items():
        if key not in ("what", "path", "recipe", "summary", "left_out") and value not in (None, {}, [], ()):
            lines.append(f"  {key.replace('_', ' '):18} {readable(key, value)}")
    return "\n".join(lines)


def readable(key: str, value: Any) -> str:
    """A value as a person reads it."""
    known: dict[str, Callable[[Any], str]] = {
        "memory_bytes": lambda sizes: ", ".join(f"{name} {mass(size)}" for name, size in sizes.items()),
        "first_captions": lambda captions: ", ".join(map(repr, captions)),
        "first_prompts": lambda prompts: ", ".join(map(repr, prompts)),
        "activations_of_one_image": mass,
        "seconds": lambda span: f"({about(span)})",
        "history": lambda stages: "; ".join(
            f"{h['stage']}: {h['updates']:,} updates of {h['batch_size']}, loss {h['loss']:.4g}" for h in stages
        ),
    }
    if key in known:
        return known[key](value)
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {readable(name, inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def mass(size: float) -> str:
    """Bytes as "3.1 MB" or "12.5 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
