"""The quickstart from end to end, with few updates: its folder, table, page, what a second call does, and the shipped samples."""

import json
from html import unescape

import pytest
import torch
from safetensors.torch import load_file, save_file

from command_line import command
from fewstep import open_model
from fewstep.data.fingerprints import whole
from fewstep.errors import InputError
from fewstep.evaluation import evaluate
from fewstep.evaluation.configurations import Configuration
from fewstep.evaluation.quickstart import checks, quickstart
from fewstep.evaluation.teacher_samples import REFERENCES, WEIGHTS, fixed_noise, key_of, load_references, with_stored
from fewstep.models.metadata import bundled

SMALL = {
    "stage_one.updates": 3, "stage_two.updates": 2, "stage_two.last_updates": 2, "train.batch_size": 8, "train.log_every": 1,
    "paths.count": 16, "paths.updates": 2, "evaluate.samples": 66, "evaluate.guidance_scale": [1.0, 2.0],
}  # fmt: skip


@pytest.mark.usefixtures("quick_classifier")
def test_quickstart_leaves_a_run_with_a_page(tmp_path, capsys, monkeypatch):
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    command(capsys, "quickstart", "--out", tmp_path / "run", "--device", "cpu", *settings)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert all((tmp_path / "run" / name / "README.md").is_file() for name in ("stage-one", "steps-0004", "steps-0001"))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"recipe.toml", "log.jsonl", "tensorboard", "report.html", "metrics.json", "grid.png", "quality.png", "teacher", "stage-one", "steps-0004", "steps-0002", "steps-0001"} <= names  # fmt: skip
    rows = {(r["model"], r["steps"], r["guidance_scale"]): r for r in metrics["rows"]}
    assert len(rows) == len(metrics["rows"]) == 2 * (5 + 1 + 3)
    for scale in (1.0, 2.0):
        for steps in (4, 8, 16, 64, 256):
            assert rows["teacher", steps, scale]["evaluations"] == steps * (1 if scale == 1 else 2)
        for steps in (4, 2, 1):
            assert rows["student", steps, scale]["evaluations"] == steps
        assert rows["teacher", 256, scale]["rms_to_teacher"] == 0
        assert rows["teacher", 64, scale]["rms_to_teacher"] < rows["teacher", 4, scale]["rms_to_teacher"]
        paces = [rows["teacher", n, scale]["seconds_per_image"] / rows["teacher", n, scale]["evaluations"] for n in (16, 64, 256)]
        assert paces == pytest.approx(paces[:1] * 3)  # shipped samples take what as many evaluations would
    assert metrics["summary"] in unescape((tmp_path / "run" / "report.html").read_text())
    teacher, copy = (
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        for folder in (bundled("digits-teacher"), tmp_path / "run" / "teacher")
    )
    assert all(torch.equal(teacher[key], copy[key]) for key in teacher)
    assert open_model(tmp_path / "run").info.steps == 1
    before = (tmp_path / "run" / "steps-0001" / "fewstep.json").stat().st_mtime
    monkeypatch.setattr(evaluate, "write_results", lambda *_: None)  # the page is there
    again = quickstart(tmp_path / "run", changes=SMALL, say=lambda line: None, device="cpu", quiet=True)  # nothing is trained again
    assert (tmp_path / "run" / "steps-0001" / "fewstep.json").stat().st_mtime == before
    assert [r["frechet"] for r in again["rows"]] == [r["frechet"] for r in metrics["rows"]]


def test_goals_follow_the_figures():
    def row(model, steps, frechet, accuracy):
        known = {"model": model, "steps": steps, "guidance_scale": 2.0, "frechet": frechet, "class_accuracy": accuracy}
        return known | {"evaluations": 2 * steps if model == "teacher" else steps}

    teacher = [row("teacher", *r) for r in ((256, 1.0, 0.99), (4, 5.0, 0.9), (8, 2.0, 0.95), (16, 1.2, 0.99))]
    assert [c["holds"] for c in checks([*teacher, row("student", 4, 1.5, 0.985), row("student", 1, 5.5, 0.97)])] == [
        True, False, False, True, False,
    ]  # fmt: skip
    assert checks(teacher) == []


def configuration(teacher, steps, scale):
    return Configuration("teacher", teacher, "ddim", steps, scale, 2 * steps)


def test_shipped_samples_belong_to_the_bundled_teacher():
    teacher = open_model("digits")
    references = load_references(REFERENCES, bundled("digits-teacher"))
    noise, labels = fixed_noise(teacher, 1000)
    assert {key_of(n, s) for n in (64, 256) for s in (1.0, 2.0, 3.0, 5.0)} == set(references)
    shipped = with_stored(configuration(teacher, 64, 2.0), references, noise, labels)  # two of them are sampled again
    assert torch.equal(shipped.draw(noise[3:7], labels[3:7], 2, start=3).samples, references[key_of(64, 2.0)][3:7])
    assert with_stored(configuration(teacher, 32, 2.0), references, noise, labels).stored is None


def test_samples_of_other_weights_are_refused(tmp_path, teacher_folder):
    weights = {"weights": whole(bundled("digits-teacher") / WEIGHTS)}
    save_file({"steps-0064/scale-1": torch.zeros(3, 1, 8, 8).half()}, tmp_path / "r.safetensors", weights)
    with pytest.raises(InputError, match="other weights"):
        load_references(tmp_path / "r.safetensors", teacher_folder)
    assert load_references(tmp_path / "none.safetensors", teacher_folder) == {}
    noise, labels = fixed_noise(open_model("digits"), 3)
    wrong = load_references(tmp_path / "r.safetensors", bundled("digits-teacher"))
    with pytest.raises(RuntimeError, match="differ from this machine's"):
        with_stored(configuration(open_model("digits"), 64, 1.0), wrong, noise, labels)
