"""The benchmark compares like with like: the bare side makes the same calls of the network, and only those."""

import json

import pytest
import torch

import fewstep.evaluation.latency as bench
from fewstep import open_model
from fewstep.errors import InputError
from fewstep.evaluation.latency import bench_model, bench_text, recorded, table
from fewstep.training.distill import next_student, student_of
from fewstep.training.recipe import load_recipe

ROW = {"what", "goal", "seconds", "seconds_min", "bare_seconds", "bare_seconds_min", "ratio", "repeats", "peak_memory"}
ROW |= {"evaluations", "batch_size", "images_per_second"}


@pytest.fixture
def teacher(teacher_folder):
    return open_model(teacher_folder)


@pytest.fixture
def student(teacher):
    return student_of(load_recipe(), teacher)


@pytest.fixture
def pairs(monkeypatch):
    """The (ours, bare) that would be timed, each once."""
    seen = []

    def note(ours, bare, repeats, device):
        seen.append((ours, bare))
        return {"seconds": 1.0, "peak_memory": 1}

    monkeypatch.setattr(bench, "timed", note)
    return seen


def calls_of(work, *networks):
    """(number of the network, batch, trained) of each call that `work` makes."""
    with recorded(*networks) as calls:
        work()
    return [(networks.index(call.network), len(call.arguments[0]), call.trained) for call in calls]


def test_a_student_of_n_steps_is_held_against_n_evaluations(student, pairs):
    network = student.denoiser.network
    rows = bench_model(next_student(student, 2), batch_size=5)["rows"]
    assert [(row["batch_size"], row["evaluations"], row["steps"]) for row in rows] == [(1, 2, 2), (5, 2, 2)]
    rows = bench_model(student, batch_size=5, steps=3)["rows"]
    for batch, (ours, bare) in zip((1, 5), pairs[2:], strict=True):
        assert calls_of(ours, network) == calls_of(bare, network) == [(0, batch, False)] * 3


def test_a_guided_teacher_is_held_against_evaluations_at_twice_the_batch(teacher, pairs):
    network = teacher.denoiser.network
    rows = bench_model(teacher, batch_size=5)["rows"]
    assert [row["evaluations"] for row in rows] == [8, 8]
    for batch, (ours, bare) in zip((2, 10), pairs, strict=True):
        assert calls_of(ours, network) == calls_of(bare, network) == [(0, batch, False)] * 4


def test_the_bare_calls_are_given_what_ours_are_given(student, pairs):
    bench_model(student, batch_size=5, steps=2)
    given = []
    for work in pairs[1]:
        with recorded(student.denoiser.network) as calls:
            work()
        given.append([(call.arguments, call.named) for call in calls])
    torch.testing.assert_close(*given, rtol=0, atol=0)
    with pytest.raises(InputError, match="trained for 2"):
        bench_model(next_student(student, 2), steps=3)


def test_the_figures_are_plain_values_and_complete(teacher):
    progress = []
    measured = bench_model(teacher, batch_size=3, repeats=2, progress=progress.append)
    assert json.loads(json.dumps(measured)) == measured
    assert len(progress) == 2
    for row in measured["rows"]:
        assert row.keys() - {"steps"} == ROW
        assert 0 < row["seconds_min"] <= row["seconds"]
        assert 0 < row["bare_seconds_min"] <= row["bare_seconds"]
        assert row["ratio"] > 0
        assert row["images_per_second"] == pytest.approx(row["batch_size"] / row["seconds"])
    assert [line.split("  ")[0] for line in bench_text(measured).splitlines()[3:]] == [row["what"] for row in measured["rows"]]
    assert len({len(line) for line in table(measured["rows"])}) == 1
    assert measured["dtype"] == "float32"
    assert measured["parameters"] == sum(p.numel() for p in teacher.denoiser.network.parameters())
    assert measured["peak_memory"] > 10 * 2**20
    assert measured["machine"]["threads"] == torch.get_num_threads()


def test_the_ratio_is_the_median_of_pairs_timed_in_turn(monkeypatch):
    order = []
    spans = {"ours": iter([1, 1, 1, 1, 1, 1, 1, 2, 6, 30, 5]), "bare": iter([1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 5])}
    monkeypatch.setattr(bench, "seconds", lambda work, device: order.append(work()) or float(next(spans[order[-1]])))
    row = bench.timed(lambda: "ours", lambda: "bare", 11, torch.device("cpu"))
    assert order[:4] == ["ours", "bare", "bare", "ours"]
    assert row["ratio"] == 1
    assert (row["seconds"], row["bare_seconds"], row["seconds_min"]) == (1, 1, 1)
