"""The quickstart: distil the bundled teacher of handwritten digits on this machine, evaluate, and write a page about it."""

import shutil
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from fewstep.data.loading import Data
from fewstep.errors import InputError
from fewstep.evaluation.configurations import EvaluatedModels, configurations, open_models
from fewstep.evaluation.evaluate import measure, write_results
from fewstep.evaluation.report import Grids
from fewstep.evaluation.teacher_samples import REFERENCES, fixed_noise, load_references, with_stored
from fewstep.files import os_errors
from fewstep.locks import locked
from fewstep.models.metadata import bundled
from fewstep.models.pretrained import open_model, save_model
from fewstep.training.distill import distill_model
from fewstep.training.recipe import load_recipe
from fewstep.training.run_folder import open_examples, open_run
from fewstep.training.trainer import Save, Trainer

TEACHER_STEPS = (4, 8, 16, 64, 256)  # of its own sampler; samples of the last two are shipped
# the student with so many steps is to be as good as the teacher with so many, in this measure
GOALS = ((4, 8, "frechet"), (4, 16, "frechet"), (1, 4, "frechet"), (4, 256, "class_accuracy"), (1, 256, "class_accuracy"))
CLAIMS = {
    "frechet": "at least as good in Fréchet distance as the teacher's DDIM, {} evaluations",
    "class_accuracy": "within 1 point of the teacher's class accuracy",
}
Row = dict[str, Any]


@os_errors()
def quickstart(
    out: str | Path = "runs/quickstart", *, changes: dict[str, Any] | None = None, say: Callable[[str], None] = print,
    device: str | None = None, quiet: bool = False, save: Save = save_model,
) -> dict[str, Any]:  # fmt: skip
    """Distil, evaluate and write `out/report.html` and `out/metrics.json`; the metrics. The same call resumes; `save` writes model folders.

    Raises:
        InputError: the folder holds something else, or a changed key does not fit.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    began = time.monotonic()
    recipe = load_recipe("digits", changes)
    if (path := recipe.teacher.path) != "digits":
        raise InputError(f"teacher.path is {path}: the quickstart distils the bundled teacher; use fewstep distill for yours")
    with locked(out):
        run = open_run(out, recipe)
        teacher_folder = run / "teacher"
        if not (teacher_folder / "fewstep.json").is_file():
            aside = run / ".teacher"  # renamed when whole, so that a copy that was cut short is never taken for the teacher
            shutil.copytree(bundled("digits-teacher"), aside, dirs_exist_ok=True)
            aside.rename(teacher_folder)
        teacher, data = open_model(teacher_folder), open_examples(recipe)
        assert isinstance(data, Data)
        weights = sum(p.numel() for p in teacher.denoiser.network.parameters())
        say(f"teacher: {weights:,} weights; distilling to {recipe.stage_two.ladder[-1]} steps and more")
        with closing(Trainer(run, data, recipe.train, device, quiet, save)) as trainer:
            distill_model(recipe, teacher, data, trainer)
    trained = time.monotonic() - began
    metrics, grids, models = evaluate_digits(run, teacher_folder, run / "evaluation", data, device=device, quiet=quiet)
    say(f"digit classifier: {metrics['features']['held_out_accuracy']:.1%} right on digits that it was not trained on")
    metrics["seconds"] = {"training": round(trained, 1), "total": round(time.monotonic() - began, 1)}
    write_results(run, metrics, grids, models, "Handwritten digits, distilled")
    return metrics


def evaluate_digits(
    run: Path, teacher: Path, out: Path, data: Data, *, device: str | None = None, quiet: bool = False
) -> tuple[dict[str, Any], Grids, EvaluatedModels]:
    """(metrics with the goals as `checks`, pictures, models) of a run of digits: its students and the teacher's own sampler.

    Samples begin with the same noise as the shipped ones of the bundled teacher, which take their place at many steps.

    Raises:
        InputError: `teacher` has other weights than the bundled one.
    """
    models, (*few, reference_steps) = open_models(run, teacher, None), TEACHER_STEPS
    assert models.recipe is not None and models.teacher is not None
    settings = models.recipe.evaluate.model_copy(update={"reference_steps": reference_steps, "baselines": ()})
    noise, labels = fixed_noise(models.teacher, settings.samples)
    stored, table = (
        load_references(REFERENCES, teacher),
        configurations(models, settings.guidance_scale, (), (), reference_steps, few),
    )
    table = [with_stored(configuration, stored, noise, labels) for configuration in table]
    choices = {"noise": noise, "cache": out.with_name(".fewstep"), "device": device, "quiet": quiet}
    metrics, grids = measure(models, table, settings, data, out, **choices)
    rows = metrics["rows"]
    for row in rows:
        paced = find(rows, "teacher", 16, row["guidance_scale"])
        if paced and not row["seconds_per_image"]:
            row["seconds_per_image"] = row["evaluations"] * paced["seconds_per_image"] / paced["evaluations"]
        if row["model"] == "teacher" and row["steps"] == reference_steps:
            row["rms_to_teacher"] = 0.0
    metrics["note"] = (
        "The teacher's samples of 64 and 256 steps are shipped; their milliseconds are those of an evaluation in its 16 steps."
    )
    return metrics | {"model": str(run), "checks": checks(rows)}, grids, models


def find(rows: list[Row], model: str, steps: int, scale: float) -> Row | None:
    """The row of a configuration."""
    return next((r for r in rows if (r["model"], r["steps"], r["guidance_scale"]) == (model, steps, scale)), None)


def checks(rows: list[Row]) -> list[dict[str, Any]]:
    """The goals of a quickstart at each guidance scale, with both figures and whether they are reached."""
    found = []
    for scale in sorted({r["guidance_scale"] for r in rows}):
        for steps, teacher_steps, key in GOALS:
            student, teacher = find(rows, "student", steps, scale), find(rows, "teacher", teacher_steps, scale)
            if student and teacher:
                ours, theirs = student[key], teacher[key]
                holds = ours <= theirs if key == "frechet" else ours >= theirs - 0.01
                claim = f"guidance scale {scale:g}: student, {steps} evaluations, {CLAIMS[key].format(teacher['evaluations'])}"
                found.append({"claim": claim, "student": ours, "against": theirs, "holds": holds})
    return found
