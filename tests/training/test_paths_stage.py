"""A rung taught by the guided teacher's paths: the pool, its shards, what is kept out, and where the stage stands in a run."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import fewstep
from conftest import TINY
from fewstep.errors import InputError
from fewstep.method.process import time_grid
from fewstep.training import paths
from fewstep.training.cost_estimate import plan
from fewstep.training.distill import student_of
from fewstep.training.plan_of_stages import stages_of
from fewstep.training.recipe import load_recipe, parse_change
from fewstep.training.trainer import Interrupted, Trainer
from tiny import tiny_teacher

CHANGES = TINY | {
    "data.name": "digits", "stage_two.ladder": [8, 4, 2], "paths.rung": 4, "paths.solver_steps": 8, "paths.count": 40, "paths.updates": 12,
    "paths.validate_every": 4, "paths.held_out": 0.2,
}  # fmt: skip


def distill(out, **changes):
    return fewstep.distill(tiny_teacher(), out=out, changes=CHANGES | changes, device="cpu", quiet=True)


def weights(folder):
    return load_file(next((folder / "unet").glob("*.safetensors")))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("paths") / "run"
    torch.set_num_threads(1)
    assert distill(out).info.steps == 2  # the ladder's last, whatever stands between
    return out


def test_the_rung_is_taught_by_the_ladder_then_by_paths(run):
    models = {folder.name for folder in run.iterdir() if (folder / "fewstep.json").is_file()}
    assert models == {"stage-one", "ladder-0004", "steps-0004", "steps-0002"}
    info = fewstep.open_model(run, steps=4).info
    assert [entry["stage"] for entry in info.history] == ["stage-one", "ladder-0004", "steps-0004"] and info.steps == 4
    held = [json.loads(line)["held_out"] for line in (run / "log.jsonl").read_text().splitlines() if "held_out" in line]
    assert held and all(value > 0 for value in held)


@pytest.mark.slow
def test_the_states_are_those_of_the_guided_teacher(run):
    shard, teacher = load_file(run / "paths-0004" / "00000.safetensors"), tiny_teacher()
    assert shard["states"].shape == (40, 5, 1, 8, 8) and 0.2 < float((shard["w"] == 0).float().mean()) < 0.4
    x = shard["states"][:, -1]
    for i in (int((shard["w"] == 0).nonzero()[0]), int(shard["w"].argmax())):
        many = teacher.sample_tensor(
            shard["condition"][i : i + 1], steps=1024, guidance_scale=1 + float(shard["w"][i]), noise=shard["states"][i : i + 1, 0]
        )  # fmt: skip
        assert float((many.samples - x[i : i + 1]).square().mean().sqrt()) < 0.1 * float(x[i].square().mean().sqrt())


def test_by_paths_alone(tmp_path):
    distill(tmp_path / "run", **{"paths.after_rung": False})
    assert not (tmp_path / "run" / "ladder-0004").exists() and (tmp_path / "run" / "steps-0004").is_dir()


@pytest.mark.parametrize(
    ("scales", "low_share", "without_guidance"), [([3, 3], 0.3, 0), ([1, 1], 0.3, 1), ([1, 5], 0, 0), ([2, 5], 0.5, 0)]
)
def test_all_or_no_paths_may_be_guided(tmp_path, scales, low_share, without_guidance):
    recipe = load_recipe(None, CHANGES | {"student.guidance_scale": scales, "paths.low_share": low_share})
    teacher, trainer = tiny_teacher(), Trainer(tmp_path, fewstep.open_data(name="digits"), recipe.train, "cpu", quiet=True)
    pool = paths.path_pool(recipe, teacher, teacher.denoiser.process, trainer.data, trainer)
    assert pool.states.shape == (40, 5, 1, 8, 8) and (pool.w == 0).float().mean() == without_guidance
    evaluations = {name: calls for name, _, calls, _ in stages_of(recipe, distilling=True)}
    assert evaluations["paths-0004"] == 8 * (2 - without_guidance)


@pytest.mark.parametrize("weak", [False, True])
def test_the_pool_is_made_in_the_precision_of_the_run(tmp_path, weak):
    recipe, teacher, seen = load_recipe(None, CHANGES | {"train.precision": "bf16"}), tiny_teacher(), []

    def call(network, *given):
        seen.append(teacher.family.call(network, *given))
        return seen[-1]

    own = replace(teacher.denoiser, call=call)
    teacher = replace(teacher, denoiser=replace(own, weak=own) if weak else own)
    trainer = Trainer(tmp_path, fewstep.open_data(name="digits"), recipe.train, "cpu", quiet=True)
    pool = paths.path_pool(recipe, teacher, teacher.denoiser.process, trainer.data, trainer)
    assert {output.dtype for output in seen} == {torch.bfloat16} and pool.states.dtype == torch.float32


@pytest.mark.slow
def test_all_networks_are_compiled_and_learn_the_same_bits(run, tmp_path, monkeypatch):
    compiled, compile_it = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or compile_it(network, backend="eager"))
    distill(tmp_path / "run", **{"train.compile": True})
    assert len(compiled) == 8  # four students, and whom each learns from
    for name in ("steps-0004", "steps-0002"):
        mine, whole = weights(tmp_path / "run" / name), weights(run / name)
        assert all(torch.equal(mine[key], whole[key]) for key in whole)


def test_a_compiled_network_with_another_gradient_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", deepcopy)  # its gradient is of other weights
    with pytest.raises(InputError, match=r"100% off its own.*set train.compile to false"):
        distill(tmp_path / "run", **{"train.compile": True})


def test_a_stopped_run_goes_on_to_the_same_bits(run, tmp_path, monkeypatch):
    out, made, loop = tmp_path / "run", [], Trainer.gradients

    def stopping(self, stage, state, *given):
        if stage.name == "steps-0004" and state.update == 7 and not made:
            made.append(True)
            self.signals.append(2)
        return loop(self, stage, state, *given)

    monkeypatch.setattr(Trainer, "gradients", stopping)
    with pytest.raises(Interrupted):
        distill(out)
    distill(out)
    for name in ("steps-0004", "steps-0002"):
        mine, whole = weights(out / name), weights(run / name)
        assert all(torch.equal(mine[key], whole[key]) for key in whole)


def test_a_shard_is_made_again_and_a_damaged_one_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "SHARD", 16)
    recipe, teacher = load_recipe(None, CHANGES), tiny_teacher()
    trainer = Trainer(tmp_path, fewstep.open_data(name="digits"), recipe.train, "cpu", quiet=True)
    arguments = recipe, teacher, teacher.denoiser.process, trainer.data, trainer
    whole = paths.path_pool(*arguments)
    file = tmp_path / "paths-0004" / "00001.safetensors"
    file.unlink()
    torch.testing.assert_close(paths.path_pool(*arguments).states, whole.states, rtol=0, atol=0)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"00001.safetensors"):
        paths.path_pool(*arguments)
    with pytest.raises(InputError, match="count"):
        paths.path_pool(load_recipe(None, CHANGES | {"paths.count": 41}), *arguments[1:])


def test_a_share_is_never_trained_on_and_every_other_path_is_in_each_epoch():
    states = torch.arange(20.0)[:, None].expand(20, 5)
    pool = paths.PathPool(states, torch.arange(20), torch.arange(20.0), 0.2, seed=3)
    taken = pool.batch(0, 16)[1]
    assert sorted(taken.tolist()) == list(range(16)) and pool.kept_out()[1].tolist() == [16, 17, 18, 19]
    split = [pool.batch(start, 4)[1] for start in (0, 4, 8, 12, 16)]
    assert torch.equal(torch.cat(split[:4]), taken) and not torch.equal(split[4], taken[:4])


def test_the_stage_ends_when_what_is_kept_out_no_longer_gets_better(tmp_path):
    changes = {"paths.updates": 400, "paths.validate_every": 1, "paths.patience": 2, "paths.learning_rate": 1e-12}
    distill(tmp_path / "run", **changes)
    history = fewstep.open_model(tmp_path / "run", steps=4).info.history
    assert history[-1]["stage"] == "steps-0004" and history[-1]["updates"] < 400


@pytest.mark.slow
def test_the_student_comes_nearer_to_the_teachers_paths(tmp_path):
    more = {"paths.count": 512, "paths.updates": 100, "paths.learning_rate": 3e-3, "train.batch_size": 32, "train.ema": 0.9}
    recipe = load_recipe(None, CHANGES | more)
    teacher, data = tiny_teacher(), fewstep.open_data(name="digits")
    trainer = Trainer(tmp_path, data, recipe.train, "cpu", quiet=True)
    student = student_of(recipe, teacher)
    pool = paths.path_pool(recipe, teacher, teacher.denoiser.process, data, trainer)
    stage = paths.paths_stage(recipe, student, pool)
    before = stage.validate(student.denoiser)
    trainer.train(stage, student.denoiser)
    assert stage.validate(student.denoiser) < 0.7 * before


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"paths.rung": 1}, "ladder"),
        ({"paths.solver_steps": 9}, "solver_steps"),
        ({"stage_two.sampler": "stochastic"}, "deterministic"),
    ],
)
def test_what_does_not_fit_is_refused(changes, key):
    with pytest.raises(InputError, match=key):
        load_recipe(None, CHANGES | changes)


def test_the_cost_of_the_pool_is_told():
    stages = {stage["name"]: stage for stage in plan(load_recipe(None, CHANGES), tiny_teacher(), probe=False)["stages"]}
    assert stages["paths-0004"]["evaluations"]["total"] == round(40 * 8 * 1.7) and len(time_grid(8)) == 9
    assert stages["steps-0004"]["evaluations"]["total"] == 12 * 4


def test_the_paths_of_a_shipped_recipe_are_left_out_by_a_zero():
    short = {"stage_two.ladder": [2, 1]}
    with pytest.raises(InputError, match=r"paths.rung = 4 .* set it to 0"):
        load_recipe("digits", short)
    recipe = load_recipe("digits", short | dict([parse_change("paths.rung=0")]))
    assert recipe.paths.rung is None and "steps-0001" in [name for name, *_ in stages_of(recipe, distilling=True)]
