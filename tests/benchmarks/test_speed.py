"""The overhead of training compares like with like: the bare side makes the same calls of the networks, and only those."""

import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fewstep
from benchmarks.speed import overhead as bench
from fewstep.evaluation.latency import recorded


def calls_of(work, *networks):
    """(number of the network, batch, trained) of each call that `work` makes."""
    with recorded(*networks) as calls:
        work()
    return [(networks.index(call.network), len(call.arguments[0]), call.trained) for call in calls]


@pytest.fixture
def teacher(teacher_folder):
    return fewstep.open_model(teacher_folder)


def in_each_update(monkeypatch, teacher, check):
    """Call check(ours, bare, student's network, the networks besides) for the two kinds of update, instead of timing them."""
    real, given = bench.training_row, []

    def row(stage, student, frozen, *rest):
        given[:] = student.denoiser.network, *frozen
        return real(stage, student, frozen, *rest)

    def timed(ours, bare, repeats, device):
        check(ours, bare, *given)
        return {"seconds": 1.0}

    monkeypatch.setattr(bench, "training_row", row)
    monkeypatch.setattr(bench, "timed", timed)
    return bench.bench_training(teacher, 5, 3, print)


def test_an_update_is_held_against_its_calls_backward_and_optimiser(teacher, monkeypatch):
    seen = []

    def check(ours, bare, network, *frozen):
        before = [p.clone() for p in network.parameters()]
        seen.append(calls_of(bare, network, *frozen))
        assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))  # a rate of 0
        assert all(p.grad is None for p in network.parameters())
        assert calls_of(ours, network, *frozen) == seen[-1]
        assert not all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))

    rows = in_each_update(monkeypatch, teacher, check)
    assert seen == [[(1, 10, False), (0, 5, True)], [(1, 5, False), (1, 5, False), (0, 5, True)]]
    assert [row["evaluations"] for row in rows] == [3, 3]


class _Reads(TorchDispatchMode):
    """Fails where a number is read back from a tensor: on a GPU that waits for all work before it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func  # noqa: SLF001
        return func(*args, **(kwargs or {}))


def test_nothing_in_an_update_waits_for_the_device(teacher, monkeypatch):
    updates = []

    def check(ours, *rest):
        with _Reads():
            updates.append(ours())

    in_each_update(monkeypatch, teacher, check)
    assert len(updates) == 2
    with _Reads(), pytest.raises(AssertionError):
        torch.ones(3)[1].item()


def test_waiting_is_measured_for_data_read_in_turn_and_read_ahead(tmp_path, monkeypatch):
    from benchmarks.speed import input as waiting

    for name, value in (("PICTURES", 8), ("SIZE", 16), ("UPDATES", 8)):
        monkeypatch.setattr(waiting, name, value)
    monkeypatch.setattr(waiting.Latents, "total", 32)
    words = ["input", "--batch-size", "2", "--seconds", "0.001", "--out", str(tmp_path / "rows.json")]
    monkeypatch.setattr("sys.argv", words)
    waiting.main()
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [(row["data"], row["read"]) for row in rows] == [
        (data, read) for read in ("in turn", "ahead") for data in ("JPEG", "latents")
    ]
    assert all(0 <= row["waiting"] <= 1 and row["images_per_second"] > 0 for row in rows)


def test_the_speed_of_scaling_is_that_between_the_lines_of_the_log(tmp_path):
    from benchmarks.speed.scaling import speed_of

    log, seconds = tmp_path / "log.jsonl", {20: 9.0, 40: 11.0, 80: 15.0}  # 10 updates a second after a slow beginning
    lines = [{"stage": "stage-one", "update": u, "images_per_second": 6 * u / s} for u, s in seconds.items()]
    log.write_text("\n".join(map(json.dumps, [*lines, {"stage": "steps-0004", "update": 20, "images_per_second": 1.0}])))
    assert speed_of(log, "stage-one", 6) == pytest.approx(60.0)


def test_a_student_and_its_stock_pipeline_draw_the_same_picture_before_they_are_timed(tmp_path, monkeypatch):
    from benchmarks.speed import stock_pipelines

    def timed(ours, stock, repeats, device):
        ours()
        stock()
        return {"seconds": 1.0, "bare_seconds": 2.0, "ratio": 0.5, "repeats": repeats}

    monkeypatch.setattr(stock_pipelines, "timed", timed)
    row = stock_pipelines.row_of("SD", stock_pipelines.tiny_student("Stable Diffusion, eps", tmp_path / "sd"), 3)
    assert (row["pipeline"], row["steps"], row["ratio"]) == ("StableDiffusionPipeline", 4, 0.5) and row["difference"] < 1e-4
    labelled = stock_pipelines.tiny_student("class-conditional, latents", tmp_path / "labelled")
    assert stock_pipelines.row_of("labels", labelled, 3) is None
