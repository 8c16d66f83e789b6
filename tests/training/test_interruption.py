"""Runs in processes of their own, interrupted by every signal at some moment."""

import json
import signal
import time

import pytest
from safetensors.torch import load_file

from conftest import TINY, run_command


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
