"""What is made of an evaluation's sums and rows: measures with known answers, ratios, and the sentence on top."""

import pytest
import torch
from cheap_features import pixels

from fewstep.evaluation.accumulator import Accumulator
from fewstep.evaluation.evaluation_run import with_ratios
from fewstep.evaluation.summary import summary


def test_measures_against_known_answers():
    features, found = pixels(classes=10), Accumulator.empty(5, 10)
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
    logits = features.logits(features(images))
    expected = (logits.logsumexp(1) - logits[torch.arange(40), labels]).mean()
    assert measured["class_nll"] == pytest.approx(float(expected))


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


def curve(model, sampler, evaluations, points, reference=False):
    """Rows of one way to sample at the scales 1, 2, 5, ...: (class NLL, Fréchet distance) each."""
    steps = 256 if reference else evaluations
    scales = (1.0, 2.0, 5.0, 8.0)
    return [
        row(model, sampler, evaluations, frechet, steps, 0.1) | {"guidance_scale": scale, "class_nll": nll}
        for scale, (nll, frechet) in zip(scales, points, strict=False)
    ]


def test_the_summary_says_what_a_student_is_worth_on_the_curve():
    """A sampler that falls short of the guidance has a small distance and a large NLL at each scale: on the curve it is no better."""
    student = curve("student", "deterministic", 4, [(1.0, 1.0), (0.5, 1.5), (0.2, 3.0)])
    same = curve("teacher", "dpm++", 16, [(0.8, 1.1), (0.4, 1.6), (0.15, 3.2)])  # further along the same curve
    short = curve("teacher", "dpm++", 8, [(1.2, 1.3), (0.9, 1.5), (0.6, 1.9)])  # at scale 5 nearer to the data than the student
    where = "on the curve of Fréchet distance against class likelihood"
    assert f"better than 8 of DPM-Solver++ {where}" in summary([*student, *short, *same], 256)
    better = [r | {"frechet": 0.5 * r["frechet"]} for r in short]
    assert f"no better than the fewest of the best baseline {where}" in summary([*student, *better], 256)
    apart = [r | {"class_nll": 40.0} for r in short]
    assert where not in summary([*student, *apart], 256)
    assert where not in summary([*student[:1], *short[:1]], 256)


def test_ratios_are_to_the_teachers_own_sampler_not_to_a_baseline_of_as_many_steps():
    rows = [row("teacher", "ddim", 12, 2.0, 6), row("teacher", "dpm++", 12, 1.0, 6), row("student", "deterministic", 1, 3.0)]
    assert [r["ratio"] for r in with_ratios(rows, 6)] == [1.0, 0.5, 1.5]
    rows = [r | {"diversity": 2.0 / (i + 1)} for i, r in enumerate(rows)]
    assert [r["diversity_ratio"] for r in with_ratios(rows, 6)] == pytest.approx([1.0, 1 / 2, 1 / 3])
