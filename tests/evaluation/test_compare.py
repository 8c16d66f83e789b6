"""`fewstep compare`: what is drawn is each model's own from one noise, the page needs nothing else, and what cannot be compared is one line."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image

import fewstep
import pipelines
from command_line import command, refused
from fewstep.api import public
from fewstep.models.sampling import initial_noise
from fewstep.training.recipe import load_recipe, write_recipe
from tiny import tiny_student, tiny_teacher

WORDS = ("--class-label", "3", "--class-label", "8", "--num-images", "3", "--seed", "5", "--device", "cpu")


def row(model, steps, frechet):
    known = {"sampler": "ddim" if model == "teacher" else "deterministic", "guidance_scale": 2.0, "samples": 100}
    return known | {
        "model": model,
        "steps": steps,
        "evaluations": steps,
        "frechet": frechet,
        "class_accuracy": 0.9,
        "rms_to_teacher": 0.1,
        "seconds_per_image": 0.01,
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of students of 4 and 2 steps, with recipes, logs and evaluations on the same data, and a teacher's folder."""
    folder = tmp_path_factory.mktemp("runs")
    for k, name in enumerate(("one", "<two>")):
        for steps in (4, 2):
            student = tiny_student(steps)
            with torch.no_grad():
                next(student.denoiser.network.parameters()).mul_(1 + k / 10)
            public(student).save(folder / name / f"steps-{steps:04d}")
        write_recipe(folder / name, load_recipe(None, {"stage_one.learning_rate": 1e-3 * (k + 1)}))
        lines = [{"stage": "stage-one", "update": n, "loss": 1 / n} for n in (1, 2)]
        (folder / name / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
        metrics = {"features": {"fingerprint": "f"}, "data": {"sha256": "d"}, "settings": {"samples": 100}}
        metrics["rows"] = [
            row("teacher", 64, 1.25),
            row("student", 4, 2.5 + k),
            row("student", 2, 4.125 + k),
            row("student", 1, 9.0),
        ]
        (folder / name / "evaluation").mkdir()
        (folder / name / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    tiny_teacher().save(folder / "teacher")
    return folder


def test_two_runs_are_drawn_from_one_noise_with_facts_settings_and_curves(runs, capsys, tmp_path):
    out, _ = command(capsys, "compare", runs / "one", runs / "<two>", *WORDS, "--out", tmp_path / "out")
    assert out.splitlines()[-1] == str(tmp_path / "out" / "compare.html")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.html", "compare.json", "grid.png"]
    record, html = json.loads((tmp_path / "out" / "compare.json").read_text()), (tmp_path / "out" / "compare.html").read_text()
    titles = [model["title"] for model in record["models"]]
    assert titles == ["one, 4 steps", "one, 2 steps", "<two>, 4 steps", "<two>, 2 steps"]
    assert (record["guidance_scale"], record["images"], record["labels_or_prompts"]) == ([1.0, 3.0, 5.0], 3, ["3", "8"])
    noise, drawn = initial_noise((3, 1, 8, 8), 5), []
    for name in ("one", "<two>"):
        model = fewstep.open_model(runs / name, steps=4)
        drawn.append(model.sample_tensor(torch.tensor([3, 8, 3]), guidance_scale=3.0, noise=noise).samples.clamp(-1, 1))
    assert [(row["title"], row["from"]) for row in record["rms"]] == [
        (title, titles[k]) for title, k in zip(titles[1:], (0, 0, 1), strict=True)
    ]
    assert record["rms"][1]["rms"][1] == pytest.approx(float((drawn[0] - drawn[1]).square().mean().sqrt()), rel=1e-5) != 0
    assert record["summary"] in out
    assert record["settings"] == {"run": ["one", "<two>"], "stage_one.learning_rate": [1e-3, 2e-3]}
    for words in (
        "&lt;two&gt;, 4 steps",
        "stage_one.learning_rate",
        "0.002",
        "2.50",
        "3.50",
        "5.12",
        "1.25",
        "Training loss",
        "Measured quality",
    ):
        assert words in html, words
    assert "<two>" not in html and "9.00" not in html, "of a student that is not compared"
    assert all(address.startswith("data:image/png") for address in re.findall(r'(?:src|srcset|href)="([^"]*)"', html))
    assert html.count('alt="&lt;two&gt;, 4 steps, 4 evaluations, guidance scale') == 3
    Image.open(tmp_path / "out" / "grid.png").verify()


def test_a_student_and_its_teacher_and_runs_without_the_same_evaluation(runs, tmp_path):
    copy = tmp_path / "one"
    shutil.copytree(runs / "one", copy)
    (copy / "evaluation" / "metrics.json").write_text("{}")
    paths = [copy / "steps-0002", runs / "teacher", runs / "one"]
    record = fewstep.compare(paths, tmp_path / "out", steps=[2], teacher_steps=3, guidance_scale=[2], num_images=2, quiet=True)
    assert [model["title"] for model in record["models"]] == [
        "one/steps-0002, 2 steps",
        f"{runs.name}/teacher, 3 steps",
        "one, 2 steps",
    ]
    assert [row["rms"][0] > 0 for row in record["rms"]] == [True, False], "the same student twice"
    assert record["settings"] == {}
    html = (tmp_path / "out" / "compare.html").read_text()
    assert f"Not evaluated: one/steps-0002, {runs.name}/teacher" in html and "6 evaluations" in html


def test_what_cannot_be_compared_is_one_line(runs, capsys, tmp_path):
    tiny_student(2, kind="encoder").save(tmp_path / "encoder-0002")
    pipelines.text_pipeline(tmp_path / "text")

    def told(*paths, words=()):
        return refused(capsys, "compare", *paths, *words, "--out", tmp_path / "out")

    assert "1 model to compare" in told(runs / "teacher")
    assert "is an encoder" in told(runs / "teacher", tmp_path / "encoder-0002")
    assert "differ in picture shape" in told(runs / "teacher", tmp_path / "text")
    assert "none for --steps" in told(runs / "one", runs / "<two>", words=("--steps", "8"))
    assert "outside 1 to 5" in told(runs / "one", runs / "<two>", words=("--guidance-scale", "2,7"))
    assert "take classes" in told(runs / "one", runs / "<two>", words=("--prompt", "a cat"))
    assert "name at least one" in told(tmp_path / "text", tmp_path / "text")
    assert "class 'cow'" in told(runs / "one", runs / "<two>", words=("--class-label", "cow"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    assert "holds something already" in told(runs / "one", runs / "<two>")
