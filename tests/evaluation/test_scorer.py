"""A score of one's own: by name or as a function, its mean in every row, and what is no score in one line."""

import math

import pytest
import torch
from cheap_features import pixels

import fewstep
from command_line import command, refused
from fewstep.errors import InputError
from fewstep.evaluation import evaluate as evaluation
from fewstep.evaluation.accumulator import Accumulator
from fewstep.evaluation.scorer import Scorer

PIXELS = pixels(classes=10)
FEW = {
    "samples": 70, "guidance_scale": (2.0,), "baselines": (), "reference_steps": 4, "device": "cpu", "quiet": True,
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("quick_classifier")


def brightness(images, prompts):
    assert images.dtype == torch.float32 and images.abs().max() <= 1
    return images.mean((1, 2, 3)) + torch.tensor([float(prompt) for prompt in prompts])


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A folder, the working one, with a module of scorers."""
    lines = [
        "class Judge:",
        "    @staticmethod",
        "    def rate(images, prompts):",
        "        return [len(p) for p in prompts]",
        "value = 3",
    ]
    (tmp_path / "my_scores.py").write_text("\n".join(lines))
    (tmp_path / "my_fault.py").write_text("import not_there_at_all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_mean_and_its_interval_are_those_of_all_scores():
    scores, found = torch.rand(90, dtype=torch.float64) * 5, Accumulator.empty(PIXELS.dimension, 10)
    for part in torch.arange(90).split(32):
        images = torch.rand(len(part), 1, 8, 8) * 2 - 1
        found.add(PIXELS, images, part % 10, int(part[0]), scores=scores[part])
    mean, low, high = Accumulator.of_state(found.state(), 10).score()
    assert mean == pytest.approx(float(scores.mean()))
    assert high - mean == pytest.approx(mean - low) == pytest.approx(1.96 * float(scores.std()) / math.sqrt(90))
    assert Accumulator.empty(PIXELS.dimension, 10).score() == (None, None, None)


def test_it_is_in_every_row_the_table_and_the_report(teacher_folder, tmp_path):
    metrics = fewstep.evaluate(teacher_folder, "digits", tmp_path / "out", score=brightness, **FEW)
    (row,) = metrics["rows"]
    assert row["score_low"] < row["score"] < row["score_high"]
    assert -1 + 4.5 < row["score"] < 1 + 4.5  # the classes in turn: 0 to 9
    assert metrics["settings"]["score"].endswith(":brightness")
    assert "95 % interval of the score" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(InputError, match=r"with score '.*brightness .*', not None"):
        fewstep.evaluate(teacher_folder, "digits", tmp_path / "out", **FEW)


def test_the_command_takes_it_from_the_working_folder(teacher_folder, module, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "write_results", lambda *_: None)
    words = "--data digits --samples 70 --guidance-scale 2 --baselines none --reference-steps 2 --device cpu --out".split()
    out, _ = command(capsys, "evaluate", teacher_folder, *words, "out", "--score", "my_scores:Judge.rate")
    assert "score" in out.splitlines()[0].split()
    line = refused(capsys, "evaluate", teacher_folder, *words, "new", "--score", "my_scores:judge")
    assert "my_scores has no function 'judge'" in line and not (module / "new").exists()


@pytest.mark.usefixtures("module")
def test_what_is_no_scorer_is_refused():
    def fails(match, choice):
        with pytest.raises(InputError, match=match) as caught:
            Scorer.open(choice)
        assert "\n" not in str(caught.value)

    fails("score is 'my_scores'; give MODULE:FUNCTION", "my_scores")
    fails("score is 'a b:c'", "a b:c")
    fails("module 'no_such_module' cannot be imported .*ModuleNotFoundError", "no_such_module:rate")
    fails("module 'my_fault' cannot be imported .*not_there_at_all.*my_fault.py:1", "my_fault:rate")
    fails("my_scores has no function 'rate'", "my_scores:rate")
    fails("'value' of my_scores is a int", "my_scores:value")
    fails("score is 3", 3)
    assert Scorer.open("my_scores:Judge.rate")(torch.zeros(2, 1, 8, 8), ["a", "bcd"]).tolist() == [1, 3]


def test_what_a_scorer_may_not_give():
    def fails(match, function):
        with pytest.raises(InputError, match=match) as caught:
            Scorer.open(function)(torch.zeros(3, 1, 8, 8), ["a", "b", "c"])
        assert "\n" not in str(caught.value)

    fails(r"shape \(3, 1\) for 3 images", lambda images, _: images.mean((2, 3)))
    fails(r"shape \(\) for 3 images", lambda images, _: images.mean())
    fails("not finite for 3 of 3 images", lambda images, _: images.mean((1, 2, 3)) / 0)
    fails(r"failed \(TypeError: .*\)", lambda images: images)
    fails(r"failed \(ZeroDivisionError: division by zero, test_scorer.py:\d+\)", lambda images, _: 1 / 0)
    fails(r"failed \(.*; it is to give \(3,\) numbers", lambda images, _: None)


def test_a_scorer_is_known_by_its_name_and_its_source():
    one, other = Scorer.open(brightness), Scorer("x:y", print)
    assert one.fingerprint.startswith(one.name + " ") and other.fingerprint == "x:y"
