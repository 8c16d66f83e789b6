"""`teach.start`: a model of any family trained on as a guided teacher, and the benchmark's untrained ones of latents."""

import json

import numpy as np
import pytest
import torch
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline

import pipelines
import tiny
from command_line import command, refused
from conftest import TINY
from fewstep import distill, open_model, teach
from fewstep.training.recipe import load_recipe
from fewstep.training.trainer import Interrupted, Trainer

QUICK = TINY | {"teach.updates": 4, "train.batch_size": 4, "train.checkpoint_every": 3}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """An .npz of eight random grey pictures of 32x32 in two classes."""
    file = tmp_path_factory.mktemp("pictures") / "pictures.npz"
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 1)).astype(np.uint8)
    np.savez(file, images=images, labels=np.arange(8) % 2)
    return file


@pytest.fixture(scope="module")
def latent(tmp_path_factory, pictures):
    """The folder of the benchmark's untrained UNet and DiT."""
    from benchmarks.quality import latent_models

    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("latent") / "latent"
    latent_models.main(
        ["--data", str(pictures), "--test", str(pictures), "--out", str(out), "--updates", "3", "--device", "cpu", "--quiet"]
    )
    return out


def weights_of(folder):
    return {name: value.clone() for name, value in open_model(folder).denoiser.network.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_a_network_of_latents_is_taught_distilled_and_stock(latent, pictures, tmp_path, kind):
    found = json.loads((latent / "RESULT.json").read_text())
    assert found["vae_psnr"] > 0
    assert found["parameters"][kind] > 1e6
    changes = QUICK | {"data.path": str(pictures), "teach.start": str(latent / kind)}
    before = weights_of(latent / kind)
    taught = teach(load_recipe(None, changes), tmp_path / "teacher", device="cpu", quiet=True)
    assert (tmp_path / "teacher" / "cache" / "index.json").is_file(), "the latents were not cached"
    assert taught.info.kind == "teacher"
    assert taught.info.history[-1]["updates"] == 4
    after = weights_of(tmp_path / "teacher" / "teacher")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(value, weights_of(latent / kind)[name]) for name, value in before.items()), "the start was written to"
    student = distill(tmp_path / "teacher", str(pictures), out=tmp_path / "run", changes=TINY | {"stage_two.ladder": [2]}, device="cpu", quiet=True)  # fmt: skip
    [image] = student.sample([1], steps=2, guidance_scale=2.0)
    assert image.size == (32, 32)
    if kind == "dit":
        pipeline = DiTPipeline.from_pretrained(tmp_path / "teacher" / "teacher")
        assert pipeline.labels == {"0": 0, "1": 1}
        assert pipeline([1], guidance_scale=1.0, num_inference_steps=2, output_type="np").images.shape == (1, 32, 32, 1)


def test_teaching_of_text_leaves_the_text_encoder(tmp_path):
    folder = pipelines.text_pipeline(tmp_path / "stock")
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    np.savez(tmp_path / "pictures.npz", images=images, captions=np.array(["a", "b", "ab", "ba"]))
    changes = QUICK | {"data.path": str(tmp_path / "pictures.npz"), "teach.start": str(folder)}
    taught = teach(load_recipe(None, changes), tmp_path / "run", device="cpu", quiet=True)
    assert taught.info.condition == "text"
    mine, theirs = (f / "text_encoder" / "model.safetensors" for f in (tmp_path / "run" / "teacher", folder))
    assert mine.read_bytes() == theirs.read_bytes()


def test_teaching_on_resumes_as_if_it_had_not_stopped(tmp_path, teacher_folder, monkeypatch):
    recipe = load_recipe(None, QUICK | {"teach.updates": 8, "data.name": "digits", "teach.start": str(teacher_folder)})
    teach(recipe, tmp_path / "whole", device="cpu", quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_asked_to_stop", lambda trainer, state: state.update == 5)
        with pytest.raises(Interrupted):
            teach(recipe, tmp_path / "parts", device="cpu", quiet=True)
    assert not (tmp_path / "parts" / "teacher").exists()
    teach(recipe, tmp_path / "parts", device="cpu", quiet=True)
    whole, parts = (weights_of(tmp_path / run / "teacher") for run in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert any(not torch.equal(value, whole[name]) for name, value in weights_of(teacher_folder).items())


def test_what_cannot_be_taught_is_one_line(tmp_path, capsys, teacher_folder):
    tiny.tiny_student(2).save(tmp_path / "student")
    words = ("teach", "digits", "--out", tmp_path / "run", "--device", "cpu", "--set")
    assert "teach.start is a student" in refused(capsys, *words, f"teach.start={tmp_path / 'student'}")
    assert "is not a folder" in refused(capsys, *words, f"teach.start={tmp_path / 'nothing'}")
    assert "inpainting = true is for a new network" in refused(
        capsys, *words, f"teach.start={teacher_folder}", "--set", "teach.inpainting=true"
    )
    np.savez(tmp_path / "two.npz", images=np.zeros((6, 8, 8, 1), np.uint8), labels=np.array([0, 1, 0, 1, 0, 1]))
    words = ("teach", "fashion-mnist", "--out", tmp_path / "run", "--set", f"data.path={tmp_path / 'two.npz'}", "--device", "cpu")
    settings = ('data.classes=["a","b"]', "data.size=8", f"teach.start={teacher_folder}")
    message = refused(capsys, *words, *(word for setting in settings for word in ("--set", setting)))
    assert "number of classes is 2, the model's 10" in message
    assert not (tmp_path / "run").exists()


def test_a_dry_run_counts_the_network_that_is_taught(tmp_path, capsys, teacher_folder):
    network = open_model(teacher_folder).denoiser.network
    out, _ = command(capsys, "teach", "digits", "--set", f"teach.start={teacher_folder}", "--out", tmp_path / "run", "--dry-run")
    from fewstep.training.cost_estimate import short

    count = sum(p.numel() for p in network.parameters())
    assert f"network   {short(count)} parameters;" in out
    assert "teacher" in out.splitlines()[-1]
    assert not (tmp_path / "run").exists()
