"""What is made of an evaluation's sums and rows: measures with known answers, ratios, and the sentence on top."""

import pytest
import torch
from cheap_features import pixels

from fewstep.evaluation.accumulator import Accumulator
from fewstep.evaluation.evaluation_run import with_ratios
from fewstep.evaluation.summary import summary


def test_measures_against_known_answers():
    features, found = pixels(), Accumulator.empty(5, 10)
    images, labels = torch.randn(40, 1, 5, 5, generator=torch.Generator().manual_seed(0)) / 3, torch.arange(40) % 10
    found.add(features, images, labels, 0, 8.0, images + 0.25)
    data = Accumulator.empty(5, 10)
    data.moments.add(features(images) + 2.0)
    data.reservoir.add(features(images), labels, 0)
    data.sums |= {"images": 40.0, "saturation": 40.0}
    measured = found.measures(data, repeats=5)
    assert measured["frechet"] == pytest.approx(5 * 4)
    assert measured["frechet_low"] < measured["frechet"] < measured["frechet_high"]
    assert measured["rms_to_teacher"] == pytest.approx(0.25)
    assert measured["seconds_per_image"] == 0.2
    assert (measured["precision"], measured["recall"]) == (1.0, 1.0)
    assert measured["sharpness"] is None


def row(model, sampler, evaluations, frechet, steps=None, to_teacher=None):
    known = {"model": model, "sampler": sampler, "steps": steps or evaluations, "evaluations": evaluations, "guidance_scale": 2.0}
    return known | {"frechet": frechet, "frechet_to_teacher": to_teacher}


def test_the_summary_says_what_a_student_is_worth_by_the_distance_to_the_teachers_samples():
    rows = [row("teacher", "ddim", 512, 1.0, 256), row("student", "deterministic", 4, 1.027, to_teacher=0.2)]
    assert "the student are within 3 % of the Fréchet distance of the teacher's 512." in summary(rows, 256)
    worse = [row("teacher", "dpm++", n, 0.9, to_teacher=0.2 + 1 / n) for n in (4, 8, 16)]  # nearer to the data, not to the teacher
    words = "4 evaluations of the student are better than 16 of DPM-Solver++ in distance to the teacher's samples, within 3 %"
    assert words in summary(rows + worse, 256)
    good = [*worse, row("teacher", "dpm++", 32, 1.02, to_teacher=0.2), row("teacher", "heun", 31, 1.1, to_teacher=0.3)]
    words = "4 evaluations of the student are better than 16 of every baseline in distance to the teacher's samples, within 3 %"
    assert words in summary(rows + good, 256)
    more = [row("student", "deterministic", 16, 1.0, to_teacher=0.19), row("student", "deterministic", 1, 1.3, to_teacher=0.3)]
    assert "16 evaluations of the student are better than 31 of every baseline" in summary(rows + good + more, 256)
    assert words in summary([*rows, *good, more[1]], 256)  # that of one step does not outdo Heun
    few = [row("student", "deterministic", 1, 1.3, to_teacher=0.21)]
    assert "1 evaluation of the student is better than 16 of DPM-Solver++" in summary(rows + worse + few, 256)  # as 4 are
    best = [*rows, row("teacher", "ddim", 4, 0.9, to_teacher=0.1)]
    assert "are no better than 4 of DDIM in distance" in summary(best, 256)
    assert "the student are within 3 %" in summary([*rows, row("teacher", "ddim", 4, 0.9)], 256)  # distance not known
    assert summary([], 256) == "No student was measured."


def test_ratios_are_to_the_teachers_own_sampler_not_to_a_baseline_of_as_many_steps():
    rows = [row("teacher", "ddim", 12, 2.0, 6), row("teacher", "dpm++", 12, 1.0, 6), row("student", "deterministic", 1, 3.0)]
    assert [r["ratio"] for r in with_ratios(rows, 6)] == [1.0, 0.5, 1.5]
