"""`fewstep evaluate` of models of latents and of text: measured on pictures, captions in the data's order, CLIP as score and features."""

import json

import numpy as np
import pytest
import torch
from cheap_features import clip_model, pixels
from test_evaluate import SMALL

import fewstep
import pipelines
from conftest import TINY
from fewstep.data.loading import open_data
from fewstep.errors import InputError
from fewstep.evaluation import evaluate as evaluation
from fewstep.evaluation.configurations import open_models
from fewstep.evaluation.evaluation_run import noise_of
from fewstep.evaluation.sample_conditions import sample_conditions

CAPTIONS = ("a", "b", "ab", "ba")
FEW = SMALL | {"samples": 6, "guidance_scale": (2.0,), "budgets": (4,), "baselines": ("ddim",), "reference_steps": 3}


def pictures(path, **labels):
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3)).astype(np.uint8)
    np.savez(path, images=images, **labels)
    return path


@pytest.fixture
def _few_features(monkeypatch):
    """Five features, that a few samples have a covariance."""
    monkeypatch.setattr(evaluation, "open_features", lambda *_: pixels(classes=10))


@pytest.fixture
def clip(tmp_path):
    return clip_model(tmp_path / "clip")


@pytest.mark.usefixtures("_few_features")
def test_latents_are_measured_as_the_pictures_that_they_stand_for(tmp_path):
    folder = pipelines.class_pipeline(tmp_path / "teacher", latent=True)
    data = pictures(tmp_path / "data.npz", labels=np.arange(12) % 3)
    changes = TINY | {"stage_two.ladder": [4, 2], "train.batch_size": 4}
    fewstep.distill(folder, str(data), out=tmp_path / "run", changes=changes, device="cpu", quiet=True)
    metrics = fewstep.evaluate(tmp_path / "run", str(data), tmp_path / "out", steps=(2,), **FEW)
    assert {row["model"] for row in metrics["rows"]} == {"teacher", "student", "stage-one"}
    student = next(row for row in metrics["rows"] if row["model"] == "student")
    teacher = fewstep.open_model(folder)
    models, labels = open_models(tmp_path / "run", None, [2]), torch.arange(6) % 3
    noise = noise_of(0, 6, teacher.info.shape, 0)
    pairs = (models.students["student", 2], 2), (teacher, 3)
    drawn = [model.sample_tensor(labels, steps=n, guidance_scale=2.0, noise=noise).pictures() for model, n in pairs]
    assert drawn[0].shape == (6, 3, 16, 16)
    assert student["rms_to_teacher"] == pytest.approx(float((drawn[0] - drawn[1]).square().mean().sqrt()), rel=2e-3)
    assert student["frechet_to_teacher"] > 0
    with pytest.raises(InputError, match="number of classes is 2, the model's 3"):
        fewstep.evaluate(tmp_path / "run", str(pictures(tmp_path / "two.npz", labels=np.arange(12) % 2)), tmp_path / "other", **FEW)


def test_text_is_asked_for_the_datas_captions_and_scored_by_clip(tmp_path, clip):
    folder = pipelines.text_pipeline(tmp_path / "teacher")
    data = pictures(tmp_path / "data.npz", captions=np.array(CAPTIONS * 3))
    metrics = fewstep.evaluate(folder, str(data), tmp_path / "out", clip=clip, **FEW)
    assert metrics["features"]["name"] == "clip"
    assert metrics["data"]["captions"] == 4 and "classes" not in metrics["data"]
    assert all(-100 <= row["clip_score"] <= 100 and row["class_accuracy"] is None for row in metrics["rows"])
    assert "CLIP" in (tmp_path / "out" / "report.html").read_text()
    (tmp_path / "prompts.txt").write_text("ab\nba\n")
    chosen = FEW | {"clip": clip, "prompts": str(tmp_path / "prompts.txt")}
    asked = fewstep.evaluate(folder, str(data), tmp_path / "asked", **chosen)
    assert asked["rows"][0]["clip_score"] != metrics["rows"][0]["clip_score"]
    assert len(json.loads((tmp_path / "asked" / "evaluation.json").read_text())["prompts"]) == 12
    (tmp_path / "prompts.txt").write_text("ab\nb\n")
    with pytest.raises(InputError, match="holds an evaluation with prompts"):
        fewstep.evaluate(folder, str(data), tmp_path / "asked", **chosen)


def test_captions_are_asked_for_as_often_as_the_data_have_them(tmp_path):
    model = fewstep.open_model(pipelines.text_pipeline(tmp_path / "teacher"))
    data = open_data(path=str(pictures(tmp_path / "data.npz", captions=np.array(["a"] * 9 + ["b"] * 3))), captions=True)
    conditions = sample_conditions(model, data, None)
    words = conditions.prompts(conditions.labels(0, 24))
    assert (words.count("a"), words.count("b")) == (18, 6)
    assert words[5:9] == conditions.prompts(conditions.labels(5, 9))
    whole, part = conditions.condition(conditions.labels(0, 4)), conditions.condition(conditions.labels(2, 4))
    name = next(iter(whole))
    torch.testing.assert_close(whole[name][2:], part[name])


def test_what_cannot_be_asked_for_is_one_line(tmp_path, teacher_folder):
    def fails(match, model, data, **changes):
        with pytest.raises(InputError, match=match) as caught:
            fewstep.evaluate(model, data, tmp_path / "out", **FEW | changes)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    text = pipelines.text_pipeline(tmp_path / "teacher")
    data = str(pictures(tmp_path / "data.npz", captions=np.array(CAPTIONS * 3)))
    fails("of text name --clip MODEL, --inception FILE", text, data)
    fails("need a CLIP model: name a folder or a hub id with --clip", text, data, features="clip")
    fails("is no CLIP model that transformers opens", text, data, clip=str(tmp_path))
    fails("prompts .* cannot be read .*set evaluate.prompts", text, data, prompts=str(tmp_path / "none.txt"))
    fails("--prompts are for a model of text", teacher_folder, "digits", prompts=str(tmp_path / "none.txt"))
    choices = {"network": pipelines.unet(in_channels=9), "pipeline": "StableDiffusionInpaintPipeline"}
    filling = pipelines.text_pipeline(tmp_path / "filling", **choices)
    fails("fills in pictures, and evaluate measures samples of classes or prompts alone", filling, data)
