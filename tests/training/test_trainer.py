"""The loop: equal however it is cut into processes, micro-batches and pauses; safe against numbers that are not finite."""

import json
import shutil
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from safetensors.torch import load_file

from conftest import TINY
from fewstep import open_model
from fewstep.data.loading import open_data
from fewstep.errors import InputError
from fewstep.training.checkpoint import load_checkpoint
from fewstep.training.distill import distill_model, new_teacher, student_of
from fewstep.training.draws import Draws
from fewstep.training.losses import stage_one, stage_two, teaching
from fewstep.training.recipe import load_recipe
from fewstep.training.trainer import Interrupted, Trainer


@pytest.fixture
def digits():
    return open_data(name="digits")


@pytest.fixture
def run(tmp_path, digits):
    """A function that gives (model, trainer, stage) to train a tiny teacher in a folder; the trainers are closed at the end."""
    with ExitStack() as stack:

        def make(name="run", quiet=True, **changes):
            recipe = load_recipe(None, TINY | {key.replace("__", "."): value for key, value in changes.items()})
            model = new_teacher(recipe, digits)
            trainer = stack.enter_context(closing(Trainer(tmp_path / name, digits, recipe.train, "cpu", quiet)))
            return model, trainer, teaching(recipe, model.denoiser)

        yield make


@pytest.fixture
def trained(run):
    """A function that gives the weights of a tiny teacher after its updates."""

    def train(name, **changes):
        model, trainer, stage = run(name, **changes)
        trainer.train(stage, model.denoiser)
        return model.denoiser.network.state_dict()

    return train


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


def test_gradient_accumulation_is_a_larger_batch(trained):
    whole = trained("whole", train__batch_size=6)
    parts = trained("parts", train__batch_size=2, train__gradient_accumulation=3)
    for key in whole:
        torch.testing.assert_close(parts[key], whole[key], atol=2e-4, rtol=1e-3)


def test_training_changes_the_weights_and_the_seed_decides_them(trained):
    first, again, other = (trained(name, train__seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert_equal_weights(first, again)
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])


SPLITS = {"whole": (6, 1), "halves": (3, 2), "sixths": (1, 6), "twice": (12, 1)}  # batch size and micro-batches


@pytest.fixture
def drawn(run):
    """A function that trains a tiny teacher under a split up to an update: what its updates draw, {update: {key: (examples, ...)}}."""

    def train(name, split="whole", until=6, quiet=True, **changes):
        size, parts = SPLITS[split]
        model, trainer, stage = run(name, quiet, train__batch_size=size, train__gradient_accumulation=parts, **changes)
        batches = []

        def error(denoiser, batch):
            batches.append(batch)
            if len(batches) == until * parts:
                trainer.signals.append(15)
            return stage.error(denoiser, batch)

        with suppress(Interrupted):
            trainer.train(replace(stage, error=error), model.denoiser)
        groups = [batches[i : i + parts] for i in range(0, len(batches), parts)]
        keys, first = ("x", "condition", "t", "dropped", "noise"), 7 - len(groups) if until == 6 else 1
        return {u: {key: torch.cat([b[key] for b in group]) for key in keys} for u, group in enumerate(groups, first)}

    return train


def test_the_seed_decides_what_an_update_draws(drawn):
    """On the CPU too, where a generator takes 32 bits of its seed alone."""
    batches = [batch for seed in (0, 1, 1 << 30) for batch in drawn(str(seed), until=2, train__seed=seed).values()]
    for i, batch in enumerate(batches):
        assert not any(torch.equal(batch[key], other[key]) for other in batches[:i] for key in ("t", "noise"))


@pytest.mark.parametrize("split", ["halves", "sixths"])
def test_a_run_resumed_under_another_split_draws_what_the_whole_batch_draws(drawn, split, capsys):
    whole = drawn("whole")
    drawn("run", until=2)
    resumed = drawn("run", split, quiet=False)
    assert list(resumed) == [3, 4, 5, 6]
    for update, batch in resumed.items():
        for key, value in batch.items():
            assert torch.equal(value, whole[update][key]), (update, key)
    assert "goes on" not in capsys.readouterr().err


def test_a_run_resumed_with_a_larger_batch_goes_on_in_the_data_where_it_was(drawn, digits, capsys):
    drawn("run", "halves", until=2)
    resumed = drawn("run", "twice", quiet=False)
    for update, batch in resumed.items():
        x, labels = digits.batch(2 * 6 + (update - 3) * 12, 12)
        assert torch.equal(batch["x"], x) and torch.equal(batch["condition"], labels)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "goes on" in line]
    assert all(number in line for number in ("update 2", "12 examples", "6 before", "example 12"))


def stopping(stage, trainer, updates):
    """The stage, which asks the trainer to stop in its update of that number, as a signal would."""
    count = iter(range(1, 100))

    def error(denoiser, batch):
        if next(count) == updates:
            trainer.signals.append(15)
        return stage.error(denoiser, batch)

    return replace(stage, error=error)


@pytest.mark.parametrize("updates", [1, 2, 4, 5])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path, run, trained, updates):
    model, trainer, stage = run("stopped")
    with pytest.raises(Interrupted, match=f"update {updates}"):
        trainer.train(stopping(stage, trainer, updates), model.denoiser)
    assert_equal_weights(trained("whole"), trained("stopped"))
    updates = [json.loads(line)["update"] for line in (tmp_path / "stopped" / "log.jsonl").read_text().splitlines()]
    assert updates == [1, 2, 3, 4, 5, 6]


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(run):
    weights, skipped = [], []
    for poison in ((), (4,)):
        model, trainer, stage = run(str(poison), teach__updates=5, train__ema=0.0)
        count = iter(range(100))

        def error(denoiser, batch, stage=stage, count=count, poison=poison):
            return stage.error(denoiser, batch) * (float("inf") if next(count) in poison else 1.0)

        skipped.append(trainer.train(replace(stage, error=error), model.denoiser)["skipped"])
        weights.append(model.denoiser.network.state_dict())
    clean, poisoned = weights
    assert skipped == [0, 1]
    assert all(value.isfinite().all() for value in poisoned.values())
    assert not torch.equal(clean["conv_in.weight"], poisoned["conv_in.weight"])  # its last update is missing


def test_ten_bad_updates_in_a_row_stop_the_run_with_the_good_state_saved(tmp_path, run):
    model, trainer, stage = run(teach__updates=40)
    count = iter(range(100))

    def error(denoiser, batch):
        return stage.error(denoiser, batch) * (float("nan") if next(count) >= 7 else 1.0)

    with pytest.raises(InputError, match="10 updates in a row"):
        trainer.train(replace(stage, error=error), model.denoiser)
    saved = load_checkpoint(tmp_path / "run" / "checkpoint" / "state.safetensors")
    assert saved is not None
    assert (saved.values["update"], saved.values["skipped"]) == (17, 10)
    assert all(value.isfinite().all() for value in saved.tensors.values())


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, run, monkeypatch):
    model, trainer, stage = run()
    with pytest.raises(Interrupted):
        trainer.train(stopping(stage, trainer, 2), model.denoiser)
    file = tmp_path / "run" / "checkpoint" / "state.safetensors"
    before = file.read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    model, trainer, stage = run()
    with pytest.raises(InputError, match="No space left on device"):
        trainer.train(stage, model.denoiser)  # the checkpoint of update 3 does not fit
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["state.safetensors"]


def test_distillation_writes_a_folder_a_rung_and_resumes_between_them(tmp_path, digits, recipe, teacher_folder):
    settings, file = recipe(), tmp_path / "steps-0001" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = []
    for _ in range(2):
        with closing(Trainer(tmp_path, digits, settings.train, "cpu", quiet=True)) as trainer:
            student = distill_model(settings, open_model(teacher_folder), digits, trainer)
        assert [entry["stage"] for entry in student.info.history] == ["stage-one", "steps-0002", "steps-0001"]
        weights.append(load_file(file))
        shutil.rmtree(tmp_path / "steps-0001")  # as if the rung's folder was lost: it is trained again, from the stage before
    assert_equal_weights(*weights)


def error_of_a_batch(stage, student, data, n):
    """Have the stage's error of n examples computed; the batch."""
    batch = stage.draw(Draws(0, stage.name, 0, n))
    batch["x"], batch["condition"] = data.batch(0, n)
    stage.error(student.denoiser, batch | {"noise": torch.randn(batch["x"].shape)})
    return batch


@pytest.mark.parametrize("sampler", ["deterministic", "stochastic"])
def test_stage_two_guides_no_further(digits, recipe, teacher_folder, sampler):
    """One student-shaped call a teacher step, at the weight that was drawn: guiding again is the field's commonest error."""
    settings = recipe(stage_two__sampler=sampler)
    student = student_of(settings, open_model(teacher_folder))
    calls = []

    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.anchor = torch.nn.Parameter(torch.zeros(()))

        def forward(self, z, time, condition, w):
            calls.append((len(z), w.clone()))
            return z * 0.1 + self.anchor

    teacher = replace(student, denoiser=replace(student.denoiser, network=Counting(), call=lambda n, z, t, c, w: n(z, t, c, w)))
    stage = stage_two(settings, teacher, steps=2, k=2)
    batch = error_of_a_batch(stage, student, digits, 5)
    assert [n for n, _ in calls] == [5, 5]
    for _, w in calls:
        assert torch.equal(w, batch["w"].float())


def test_stage_one_asks_the_guided_teacher_once_with_both_branches(digits, recipe, teacher_folder):
    settings, teacher = recipe(), open_model(teacher_folder)
    sizes = []

    def call(network, z, time, condition, w):
        sizes.append((len(z), w is None, condition.tolist()))
        return teacher.family.call(network, z, time, condition, w)

    counted = replace(teacher, denoiser=replace(teacher.denoiser, call=call))
    stage = stage_one(settings, counted)
    batch = error_of_a_batch(stage, student_of(settings, teacher), digits, 3)
    assert sizes == [(6, True, [*batch["condition"].tolist(), 10, 10, 10])]


def test_weights_are_drawn_continuously_over_the_range(recipe, teacher_folder):
    stage = stage_one(recipe(student__guidance_scale=[1.5, 4.0]), open_model(teacher_folder))
    w = stage.draw(Draws(0, "stage-one", 0, 4000))["w"]
    assert 0.5 <= w.min() < 0.51
    assert 2.99 < w.max() <= 3.0
    assert len(w.unique()) == 4000


def test_the_frozen_teacher_runs_in_the_precision_of_the_run(tmp_path, digits, recipe, teacher_folder):
    settings, teacher, seen = recipe(train__precision="bf16"), open_model(teacher_folder), {True: set(), False: set()}

    def call(network, z, time, condition, w):
        output = teacher.family.call(network, z, time, condition, w)
        seen[w is not None].add(output.dtype)
        return output

    trainer = Trainer(tmp_path, digits, settings.train, "cpu", quiet=True)
    student = distill_model(settings, replace(teacher, denoiser=replace(teacher.denoiser, call=call)), digits, trainer)
    trainer.close()
    assert torch.bfloat16 in seen[False]  # the guided teacher of stage one
    assert torch.bfloat16 in seen[True]  # the student, and the student before it as the teacher of a rung
    assert {p.dtype for p in student.denoiser.network.parameters()} == {torch.float32}  # what is kept samples in its own precision
    seen[True].clear()
    z = torch.randn(2, student.info.channels, student.info.size, student.info.size)
    student.denoiser(z, torch.ones(2), torch.zeros(2).long(), torch.zeros(2))
    assert seen[True] == {torch.float32}


def test_fp16_without_a_gpu_is_refused(tmp_path, digits):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match=r"train\.precision 'fp16'"):
        Trainer(tmp_path, digits, load_recipe(None, {"train.precision": "fp16"}).train)


class Recorder(GeneralTracker):
    """A tracker of accelerate's that keeps what it is given."""

    name, requires_logging_directory, tracker = "recorder", False, None
    logged: ClassVar[list] = []

    def __init__(self, project):
        super().__init__()
        assert project == "fewstep"

    def log(self, values, step=None, **more):
        self.logged.append((step, values))


def test_other_trackers_of_accelerate_get_the_curves_at_the_update_of_the_whole_run(tmp_path, digits, recipe, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    monkeypatch.setattr("fewstep.training.logging.find_spec", lambda name: name)
    settings = recipe(train__log_with="recorder", stage_two__ladder=(4, 1))
    with closing(Trainer(tmp_path, digits, settings.train, "cpu", quiet=True)) as trainer:
        distill_model(settings, open_model(settings.teacher.path), digits, trainer)
    assert [step for step, _ in Recorder.logged] == list(range(1, 11))
    assert {f"{stage}/loss" for stage in ("stage-one", "steps-0001")} < {key for _, values in Recorder.logged for key in values}
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("name", ["tensorboard", "none"])
def test_curves_are_in_tensorboard_unless_none_are_asked_for(tmp_path, trained, name):
    trained("run", train__log_with=name)
    assert (tmp_path / "run" / "log.jsonl").is_file()
    assert any((tmp_path / "run").glob("tensorboard/events.*")) == (name == "tensorboard")


@pytest.mark.parametrize(("name", "remedy"), [("tensorbord", "tensorboard"), ("wandb", "pip install wandb")])
def test_a_tracker_that_is_not_there_is_refused(tmp_path, digits, monkeypatch, name, remedy):
    monkeypatch.setattr("fewstep.training.logging.find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"log_with.*{name}.*{remedy}"):
        Trainer(tmp_path, digits, load_recipe(None, {"train.log_with": name}).train, "cpu")
