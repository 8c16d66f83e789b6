"""`fewstep evaluate`: rows for every configuration, the same whatever the batch, the pauses or the processes, and errors in one line."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy
import pytest
import torch
from cheap_features import pixels

import fewstep
import tiny
from command_line import command, refused
from conftest import TINY
from fewstep.cli.options import listed
from fewstep.errors import InputError
from fewstep.evaluation import evaluate as evaluation
from fewstep.evaluation import presets
from fewstep.evaluation.accumulator import Accumulator
from fewstep.evaluation.configurations import configurations, open_models, rescaled, run_of
from fewstep.evaluation.evaluate import examples_of
from fewstep.evaluation.evaluation_run import EvaluationRun, noise_of
from fewstep.evaluation.presets import default_batch_size, settings_of
from fewstep.evaluation.results_table import text_table
from fewstep.evaluation.sample_conditions import SampleConditions
from fewstep.progress import LiveLine
from fewstep.training.recipe import load_recipe

SMALL = {
    "samples": 130, "guidance_scale": (1.0, 2.0), "baselines": ("ddim", "dpm++"), "budgets": (4, 8), "reference_steps": 6,
    "preset": "full", "device": "cpu", "quiet": True,
}  # fmt: skip
PIXELS = pixels(classes=10)


pytestmark = pytest.mark.usefixtures("quick_classifier")


@pytest.fixture(scope="module")
def run(teacher_folder, tmp_path_factory):
    """A finished tiny run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = load_recipe(None, TINY | {"data.name": "digits", "teacher.path": str(teacher_folder), "evaluate.samples": 70})
    fewstep.distill(recipe=recipe, out=folder, device="cpu", quiet=True)
    return folder


@pytest.fixture(scope="module")
def evaluated(run, quick_classifier, tmp_path_factory):
    """(the metrics, the folder) of an evaluation of that run."""
    out = tmp_path_factory.mktemp("evaluations") / "out"
    return fewstep.evaluate(run, "digits", out, steps=(1, 2), **SMALL), out


def timeless(rows):
    return [{key: value for key, value in row.items() if key != "seconds_per_image"} for row in rows]


def test_a_row_for_every_configuration(evaluated):
    rows = evaluated[0]["rows"]
    found = {(r["model"], r["sampler"], r["steps"], r["evaluations"], r["guidance_scale"]) for r in rows}
    assert found == {
        ("teacher", "ddim", 6, 6, 1.0), ("teacher", "ddim", 6, 12, 2.0),
        ("teacher", "ddim", 4, 4, 1.0), ("teacher", "ddim", 8, 8, 1.0), ("teacher", "ddim", 2, 4, 2.0), ("teacher", "ddim", 4, 8, 2.0),
        ("teacher", "dpm++", 4, 4, 1.0), ("teacher", "dpm++", 8, 8, 1.0), ("teacher", "dpm++", 2, 4, 2.0), ("teacher", "dpm++", 4, 8, 2.0),
        *(("student", "deterministic", n, n, s) for n in (1, 2) for s in (1.0, 2.0)),
        *(("stage-one", "deterministic", 4, 4, s) for s in (1.0, 2.0)),
    }  # fmt: skip
    for row in rows:
        assert row["samples"] == 130
        assert row["fid_biased"] is True
        assert row["clip_score"] is None
        reference = row["model"] == "teacher" and row["steps"] == 6
        assert all((row[f"{measure}_to_teacher"] is None) == reference for measure in ("rms", "psnr", "frechet"))
        assert row["ratio"] == pytest.approx(1) or not reference
        measures = "frechet inception_score kid precision recall class_accuracy sharpness saturation diversity"
        assert all(math.isfinite(row[key]) for key in measures.split())


def test_the_files_hold_what_the_call_returns(evaluated):
    metrics, out = evaluated
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    page = (out / "report.html").read_text()
    for words in (
        "Quality against diversity",
        "DPM-Solver++",
        "The resolved recipe",
        "Training loss",
        "ratio to teacher",
        "The classes come in turn",
    ):
        assert words in page
    assert {p.name for p in out.iterdir()} - {"partial"} == {
        "evaluation.json", "grid.png", "metrics.json", "quality.png", "report.html", "rows", "samples",
    }  # fmt: skip
    table = text_table(metrics["rows"])
    assert all(len(line) <= 132 for line in table.splitlines())


@pytest.fixture
def _no_report(monkeypatch):
    """Rows without their pictures."""
    monkeypatch.setattr(evaluation, "write_results", lambda *_: None)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_report")
def test_another_batch_size_gives_the_same_up_to_rounding(evaluated, run, tmp_path):
    again = fewstep.evaluate(run, "digits", tmp_path / "out", steps=(1, 2), batch_size=50, **SMALL)
    for one, other in zip(evaluated[0]["rows"], again["rows"], strict=True):
        assert one["frechet"] == pytest.approx(other["frechet"], rel=1e-4)
        assert one["rms_to_teacher"] == pytest.approx(other["rms_to_teacher"] or 0, rel=1e-4) or one["rms_to_teacher"] is None


@pytest.mark.slow
@pytest.mark.usefixtures("_no_report")
def test_a_stopped_evaluation_goes_on_to_the_same_bits(evaluated, run, tmp_path, monkeypatch):
    taken, take = [], EvaluationRun.take

    def stopping(self, *arguments):
        self.save_every = 0.0
        taken.append(arguments)
        if len(taken) == 6:  # within the third configuration
            raise KeyboardInterrupt
        take(self, *arguments)

    expected = fewstep.evaluate(run, "digits", tmp_path / "whole", steps=(1, 2), batch_size=64, **SMALL)
    monkeypatch.setattr(EvaluationRun, "take", stopping)
    with pytest.raises(KeyboardInterrupt):
        fewstep.evaluate(run, "digits", tmp_path / "out", steps=(1, 2), batch_size=64, **SMALL)
    assert len(list((tmp_path / "out" / "rows").glob("*.json"))) == 1
    assert len(list((tmp_path / "out" / "partial").iterdir())) == 1
    resumed = fewstep.evaluate(run, "digits", tmp_path / "out", steps=(1, 2), batch_size=64, **SMALL)
    assert timeless(resumed["rows"]) == timeless(expected["rows"])
    made = 3 * len(expected["rows"]) + 1  # nothing twice but what was cut
    assert len(taken) == made
    fewstep.evaluate(run, "digits", tmp_path / "out", steps=(1,), batch_size=64, **SMALL)
    assert len(taken) == made


class Halves:
    """What an evaluation asks of accelerate, as one of two processes."""

    def __init__(self, index):
        self.process_index, self.num_processes, self.is_main_process = index, 2, index == 0

    def wait_for_everyone(self):
        """Nobody else is there."""


def two_configurations(run):
    models = open_models(run, None, [2])
    return configurations(models, [2.0], [], [], 6)


def evaluation_run(out, state, samples=300):
    conditions = SampleConditions(tiny.tiny_teacher(), tuple("0123456789"))
    return EvaluationRun(out, state, conditions, PIXELS, None, samples, 64, line=LiveLine(quiet=True))


def test_two_processes_see_what_one_sees(run, tmp_path):
    reference, student = two_configurations(run)[:2]
    whole = evaluation_run(tmp_path / "one", SimpleNamespace(process_index=0, num_processes=1))
    halves = [evaluation_run(tmp_path / "two", Halves(index)) for index in (0, 1)]
    for configuration in (reference, student):
        one = whole.sampled(configuration)
        parts = [Accumulator.of_state(half.sampled(configuration).state(), 10) for half in halves]
        both = parts[0].merge(parts[1])
        assert both.sums["images"] == 300
        torch.testing.assert_close(both.moments.scatter, one.moments.scatter)
        assert torch.equal(both.reservoir.rows, one.reservoir.rows)
        assert torch.equal(both.shown, one.shown)
        assert both.sums["square"] == pytest.approx(one.sums["square"])
        assert both.sums["right"] == one.sums["right"]
        assert both.sums["entropy"] == pytest.approx(one.sums["entropy"])
        torch.testing.assert_close(both.probabilities, one.probabilities)


def test_progress_is_shown_within_a_batch_and_counts_each_evaluation_once(run, tmp_path):
    whole = evaluation_run(tmp_path / "one", SimpleNamespace(process_index=0, num_processes=1), samples=64)
    reference, student = two_configurations(run)[:2]
    whole.plan([reference, student])
    seen, done = [], []
    whole.line = SimpleNamespace(show=lambda text, final=False: seen.append((text.split(": ")[1].split(" samples")[0], final)))
    show = whole.show
    whole.show = lambda configuration, stop, ahead=0: (done.append(whole.done + ahead), show(configuration, stop, ahead))
    for configuration in (reference, student):
        whole.sampled(configuration)
    assert seen == [("0 of 64", False)] * 6 + [("64 of 64", True)] + [("0 of 64", False)] * 2 + [("64 of 64", True)]
    assert done == [128, 256, 384, 512, 640, 768, 768, 832, 896, 896] and whole.work == 896  # a guided call is two evaluations
    assert not student.model.denoiser.network._forward_hooks  # noqa: SLF001


def test_noise_belongs_to_the_sample(run):
    whole = noise_of(0, 200, (1, 2, 3), seed=5)
    assert torch.equal(whole[128:200], noise_of(128, 200, (1, 2, 3), seed=5))
    assert not torch.equal(whole[:64], whole[64:128])
    assert not torch.equal(whole, noise_of(0, 200, (1, 2, 3), seed=6))


def test_every_sample_is_balanced_whatever_part_of_it_is_drawn():
    conditions = SampleConditions(tiny.tiny_teacher(), tuple("0123456789"))
    parts = [conditions.labels(start, min(start + 64, 333)) for start in range(0, 333, 64)]
    assert sorted(torch.cat(parts).bincount().tolist()) == [33] * 7 + [34] * 3


def test_a_model_folder_finds_the_teacher_of_its_run(run, teacher_folder):
    assert run_of(run / "steps-0002") == run_of(run).resolve() == run.resolve()
    models = open_models(run / "steps-0002", None, None)
    assert list(models.students) == [("student", 2)]
    assert models.teacher is not None
    assert open_models(teacher_folder, None, None).students == {}


def test_a_student_alone_is_measured_without_ratio(run, tmp_path):
    student = fewstep.open_model(run / "steps-0001")
    metrics = fewstep.evaluate(student, "digits", tmp_path / "out", **SMALL | {"guidance_scale": (1.0,)})
    assert [r["ratio"] for r in metrics["rows"]] == [None]
    assert metrics["against"] is None
    assert "no teacher" in metrics["summary"]


def test_what_does_not_fit_is_said_in_one_line(run, teacher_folder, tmp_path, evaluated):
    def fails(match, model=run, data="digits", out=tmp_path / "new", **changes):
        with pytest.raises(InputError, match=match) as caught:
            fewstep.evaluate(model, data, out, **SMALL | changes)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "new").exists()

    fails(r"'ddpm' is not known", baselines=("ddpm",))
    fails(r"guidance_scale 7 is outside 1 to 5", guidance_scale=(7.0,))
    fails("no student for 3 steps; it has 1, 2", steps=(3,))
    fails("no student for 3 steps", steps=(1, 3))
    digits = fewstep.open_data(name="digits")
    turned = replace(digits, classes=digits.classes[::-1], labels=9 - digits.labels)
    assert torch.equal(examples_of(turned, open_models(run, None, None), False, None).labels, digits.labels)
    by_order = examples_of(turned, open_models(run, None, None), False, None, "by-order")
    assert torch.equal(by_order.labels, turned.labels) and by_order.classes == digits.classes
    fails("class_names is 'other'", class_names="other")
    fails("40 samples have a singular covariance of 64 features; at least 65", samples=40)
    fails("evaluate.samples is 1", samples=1)
    fails("batch_size is 0", batch_size=0)
    fails("both given", features="classifier", inception="x.pt")
    fails("name the teacher", against=run / "steps-0001")
    fails("trained for 2; name that", model=run / "steps-0002", steps=(4,))
    larger = SimpleNamespace(batch=None, size=16, channels=3, classes=tuple("0123456789"))
    fails("data are 16x16 with 3 channels, the model's images 8x8 with 1; give data that fit, or --resize", data=larger)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("mine")
    fails("holds something else", out=other)
    fails("evaluation with samples 130, not 131; put it back", out=evaluated[1], samples=131, steps=(1,))
    fails("evaluation with seed 0, not 1", out=evaluated[1], seed=1, steps=(1,))
    assert sorted(p.name for p in other.iterdir()) == ["file"]


def test_images_that_are_not_finite_name_their_configuration(run, tmp_path):
    student = fewstep.open_model(run / "steps-0001")
    next(student.denoiser.network.parameters()).data.fill_(float("nan"))
    with pytest.raises(InputError, match=r"student, deterministic, 1 step, guidance scale 1: samples 0 to 129 .* not finite"):
        fewstep.evaluate(student, "digits", tmp_path / "out", **SMALL | {"guidance_scale": (1.0,)})


def test_stochastic_samples_are_the_same_in_any_batch(run, tmp_path):
    student = fewstep.open_model(run / "steps-0002")
    student = replace(student, info=student.info.model_copy(update={"sampler": "stochastic"}))
    configuration = configurations(open_models(student, None, None), [2.0], [], [], 6)[0]
    parts = []
    for batch_size in (16, 256):
        one = evaluation_run(tmp_path / str(batch_size), SimpleNamespace(process_index=0, num_processes=1), 100)
        one.batch_size = batch_size
        parts.append(one.sampled(configuration))
    torch.testing.assert_close(parts[0].moments.mean, parts[1].moments.mean)


def test_the_command(run, tmp_path, capsys):
    words = "--data digits --samples 70 --steps 1 --guidance-scale 2 --baselines heun --budgets 8 --reference-steps 4 --device cpu"
    out, err = command(capsys, "evaluate", run, "--out", tmp_path / "out", *words.split())
    assert "guidance scale 2" in out
    assert "Heun" in out
    assert "of the student" in out
    assert "70 of 70 samples" in err
    assert err.count("data digits: 1,797 examples of 10 classes (0, 1, 2, 3, 4, ...)") == 1
    assert (tmp_path / "out" / "report.html").is_file()
    line = refused(capsys, "evaluate", run, "--data", "digits", "--out", tmp_path / "new", "--baselines", "dpm")
    assert "baseline 'dpm' is not known" in line


@pytest.mark.parametrize("text", ["a", "1.5", "1,,2", "nan", ""])
def test_words_that_are_no_list_of_steps(text):
    with pytest.raises(InputError, match=f"--steps {text}: give whole numbers"):
        listed("steps", text, int)


@pytest.mark.usefixtures("_no_report")
def test_rows_of_earlier_calls_stay(run, tmp_path):
    chosen = SMALL | {"guidance_scale": (2.0,), "baselines": ()}
    first = fewstep.evaluate(run, "digits", tmp_path / "out", steps=(1,), **chosen)
    both = fewstep.evaluate(run, "digits", tmp_path / "out", steps=(2,), **chosen)
    assert {r["steps"] for r in both["rows"] if r["model"] == "student"} == {1, 2}
    assert [r["steps"] for r in first["rows"] if r["model"] == "student"] == [1]


def test_a_student_whose_process_was_rescaled_belongs_to_its_teacher():
    from fewstep.method.process import Cosine, DiscreteBetas, process_settings

    betas = DiscreteBetas(tuple(torch.linspace(1e-4, 2e-2, 20).double().tolist()))
    assert rescaled(process_settings(betas)) == process_settings(betas.without_terminal_signal())
    assert rescaled(process_settings(Cosine())) is None


def test_the_part_of_the_data_that_is_named_or_that_the_recipe_names_is_compared_with(run, tmp_path):
    data = fewstep.open_data(name="digits")
    for name, count in (("train", 60), ("test", 40)):
        x = data.batch(0, count)[0]
        images = ((x[:, 0] + 1) * 127.5).round().byte().numpy()
        numpy.savez(tmp_path / f"{name}.npz", images=images, labels=numpy.arange(count) % 10)
    models = open_models(run, None, (1,))
    sizes = [len(evaluation.examples_of(tmp_path, models, False, split).images()) for split in (None, "train", "test")]
    assert sizes == [60, 60, 40]
    seen = replace(models, recipe=load_recipe(models.recipe, {"data.split": "test"}))
    assert len(evaluation.examples_of(tmp_path, seen, False, None).images()) == 40
    with pytest.raises(InputError, match="no split 'test'"):
        evaluation.examples_of("digits", models, False, "test")


def settings(run, preset="quick", **asked):
    return settings_of(open_models(run, None, None), preset, asked)


def test_a_quick_evaluation_makes_no_more_evaluations_than_the_training(run, monkeypatch):
    monkeypatch.setattr(presets, "LEAST", 2)
    for updates in (6, 600, 60_000):
        models = open_models(run, None, None)
        longer = {"stage_one.updates": updates, "stage_two.updates": updates, "stage_two.last_updates": updates}
        models = replace(models, recipe=load_recipe(None, TINY | longer))
        chosen = settings_of(models, "quick", {})
        known = (chosen.guidance_scale, chosen.baselines, chosen.budgets, chosen.reference_steps)
        made = chosen.samples * sum(c.evaluations for c in configurations(models, *known))
        training = 4 * updates * (3 + 2 + 3 + 3)  # stage one: student and both branches; a rung: student and its teacher's steps
        assert made <= training or chosen.samples == 2
    assert chosen.samples == 500


def test_settings_are_those_asked_for_else_of_the_recipe_else_of_the_preset(run):
    full, quick = settings(run, "full"), settings(run)
    assert (full.reference_steps, full.guidance_scale, full.budgets) == (256, (1.0, 2.0, 3.0, 5.0), (4, 8, 16, 32))
    assert quick.reference_steps < full.reference_steps and len(quick.guidance_scale) < len(full.guidance_scale)
    assert full.samples == quick.samples == 70  # of the recipe
    assert settings(run, samples=99).samples == 99
    with pytest.raises(InputError, match=r"preset 'quik'.*'quick'"):
        settings(run, "quik")
    with pytest.raises(InputError, match="'budgets'"):
        settings(run, budget=3)
    narrow = open_models(run / "steps-0002", None, None)
    info = narrow.students["student", 2].info.model_copy(update={"guidance_scale": (3.0, 3.0)})
    narrow = replace(narrow, students={("student", 2): replace(narrow.students["student", 2], info=info)})
    assert settings_of(narrow, "quick", {}).guidance_scale == (3.0,)


def test_the_cost_is_stated_before_anything_is_sampled(run, tmp_path, capsys):
    chosen = SMALL | {"quiet": False, "guidance_scale": (2.0,), "baselines": (), "samples": 70}
    fewstep.evaluate(run, "digits", tmp_path / "out", steps=(1,), **chosen)
    lines = [line for line in capsys.readouterr().err.splitlines() if "samples" in line]
    assert "1,190 evaluations" in lines[0] and " s" in lines[0]  # 70 times 12 of the teacher, 4 of stage one and 1 of the student
    fewstep.evaluate(run, "digits", tmp_path / "out", steps=(1,), **chosen)
    assert "evaluations" not in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "shape", "size"), [("cpu", (1, 8, 8), 256), ("cpu", (3, 32, 32), 16), ("cpu", (3, 512, 512), 8), ("cuda", (3, 32, 32), 256), ("cuda", (4, 128, 128), 16)])  # fmt: skip
def test_the_batch_size_follows_the_device_and_the_size(kind, shape, size):
    assert default_batch_size(torch.device(kind), shape) == size
