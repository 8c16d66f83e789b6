"""In what compared models differ: facts of each, settings of their runs, and what evaluations found on the same data."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from fewstep.models.metadata import Info
from fewstep.models.model import Model
from fewstep.models.sampling import Samples
from fewstep.training.recipe import RECIPE, load_recipe

Row = dict[str, Any]
Source = tuple[Path, Path | None, set[int]]  # a model's folder, its run, and the steps that are compared


def facts_of(info: Info, model: Model, drawn: dict[float, Samples]) -> dict[str, str]:
    """Facts of a model by name, as text; of what was drawn with it the time."""
    low, high = info.guidance_scale or (None, None)
    scales = "any" if low is None else f"{low:g} (in the weights)" if info.baked else f"{low:g} to {high:g}"
    data = info.data.get("path") or info.data.get("name") or info.data.get("kind")
    count, seconds = sum(len(one.samples) for one in drawn.values()), sum(one.seconds for one in drawn.values())
    last = info.history[-1] if info.history else {}
    return {
        "kind": info.kind, "family": info.family, "steps": str(info.steps or "any"), "guidance scale": scales, "sampler": info.sampler,
        "prediction": info.prediction, "process": info.process["name"], "pictures": "x".join(map(str, info.picture_shape)),
        "weights": f"{sum(p.numel() for p in model.denoiser.network.parameters()):,}",
        "negative prompts": "yes" if info.negative_prompts or (info.kind == "teacher" and info.condition == "text") else "no",
        "updates": f"{sum(stage.get('updates', 0) for stage in info.history):,}" if info.history else "–",
        "batch size": str(last.get("batch_size", "–")), "last loss": f"{last['loss']:.4g}" if "loss" in last else "–",
        "data": Path(str(data)).name if data else "–", "ms an image here": f"{1000 * seconds / max(count, 1):.2f}",
    }  # fmt: skip


def differing_settings(runs: dict[str, Path]) -> dict[str, list[Any]]:
    """Values by run of each dotted key in which the recipes of these runs differ, with the runs' names under "run"; empty of fewer than two."""
    recipes = {name: load_recipe(run / RECIPE).model_dump(mode="json") for name, run in runs.items() if (run / RECIPE).is_file()}
    if len(recipes) < 2:
        return {}
    flat = [
        {f"{section}.{key}": value for section, values in one.items() for key, value in values.items()} for one in recipes.values()
    ]
    differing = {key: [one[key] for one in flat] for key in flat[0] if any(one[key] != flat[0][key] for one in flat)}
    return {"run": list(recipes)} | differing if differing else {}


def comparable_rows(sources: dict[str, Source]) -> tuple[list[Row], str]:
    """(rows of the evaluations of these, the students' under their names and the teacher's of the first; why there are none).

    An evaluation is the `metrics.json` of a model or run folder, or of `evaluation` in it.
    """
    found = {}
    for name, (folder, run, _) in sources.items():
        places = [place / part for place in (folder, run) if place for part in ("metrics.json", "evaluation/metrics.json")]
        for file in filter(Path.is_file, places):
            with suppress(OSError, ValueError, KeyError):  # what is no evaluation of ours tells nothing
                metrics = json.loads(file.read_text(encoding="utf-8"))
                found[name] = (
                    metrics["rows"],
                    (metrics["features"]["fingerprint"], metrics["data"].get("sha256"), metrics["settings"]["samples"]),
                )
                break
    if missing := [name for name in sources if name not in found]:
        return (
            [],
            f"Not evaluated: {', '.join(missing)}. Where each run holds an evaluation (fewstep evaluate RUN --data DATA --out RUN/evaluation), its figures are here.",
        )
    if len({measured for _, measured in found.values()}) > 1:
        return (
            [],
            "The evaluations of these runs are of other data, features or numbers of samples, so that their figures cannot be compared.",
        )
    rows = [
        row | {"model": name}
        for name, (own, _) in found.items()
        for row in own
        if row["model"] == "student" and row["steps"] in sources[name][2]
    ]
    return [row for row in next(iter(found.values()))[0] if row["model"] == "teacher"] + rows, ""
