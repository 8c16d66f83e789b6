"""Pictures while training: what they are of, and that training is the same to the bit with them, without them, and when they fail."""

import json
from contextlib import closing
from typing import ClassVar

import numpy as np
import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image
from safetensors.torch import load_file

import pipelines
from conftest import TINY
from fewstep import open_model
from fewstep.data.loading import open_data
from fewstep.errors import InputError
from fewstep.evaluation.training_samples import strips_of
from fewstep.training import samples
from fewstep.training.distill import distill_model, train_teacher
from fewstep.training.plan_of_stages import stages_of
from fewstep.training.recipe import load_recipe
from fewstep.training.run_folder import distill, teacher_of
from fewstep.training.sample_grids import SampleGrid, read_grid
from fewstep.training.sample_plan import sample_plans, steps_of, teacher_plan
from fewstep.training.trainer import Interrupted, Trainer
from tiny import InMemory, watched_parts

SHORT = {"stage_one.updates": 4, "stage_two.ladder": [4, 2], "stage_two.last_updates": 3, "student.guidance_scale": [1.0, 4.0]}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Saved folders are compared with stock diffusers by other tests; the teacher takes 4 steps."""
    monkeypatch.setattr("fewstep.models.pretrained.compared", lambda model, folder: {})
    monkeypatch.setattr("fewstep.training.sample_plan.TEACHER_STEPS", (4,))


@pytest.fixture
def run(tmp_path, recipe):
    """A function that distils the tiny teacher with some keys changed into a folder, which it gives."""

    def make(name, **changes):
        settings = recipe(**(SHORT | changes))
        with closing(Trainer(tmp_path / name, open_data(name="digits"), settings.train, "cpu", quiet=True)) as trainer:
            distill_model(settings, teacher_of(settings.teacher.path, None), trainer.data, trainer)
        return tmp_path / name

    return make


def weights_of(run):
    return {f"{file.parent.parent.name} {key}": v for file in run.glob(f"*/*/{WEIGHTS[5:]}") for key, v in load_file(file).items()}


def assert_same_weights(one, other):
    found, known = weights_of(one), weights_of(other)
    assert found.keys() == known.keys() and found
    for key in known:
        assert torch.equal(found[key], known[key]), key


def drawn_by(run):
    return {str(file.relative_to(run / "samples")) for file in (run / "samples").rglob("*.png")}


def test_training_is_the_same_to_the_bit_with_pictures(run):
    with_them, without = run("with", **{"train.sample_every": 2}), run("without", **{"train.sample_every": 0})
    assert_same_weights(with_them, without)
    assert not (without / "samples").exists()
    stages = ("stage-one/0000002", "stage-one/0000004", "steps-0002/0000002", "steps-0002/0000003")
    assert drawn_by(with_them) == {"teacher.png", *(f"{name}.png" for name in stages)}
    logs = [[json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()] for run in (with_them, without)]
    assert logs[0] == logs[1]


def test_a_teacher_that_is_taught_with_dropout_is_the_same_with_pictures(tmp_path):
    changes = TINY | {"network.dropout": 0.5, "student.guidance_scale": [1.0, 3.0]}
    made = {}
    for every in (0, 3):
        recipe, run = load_recipe(None, changes | {"train.sample_every": every}), tmp_path / str(every)
        with closing(Trainer(run, open_data(name="digits"), recipe.train, "cpu", quiet=True)) as trainer:
            made[every] = train_teacher(recipe, trainer.data, trainer).denoiser.network.state_dict()
    assert all(torch.equal(made[0][key], made[3][key]) for key in made[0])
    assert drawn_by(tmp_path / "3") == {"teacher/0000003.png", "teacher/0000006.png"}
    grid = read_grid(tmp_path / "3" / "samples" / "teacher" / "0000006.png")
    assert [column[:2] for column in grid.columns] == [("teacher", 1.0), ("teacher", 2.0), ("teacher", 3.0)]
    assert grid.facts["evaluations"] == 2 * grid.facts["steps"]


def enlarged(image):
    """The picture as a grid shows it: 64 pixels wide."""
    return np.asarray(image.resize((64, 64), Image.Resampling.NEAREST))


@pytest.mark.parametrize("sampler", ["deterministic", "stochastic"])
def test_the_last_pictures_of_a_stage_are_those_that_its_saved_model_draws(run, sampler):
    folder = run("run", **{"train.sample_every": 100, "stage_two.sampler": sampler, "train.seed": 5})
    student, teacher = open_model(folder, steps=2), read_grid(folder / "samples" / "teacher.png")
    grid = read_grid(folder / "samples" / "steps-0002" / "0000003.png")
    assert [column[:2] for column in grid.columns] == [(m, s) for m in ("student", "teacher") for s in (1.0, 2.5, 4.0)]
    assert grid.rows == ["0", "3", "6", "9"] and grid.facts == {"stage": "steps-0002", "update": 3, "steps": 2, "evaluations": 2}
    for _, scale, tiles in grid.of("student"):
        images = student.sample(grid.rows, guidance_scale=scale, seed=5, batch_size=4)
        for image, tile in zip(images, tiles, strict=True):
            assert np.array_equal(enlarged(image), np.asarray(tile))
    for ours, theirs in zip(grid.of("teacher"), teacher.columns, strict=True):
        assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(ours[2], theirs[2], strict=True))
    guided = open_model(load_recipe(folder / "recipe.toml").teacher.path)
    drawn = guided.sample(grid.rows, guidance_scale=4.0, steps=teacher.facts["steps"], seed=5)
    assert all(np.array_equal(enlarged(a), np.asarray(b)) for a, b in zip(drawn, teacher.columns[2][2], strict=True))


def test_a_stopped_run_goes_on_and_draws_the_same_pictures(run, monkeypatch):
    whole = run("whole", **{"train.sample_every": 1})
    real, left = samples.TrainingSamples.after_update, iter([False] * 2 + [True])

    def stopping(self, stage, state, denoiser):
        real(self, stage, state, denoiser)
        if next(left, False):
            self.trainer.signals.append(15)

    monkeypatch.setattr(samples.TrainingSamples, "after_update", stopping)
    with pytest.raises(Interrupted):
        run("cut", **{"train.sample_every": 1})
    before = drawn_by(whole.parent / "cut")
    assert 2 < len(before) < len(drawn_by(whole))
    cut = run("cut", **{"train.sample_every": 1})
    assert_same_weights(cut, whole)
    assert drawn_by(cut) == drawn_by(whole)
    for name in drawn_by(whole):
        assert (cut / "samples" / name).read_bytes() == (whole / "samples" / name).read_bytes(), name


def test_pictures_that_cannot_be_drawn_or_written_are_a_warning(run, monkeypatch):
    known = run("known", **{"train.sample_every": 0})

    def full(self, file):
        raise InputError("cannot write it: No space left on device")

    monkeypatch.setattr(SampleGrid, "write", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert_same_weights(run("full", **{"train.sample_every": 2}), known)
    monkeypatch.setattr(samples.samplers, "deterministic", lambda *rest: torch.randn(7)[9])
    with pytest.warns(UserWarning, match="left out: index 9"):
        assert_same_weights(run("broken", **{"train.sample_every": 2}), known)


def test_the_trackers_get_the_pictures(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run("run", **{"train.sample_every": 2})
    events = EventAccumulator(str(folder / "tensorboard"), {"images": 0}).Reload()
    assert [image.step for image in events.Images("stage-one/samples")] == [2, 4]
    assert [image.step for image in events.Images("steps-0002/samples")] == [2, 3]


def test_an_encoder_draws_nothing_and_paths_draw_as_their_rung_does(run):
    paths = {
        "paths.rung": 2,
        "paths.count": 16,
        "paths.solver_steps": 4,
        "paths.updates": 2,
        "encoder.ladder": [2, 1],
        "encoder.updates": 1,
    }
    folder = run("run", **(paths | {"train.sample_every": 50}))
    assert {name.split("/")[0] for name in drawn_by(folder)} == {"teacher.png", "stage-one", "ladder-0002", "steps-0002"}
    strips = strips_of(folder)
    assert [strip["stage"] for strip in strips] == ["stage-one", "ladder-0002", "steps-0002"]
    assert strips[0]["heads"] == ["update 4", "teacher, 4 steps"]
    assert all(len(images) == 2 for strip in strips for _, images in strip["lines"])
    (folder / "samples" / "steps-0002" / "0000002.png").write_bytes(b"damaged")
    (folder / "samples" / "teacher.png").write_bytes(b"\x89PNG")
    assert [(strip["stage"], len(strip["heads"])) for strip in strips_of(folder)] == [("stage-one", 1), ("ladder-0002", 1)]


TEXT = {key: value for key, value in TINY.items() if not key.startswith("network")} | SHORT | {"train.sample_every": 50}


def distilled(tmp_path, folder, monkeypatch, **changes):
    """The run of a tiny text teacher on prompts, and the parts that were handed out while it ran."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\na cat\nan eel\na fox\na hen\n")
    handed_out = watched_parts(monkeypatch)
    recipe = load_recipe(
        None, TEXT | {"teacher.path": str(folder), "data.prompts": str(prompts), "data.sampling_steps": 2} | changes
    )
    distill(recipe, None, None, tmp_path / "run", "cpu", quiet=True)
    return tmp_path / "run", handed_out


SLOW = pytest.mark.slow  # the first has its property faster


@pytest.mark.parametrize(
    "changes",
    [{"student.lora.rank": 2}, pytest.param({}, marks=SLOW), pytest.param({"data.on_the_fly": True}, marks=SLOW)],
    ids=["lora", "full", "on the fly"],
)
def test_latents_are_decoded_and_the_first_prompts_shown(tmp_path, monkeypatch, changes):
    folder, handed_out = distilled(tmp_path, pipelines.text_pipeline(tmp_path / "teacher"), monkeypatch, **changes)
    grid = read_grid(folder / "samples" / "steps-0002" / "0000003.png")
    assert [row.split()[1] for row in grid.rows] == ["cat", "dog", "eel", "fox"]
    known = json.loads((folder / "samples" / "samples.json").read_text(encoding="utf-8"))
    assert known["conditions"] == grid.rows and known["guidance_scale"] == [1.0, 2.5, 4.0]
    if "data.on_the_fly" not in changes:
        assert handed_out and not any(part() for part in handed_out)
    images = open_model(folder, steps=2).sample(prompts=grid.rows, guidance_scale=2.5, seed=0)
    for image, tile in zip(images, grid.of("student")[1][2], strict=True):
        assert np.abs(np.asarray(tile).astype(int) - enlarged(image)).max() <= 1


def test_conditions_of_data_without_names_are_numbered(tmp_path):
    teacher = open_model(pipelines.text_pipeline(tmp_path / "teacher"))
    names, condition = samples.named_conditions(teacher.info, False, InMemory(teacher))
    assert names == [f"example {i}" for i in (1, 2, 3, 4)]
    assert torch.equal(condition["text"], InMemory(teacher).condition["text"][:4])


class Watcher(GeneralTracker):
    """A tracker of accelerate's that takes pictures, as wandb's does."""

    name, requires_logging_directory, tracker = "watcher", False, None
    seen: ClassVar[list] = []

    def __init__(self, project):
        super().__init__()

    def log(self, values, step=None, **more):
        pass

    def log_images(self, values, step=None):
        self.seen.extend((step, key, pixels.shape[-1]) for key, pixels in values.items())


def test_other_trackers_get_the_pictures_at_the_update_of_the_whole_run(run, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "watcher", Watcher)
    monkeypatch.setattr("fewstep.training.logging.find_spec", lambda name: name)
    run("run", **{"train.sample_every": 3, "train.log_with": "watcher"})
    assert Watcher.seen == [
        (update, f"{stage}/samples", 3) for update, stage in ((3, "stage-one"), (4, "stage-one"), (7, "steps-0002"))
    ]


def test_pictures_by_default_are_few_and_none_where_they_would_cost_more_than_a_little(monkeypatch):
    monkeypatch.setattr("fewstep.training.sample_plan.TEACHER_STEPS", (1000, 32))
    ladder = {"stage_one.updates": 740, "paths.rung": None}
    recipe = load_recipe("digits", ladder)
    stages = stages_of(recipe, distilling=True)
    plans = sample_plans(recipe, stages, 128, latents=False)
    assert {name: (plan.every, plan.steps) for name, plan in plans.items()} == {
        "stage-one": (148, 16), "steps-0004": (24, 4), "steps-0002": (16, 2), "steps-0001": (16, 1)
    }  # fmt: skip
    assert plans["stage-one"].evaluations == 5 * 12 * 16 and teacher_plan(recipe, stages, 128, False).evaluations == 12 * 64
    for name, updates, calls, _ in stages:
        assert plans[name].evaluations <= 0.02 * updates * 128 * (calls + 3)
    few = sample_plans(recipe, stages, 8, latents=False)
    assert few["stage-one"].every == 247 and few["steps-0004"].every == 60
    assert sample_plans(recipe, stages, 1, latents=True) == {} and teacher_plan(recipe, stages, 1, True) is None
    asked = load_recipe("digits", ladder | {"train.sample_every": 100})
    assert [plan.every for plan in sample_plans(asked, stages, 1, latents=True).values()] == [100] * 4


def test_stage_one_is_sampled_at_times_that_its_student_knows():
    for ladder, times, steps in (([64, 8], "grid", 16), ([40, 8], "grid", 10), ([40, 8], "continuous", 16), ([5, 1], "grid", 5)):
        recipe = load_recipe(None, {"stage_two.ladder": ladder, "stage_one.times": times})
        assert steps_of(recipe, "stage-one") == steps
    assert [steps_of(recipe, name) for name in ("teacher", "steps-0008", "ladder-0004", "encoder-0004")] == [4, 8, 4, None]
