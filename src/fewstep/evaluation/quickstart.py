"""The quickstart: distil the bundled teacher of handwritten digits on this machine, sample, measure, and draw the result."""

import json
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.data.loading import Data
from fewstep.errors import InputError
from fewstep.evaluation.features import train_classifier
from fewstep.evaluation.judge import Judge
from fewstep.evaluation.report import write_report
from fewstep.evaluation.teacher_samples import fixed_noise, load_references, recall, references_file
from fewstep.models.metadata import bundled
from fewstep.models.model import Model
from fewstep.models.pretrained import open_model
from fewstep.models.sampling import Samples
from fewstep.training.distill import distill_model
from fewstep.training.recipe import Recipe, load_recipe, to_toml
from fewstep.training.run_folder import open_examples, open_run
from fewstep.training.trainer import Trainer

FEW_STEPS = (4, 8, 16)  # of the teacher, sampled here
MANY_STEPS = (64, 256)  # of the bundled teacher, shipped
DRAWN = 8  # images of each configuration in the picture

Say = Callable[[str], None]


def quickstart(
    out: str | Path = "runs/quickstart",
    *,
    changes: dict[str, Any] | None = None,
    say: Say = print,
    device: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Distil, sample, measure and write `out/report.html` and `out/metrics.json`; the metrics. The same call resumes.

    Raises:
        InputError: the folder holds something else, or a changed key does not fit.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    began = time.monotonic()
    recipe = load_recipe("digits", changes)
    if recipe.teacher.path != "digits":
        raise InputError(
            f"teacher.path is {recipe.teacher.path}: the quickstart distils the bundled teacher; use fewstep distill for yours"
        )
    run = open_run(out, recipe)
    teacher_folder = run / "teacher"
    if not (teacher_folder / "fewstep.json").is_file():
        aside = run / ".teacher"  # renamed when whole, so that a copy that was cut short is never taken for the teacher
        shutil.copytree(bundled("digits-teacher"), aside, dirs_exist_ok=True)
        aside.rename(teacher_folder)
    teacher = open_model(teacher_folder)
    data = open_examples(recipe)
    assert isinstance(data, Data)
    say(
        f"teacher: {sum(p.numel() for p in teacher.denoiser.network.parameters()):,} weights; distilling to {recipe.stage_two.ladder[-1]} steps and more"
    )
    trainer = Trainer(run, data, recipe.train, device, quiet)
    try:
        models = distill_model(recipe, teacher, data, trainer)
    finally:
        trainer.close()
    trained = time.monotonic() - began
    metrics, grids = measure(recipe, teacher, teacher_folder, models, data, say)
    metrics["seconds"] = {"training": round(trained, 1), "total": round(time.monotonic() - began, 1)}
    (run / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    write_report(run, metrics, grids, "Handwritten digits, distilled", recipe=to_toml(recipe), log=log)
    return metrics


def measure(
    recipe: Recipe, teacher: Model, teacher_folder: Path, models: dict[str, Model], data: Data, say: Say
) -> tuple[dict[str, Any], dict[tuple[str, int, float], Tensor]]:
    """The table's rows and the pictures: teacher, stage one and students from the same noise, at every guidance scale."""
    images = data.images().float() / 127.5 - 1
    classifier = train_classifier(images, data.labels, len(data.classes))
    judge = Judge.of_data(classifier, images)
    say(f"digit classifier: {classifier.test_accuracy:.1%} right on digits that it was not trained on")
    noise, labels = fixed_noise(teacher, recipe.evaluate.samples)
    references = load_references(references_file(), teacher_folder)
    rows: list[dict[str, Any]] = []
    grids: dict[tuple[str, int, float], Tensor] = {}
    for scale in recipe.evaluate.guidance_scale:
        few = {steps: teacher.sample_tensor(labels, steps=steps, guidance_scale=scale, noise=noise) for steps in FEW_STEPS}
        pace = few[FEW_STEPS[-1]].seconds / (few[FEW_STEPS[-1]].evaluations * len(labels))
        many = {steps: recall(teacher, references, noise, labels, steps, scale, pace) for steps in MANY_STEPS}
        best = many[MANY_STEPS[-1]].samples

        def add(model: str, steps: int, sampler: str, samples: Samples, scale: float = scale, reference: Tensor = best) -> None:
            rows.append(judge.row(samples, labels, reference, model=model, sampler=sampler, steps=steps, guidance_scale=scale))
            if model != "stage-one":
                grids[model, steps, scale] = samples.samples[:DRAWN]

        for steps, samples in (few | many).items():
            add("teacher", steps, "ddim", samples)
        for name, model in models.items():
            steps = model.info.steps or recipe.stage_two.ladder[0]
            if name == "stage-one" or (model.info.kind == "student" and steps in recipe.evaluate.steps):
                samples = model.sample_tensor(labels, steps=steps, guidance_scale=scale, noise=noise)
                add("stage-one" if name == "stage-one" else "student", steps, model.info.sampler, samples)
    return {
        "summary": summary(rows),
        "rows": rows,
        "note": "The teacher's samples of 64 and 256 steps are shipped; their milliseconds are those of an evaluation in its 16 steps.",
        "checks": checks(rows),
        "classifier": {"test_accuracy": classifier.test_accuracy, "features": "64 features of a small digit classifier"},
        "versions": {name: version(name) for name in ("fewstep", "torch", "diffusers")},
    }, grids


def find(rows: list[dict[str, Any]], model: str, steps: int, scale: float) -> dict[str, Any] | None:
    """The row of a configuration."""
    return next((r for r in rows if (r["model"], r["steps"], r["guidance_scale"]) == (model, steps, scale)), None)


def checks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a quickstart is to reach, at each guidance scale, with both figures."""
    found = []
    for scale in sorted({r["guidance_scale"] for r in rows}):
        teacher, four, one = find(rows, "teacher", 256, scale), find(rows, "student", 4, scale), find(rows, "student", 1, scale)
        for student, steps in ((four, 8), (four, 16), (one, 4)):
            against = find(rows, "teacher", steps, scale)
            if student and against:
                claim = f"guidance scale {scale:g}: student, {student['steps']} evaluations, at least as good in Fréchet distance as the teacher's DDIM, {against['evaluations']} evaluations"
                found.append(
                    {
                        "claim": claim,
                        "student": student["frechet"],
                        "against": against["frechet"],
                        "holds": student["frechet"] <= against["frechet"],
                    }
                )
        for student in filter(None, (four, one)):
            if teacher:
                claim = f"guidance scale {scale:g}: student, {student['steps']} evaluations, within 1 point of the teacher's class accuracy"
                holds = student["class_accuracy"] >= teacher["class_accuracy"] - 0.01
                found.append(
                    {"claim": claim, "student": student["class_accuracy"], "against": teacher["class_accuracy"], "holds": holds}
                )
    return found


def summary(rows: list[dict[str, Any]]) -> str:
    """One sentence: what the student of fewest and of most steps gives for what, at a middle guidance scale."""
    scales = sorted({r["guidance_scale"] for r in rows}) or [1.0]
    scale = scales[(len(scales) - 1) // 2]
    teacher = find(rows, "teacher", 256, scale)
    students = sorted((r for r in rows if r["model"] == "student" and r["guidance_scale"] == scale), key=lambda r: -r["steps"])
    if not teacher or not students:
        return "No student was measured."
    parts = [f"{r['evaluations']} evaluation{'s' if r['evaluations'] > 1 else ''} {r['frechet']:.2f}" for r in students]
    return (
        f"At guidance scale {scale:g} the teacher needs {teacher['evaluations']} evaluations of its network for a Fréchet distance of "
        f"{teacher['frechet']:.2f}; the student reaches with {', with '.join(parts)}."
    )
