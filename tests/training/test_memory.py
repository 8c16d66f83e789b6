"""What memory holds in each stage of a distillation: what that stage needs, however long the ladder is."""

import gc
import platform
from types import SimpleNamespace

import psutil
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

import fewstep
import pipelines
from conftest import TINY
from fewstep import open_model
from fewstep.devices import keep_large_blocks_apart
from fewstep.training.memory_estimate import needed
from fewstep.training.network_cost import decoding_bytes
from fewstep.training.recipe import load_recipe
from fewstep.training.trainer import Trainer


def networks():
    """The networks whose weights are in memory."""
    gc.collect()
    found = [made for made in gc.get_objects() if issubclass(type(made), UNet2DConditionModel)]
    return [network for network in found if next(network.parameters()).device.type != "meta"]


def watched(monkeypatch):
    """A dictionary that gets, by the name of each stage, how many networks there are when it begins."""
    counts, train, before = {}, Trainer.train, networks()  # those that other tests hold stay in `before`

    def counting(self, stage, *rest):
        known = {id(network) for network in before}
        counts[stage.name] = len([network for network in networks() if id(network) not in known])
        return train(self, stage, *rest)

    monkeypatch.setattr(Trainer, "train", counting)
    return counts


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such heap")
def test_large_blocks_that_are_let_go_of_leave_the_process():
    keep_large_blocks_apart()
    resident = psutil.Process().memory_info
    before, blocks = resident().rss, []
    kept = [
        (blocks.append(torch.ones(2 << 20)), torch.ones(64))[1] for _ in range(24)
    ]  # 8 MiB each, small ones that stay between them
    assert resident().rss - before > 180 << 20
    blocks.clear()
    assert resident().rss - before < 16 << 20
    assert len(kept) == 24


def test_a_rung_holds_two_networks_however_long_the_ladder_is_and_the_last_student_is_what_comes_back(
    recipe, tmp_path, monkeypatch
):
    counts = watched(monkeypatch)
    settings = recipe(
        stage_two__ladder=(8, 4, 2, 1), stage_two__updates=2, stage_two__last_updates=2, encoder__ladder=(4, 2), encoder__updates=2
    )
    student = fewstep.distill(recipe=settings, out=tmp_path / "run", device="cpu", quiet=True)
    assert list(counts) == ["stage-one", "steps-0004", "steps-0002", "steps-0001", "encoder-0002"]
    assert set(counts.values()) == {2}, counts
    assert (student.info.kind, student.info.steps) == ("student", 1)  # not the encoder, which was trained after it
    saved = fewstep.open_model(tmp_path / "run" / "steps-0001").denoiser.network.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in student.denoiser.network.state_dict().items())


@pytest.mark.slow
def test_the_teacher_stays_for_its_paths(recipe, tmp_path, monkeypatch):
    counts = watched(monkeypatch)
    settings = recipe(
        stage_two__ladder=(4, 2, 1), paths__rung=1, paths__count=16, paths__solver_steps=2, paths__updates=2, stage_two__updates=2
    )
    fewstep.distill(recipe=settings, out=tmp_path / "run", device="cpu", quiet=True)
    assert counts == {"stage-one": 2, "steps-0002": 3, "ladder-0001": 3, "steps-0001": 2}


def test_what_does_not_fit_into_memory_is_refused_before_the_start_with_what_to_change(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("fewstep.training.memory_estimate.room", lambda device: 500 << 20)
    with pytest.raises(fewstep.InputError, match=r"has 0\.5 GB.*gradient_checkpointing.*student\.lora\.rank") as error:
        fewstep.distill(recipe=recipe(), out=tmp_path / "run", device="cpu", quiet=True)
    assert "\n" not in str(error.value) and not list(tmp_path.rglob("*.safetensors"))


def test_a_disk_without_room_for_the_run_is_refused_before_the_start_with_the_numbers(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(total=10**9, used=10**9, free=1000))
    with pytest.raises(fewstep.InputError, match=r"0\.0 GB free.*student\.dtype"):
        fewstep.distill(recipe=recipe(), out=tmp_path / "run", device="cpu", quiet=True)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_average_on_the_cpu_gives_the_same_bits(recipe, tmp_path):
    settings = {"stage_two__ladder": (4, 1), "stage_two__last_updates": 2}
    made = [
        fewstep.distill(recipe=recipe(**settings, train__ema_device=place), out=tmp_path / place, device="cpu", quiet=True)
        for place in ("device", "cpu")
    ]
    one, other = (model.denoiser.network.state_dict() for model in made)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_moments_of_eight_bits_need_their_package(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("fewstep.training.train_state.find_spec", lambda name: None)
    with pytest.raises(fewstep.InputError, match="adamw8bit"):
        fewstep.distill(recipe=recipe(train__optimizer="adamw8bit"), out=tmp_path / "run", device="cpu", quiet=True)


def test_what_decodes_pictures_counts_on_a_cpu_where_it_is_the_most(tmp_path, monkeypatch):
    folder = pipelines.text_pipeline(tmp_path / "teacher")
    teacher = open_model(folder)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()  # its config is enough
    weights = 4 * sum(p.numel() for p in pipelines.vae().parameters())
    picture = 4 * 3 * 16 * 16
    assert weights + picture < decoding_bytes(teacher) < weights + 100 * picture
    monkeypatch.setattr("fewstep.training.memory_estimate.decoding_bytes", lambda model: 10**12)
    changes = {key: value for key, value in TINY.items() if not key.startswith("network")} | {"teacher.path": str(folder)}
    for every, kind, counted in ((1, "cpu", True), (0, "cpu", False), (1, "cuda", False)):
        parts = needed(load_recipe(None, changes | {"train.sample_every": every}), teacher, kind)[1]
        assert (parts.get("pictures") == 10**12) == counted
        assert parts["total"] == sum(value for key, value in parts.items() if key != "total")
