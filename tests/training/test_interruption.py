"""Runs in processes of their own: interrupted by every signal at some moment, and split over two processes."""

import json
import signal
import time

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

import flow_pipelines
from conftest import TINY, run_command
from fewstep.models.metadata import read_info
from fewstep.training.checkpoint import load_checkpoint

TWO = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0")


def words(teacher_folder, out, **changes):
    """The command line of a tiny distillation."""
    settings = (
        TINY
        | {"data.name": '"digits"', "stage_one.updates": 40, "stage_two.ladder": [4, 1], "stage_two.last_updates": 20}
        | changes
    )
    return ["distill", "--teacher", teacher_folder, "--out", out, *(w for k, v in settings.items() for w in ("--set", f"{k}={v}"))]


def weights(run):
    return load_file(run / "steps-0001" / "unet" / "diffusion_pytorch_model.safetensors")


def logged(run):
    """How many updates the run has logged."""
    log = run / "log.jsonl"
    return len(log.read_text().splitlines()) if log.is_file() else 0


@pytest.mark.slow
def test_a_run_interrupted_by_every_signal_ends_in_the_same_bits(tmp_path, teacher_folder):
    run_command(*words(teacher_folder, tmp_path / "whole"))
    cut = words(teacher_folder, tmp_path / "cut")
    for number, moment in ((signal.SIGKILL, 8), (signal.SIGTERM, 20), (signal.SIGINT, 44)):
        process = run_command(*cut, background=True)
        while process.poll() is None and logged(tmp_path / "cut") < moment:
            time.sleep(0.005)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), errors
        if number != signal.SIGKILL:
            assert "the same command goes on from there" in errors
    run_command(*cut)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == resumed.keys()
    for key in whole:
        assert whole[key].equal(resumed[key]), key
    lines = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["update"]) for line in lines] == [("stage-one", u + 1) for u in range(40)] + [
        ("steps-0001", u + 1) for u in range(20)
    ]
    _, errors = run_command(*words(teacher_folder, tmp_path / "cut", **{"stage_one.learning_rate": 0.5}), expect=2)
    assert errors.strip().splitlines()[-1].startswith("error: ")
    assert "stage_one.learning_rate was 0.001 and is 0.5" in errors


def test_two_processes_are_one_with_twice_the_batch_also_where_one_goes_on_with_their_run(tmp_path, teacher_folder):
    """Of one process with two micro-batches to the bit: it adds the same two gradients; of one batch twice as large but for rounding."""
    pytest.importorskip("torch.distributed")
    short, cpu = {"stage_one.updates": 30, "stage_two.last_updates": 3}, ("--device", "cpu")
    micro = {"train.gradient_accumulation": 2}
    run_command(*words(teacher_folder, tmp_path / "two", **short), *cpu, launcher=TWO)
    run_command(*words(teacher_folder, tmp_path / "one", **short, **{"train.batch_size": 8}), *cpu)
    process = run_command(*words(teacher_folder, tmp_path / "cut", **short), *cpu, launcher=TWO, background=True)
    while process.poll() is None and logged(tmp_path / "cut") < 4:
        time.sleep(0.005)
    process.terminate()
    process.communicate(timeout=60)
    stopped = logged(tmp_path / "cut")
    assert 4 <= stopped < 30 and load_checkpoint(tmp_path / "cut" / "checkpoint" / "state.safetensors").values["global_batch"] == 8
    run_command(*words(teacher_folder, tmp_path / "cut", **short, **micro), *cpu)
    assert [h["batch_size"] for h in read_info(tmp_path / "two" / "steps-0001").history] == [8, 8]
    two, one, cut = (weights(tmp_path / name) for name in ("two", "one", "cut"))
    for key in one:
        assert_close(two[key], one[key], atol=2e-4, rtol=1e-3)
        assert cut[key].equal(two[key]), key


@pytest.mark.slow
def test_two_processes_train_a_network_whose_last_weights_have_no_part_in_the_error(tmp_path):
    teacher, prompts = flow_pipelines.qwen_pipeline(tmp_path / "teacher"), tmp_path / "prompts.txt"
    prompts.write_text("a cat\ndog\na hat\nbig dog\n", encoding="utf-8")
    changes = {"stage_one.updates": 3, "stage_two.ladder": [2, 1], "stage_two.last_updates": 3, "train.warmup": 0}
    settings = [w for k, v in changes.items() for w in ("--set", f"{k}={v}")] + [
        "--set",
        f"data.prompts={prompts}",
        "--device",
        "cpu",
    ]
    for name, batch, launcher in (("two", 2, TWO), ("one", 4, ())):
        sized = ["--set", f"train.batch_size={batch}", "--out", tmp_path / name]
        run_command("distill", "--teacher", teacher, *settings, *sized, launcher=launcher)
    two, one = (
        load_file(tmp_path / name / "steps-0001" / "student" / "diffusion_pytorch_model.safetensors") for name in ("two", "one")
    )
    before = load_file(teacher / "transformer" / "diffusion_pytorch_model.safetensors")
    idle = "transformer_blocks.0.attn.to_add_out.weight"  # makes text that nobody reads
    assert one[idle].equal(before[idle]) and two[idle].equal(before[idle])
    assert any(not one[key].equal(before[key]) for key in before)
    for key in one:
        assert_close(two[key], one[key], atol=2e-4, rtol=1e-3)
