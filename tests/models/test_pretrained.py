"""Model folders: what is saved is what diffusers alone reads; what is damaged or foreign is refused."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from fewstep import InputError, open_model
from fewstep.method.guidance import embed_w
from fewstep.models.families.class_conditional import ClassConditionalPipeline
from fewstep.models.families.schedulers import scheduler_of
from fewstep.models.metadata import read_info
from fewstep.models.verify import difference_of
from fewstep.training.distill import next_student, student_of
from tiny import awake


@pytest.fixture
def student(recipe, teacher_folder):
    """A student of 4 steps whose input for w does something."""
    model = awake(student_of(recipe(), open_model(teacher_folder)))
    model.denoiser.network.requires_grad_(False).eval()
    return next_student(model, 4)


def test_stock_diffusers_alone_gives_our_samples(tmp_path, student):
    from diffusers import DDIMScheduler, UNet2DConditionModel

    folder = student.save(tmp_path / "student")
    network, scheduler = UNet2DConditionModel.from_pretrained(folder / "unet"), DDIMScheduler.from_pretrained(folder / "scheduler")
    assert (network.config.time_cond_proj_dim, network.config.num_class_embeds) == (256, 11)
    expected = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False, "steps_offset": 1}
    expected |= {"prediction_type": "v_prediction", "thresholding": False}
    assert scheduler.config | expected == scheduler.config
    assert float(scheduler.alphas_cumprod[-1]) < 1e-8  # zero terminal SNR
    noise, labels = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 3, 9, 3, 1])
    ours = open_model(folder).sample_tensor(labels, guidance_scale=2.5, noise=noise).samples
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [1023, 767, 511, 255]
    z = noise
    for t in scheduler.timesteps:
        with torch.no_grad():
            out = network(z, t, None, class_labels=labels, timestep_cond=embed_w(torch.full((5,), 1.5), 256)).sample
        z = scheduler.step(out, t, z).prev_sample
    torch.testing.assert_close(ours, z, atol=1e-5, rtol=1e-5)
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pt"))


def test_the_scale_changes_the_samples_and_reaches_the_network_as_w(student):
    labels, noise = torch.tensor([1, 2]), torch.randn(2, 1, 8, 8)
    one, two = (student.sample_tensor(labels, guidance_scale=s, noise=noise).samples for s in (1.0, 2.0))
    assert not torch.allclose(one, two)
    z, t, seen = noise, torch.ones(2), []
    spy = replace(student.denoiser, call=lambda n, z, time, c, w: seen.append(w) or student.family.call(n, z, time, c, w))
    replace(student, denoiser=spy).sample_tensor(labels, guidance_scale=2.75, noise=z)
    assert len(seen) == 4
    assert all(torch.equal(w, 1.75 * t) for w in seen)


def test_our_pipeline_class_opens_the_folder(tmp_path, student):
    pipeline = ClassConditionalPipeline.from_pretrained(student.save(tmp_path / "student"))
    images = pipeline([3, 5], num_inference_steps=4, guidance_scale=2.0, generator=torch.Generator().manual_seed(0))
    for image, ours in zip(images, student.sample([3, 5], guidance_scale=2.0, seed=0), strict=True):
        assert abs(np.asarray(image.convert("L")).astype(int) - np.asarray(ours)).max() <= 1


def test_a_save_that_stock_diffusers_reads_otherwise_stays_and_says_so(tmp_path, student, monkeypatch):
    def wrong(family, process, prediction):
        scheduler = scheduler_of(process, prediction)
        scheduler.register_to_config(timestep_spacing="leading")
        return scheduler

    assert (
        read_info(student.save(tmp_path / "right")).stock.items() >= {"agrees": True, "tolerance": 1e-3, "dtype": "float32"}.items()
    )
    monkeypatch.setattr(type(student.family), "scheduler", wrong)
    with pytest.warns(UserWarning, match="differ from ours"):
        folder = student.save(tmp_path / "student")
    found = open_model(folder).info.stock
    assert found["difference"] > found["tolerance"] and not found["agrees"]


def test_a_comparison_that_fails_leaves_the_folder(tmp_path, student, monkeypatch):
    def out_of_memory(*_given):
        raise MemoryError("no room for a second network")

    monkeypatch.setattr(type(student.family), "stock_sample", out_of_memory)
    with pytest.warns(UserWarning, match="no room"):
        folder = student.save(tmp_path / "student")
    assert open_model(folder).info.stock == {"failed": "no room for a second network"}


def test_an_old_folder_is_replaced_whole_or_stays(tmp_path, student, monkeypatch):
    folder = student.save(tmp_path / "student")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    rename = os.rename

    def fails_once(one, other):
        if str(one).endswith(".fewstep") and str(other) == str(folder):
            raise OSError(5, "Input/output error")
        rename(one, other)

    monkeypatch.setattr(os, "rename", fails_once)
    with pytest.raises(InputError, match="Input/output error"):
        student.save(folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["student"]


def test_saving_keeps_what_was_there(tmp_path, student):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match="holds something else"):
        student.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "dear"
    folder = student.save(tmp_path / "student")
    student.save(folder)  # a model may be replaced by a model
    assert difference_of(student, folder) < 1e-5


def test_a_full_disk_leaves_what_was_there(tmp_path, student, monkeypatch):
    folder = student.save(tmp_path / "student")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffusers.UNet2DConditionModel.save_pretrained", full)
    with pytest.raises(InputError, match="No space left"):
        student.save(folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["student"]


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "is not a folder"),
        (lambda folder: (folder / "fewstep.json").write_text("{"), "Invalid JSON.*damaged"),
        (
            lambda folder: (folder / "fewstep.json").write_text(read_info(folder).model_dump_json().replace("teacher", "dragon")),
            "kind",
        ),
        (lambda folder: [(folder / name).unlink() for name in ("fewstep.json", "model_index.json")], "is not a model folder"),
        (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000]), "damaged or missing"),
        (lambda folder: (folder / WEIGHTS).unlink(), "damaged or missing"),
        (lambda folder: (folder / WEIGHTS).rename((folder / WEIGHTS).with_suffix(".bin")), "damaged or missing"),
    ],
)
def test_damaged_and_foreign_folders_are_one_line(tmp_path, teacher_folder, damage, message):
    folder = shutil.copytree(teacher_folder, tmp_path / "model")
    (folder / "fewstep-files.json").unlink()  # as in a folder without hashes
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        open_model(folder)
    assert "\n" not in str(error.value)


def test_choices_that_the_model_was_not_trained_for(student, teacher_folder):
    for choices, message in (
        ({"guidance_scale": 5.5}, "outside the range 1 to 5"),
        ({"guidance_scale": 0.5}, "outside the range 1 to 5"),
        ({"steps": 3}, "was trained for 4"),
        ({"sampler": "stochastic"}, "stochastic"),
        ({"sampler": "euler"}, "not known"),
    ):
        with pytest.raises(InputError, match=message):
            student.sample([1], **choices)
    for label in (["ten"], [10], [-1], []):
        with pytest.raises(InputError, match="class"):
            student.sample(label)
    with pytest.raises(InputError, match="noise has shape"):
        open_model(teacher_folder).sample_tensor(torch.tensor([1]), noise=torch.zeros(1, 1, 4, 4))


def test_the_information_of_a_student_tells_where_it_comes_from(tmp_path, student):
    info = read_info(student.save(tmp_path / "s"))
    assert (info.kind, info.steps, info.guidance_scale, info.sampler) == ("student", 4, (1.0, 5.0), "deterministic")
    assert (info.process["name"], info.classes) == ("cosine", tuple("0123456789"))
