"""The quickstart from end to end, with few updates: its folder, table, page, and what a second call does."""

import json

import torch
from safetensors.torch import load_file

from fewstep import open_model
from fewstep.evaluation.quickstart import checks, quickstart, summary
from fewstep.models.metadata import bundled

SMALL = {
    "stage_one.updates": 3,
    "stage_two.updates": 2,
    "stage_two.last_updates": 2,
    "train.batch_size": 8,
    "train.log_every": 1,
    "evaluate.samples": 8,
    "evaluate.guidance_scale": [1.0, 2.0],
}


def test_quickstart_leaves_a_run_with_a_page(tmp_path):
    said = []
    metrics = quickstart(tmp_path / "run", changes=SMALL, say=said.append, device="cpu", quiet=True)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"recipe.toml", "log.jsonl", "tensorboard", "report.html", "metrics.json", "grid.png", "quality.png", "teacher", "stage-one", "steps-0004", "steps-0002", "steps-0001"} <= names  # fmt: skip
    rows = {(r["model"], r["steps"], r["guidance_scale"]): r for r in metrics["rows"]}
    for scale in (1.0, 2.0):
        for steps in (4, 8, 16, 64, 256):
            assert rows["teacher", steps, scale]["evaluations"] == steps * (1 if scale == 1 else 2)
        for steps in (4, 2, 1):
            assert rows["student", steps, scale]["evaluations"] == steps
        assert rows["teacher", 256, scale]["rms_to_teacher"] == 0
        assert rows["teacher", 64, scale]["rms_to_teacher"] < rows["teacher", 4, scale]["rms_to_teacher"]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["rows"] == metrics["rows"]
    assert metrics["summary"] in (tmp_path / "run" / "report.html").read_text()
    teacher, copy = (
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        for folder in (bundled("digits-teacher"), tmp_path / "run" / "teacher")
    )
    assert all(torch.equal(teacher[key], copy[key]) for key in teacher)
    assert open_model(tmp_path / "run").info.steps == 1
    before = (tmp_path / "run" / "steps-0001" / "fewstep.json").stat().st_mtime
    again = quickstart(tmp_path / "run", changes=SMALL, say=said.append, device="cpu", quiet=True)  # nothing is trained again
    assert (tmp_path / "run" / "steps-0001" / "fewstep.json").stat().st_mtime == before
    assert [r["frechet"] for r in again["rows"]] == [r["frechet"] for r in metrics["rows"]]


def test_goals_are_judged_by_the_figures():
    def row(model, steps, frechet, accuracy):
        evaluations = 2 * steps if model == "teacher" else steps
        return {
            "model": model,
            "steps": steps,
            "guidance_scale": 2.0,
            "frechet": frechet,
            "class_accuracy": accuracy,
            "evaluations": evaluations,
        }

    rows = [
        row("teacher", 256, 1.0, 0.99),
        row("teacher", 4, 5.0, 0.9),
        row("teacher", 8, 2.0, 0.95),
        row("teacher", 16, 1.2, 0.99),
    ]
    rows += [row("student", 4, 1.5, 0.985), row("student", 1, 5.5, 0.97)]
    assert [c["holds"] for c in checks(rows)] == [True, False, False, True, False]
    assert "512 evaluations" in summary(rows)
    assert "4 evaluations 1.50, with 1 evaluation 5.50" in summary(rows)
    assert summary([]) == "No student was measured."
