"""A command that is killed at any moment, and at each of its writes, is gone on with by the same command, to the same bits."""

import json
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest

import pipelines
from fewstep.files import LOCK, TEMPORARY
from figures import record
from tiny import tiny_student, tiny_teacher

TRAINING = {
    "data.name": "digits", "network.block_out_channels": [4, 8], "network.norm_num_groups": 4, "teach.updates": 5, "stage_one.updates": 4,
    "stage_two.ladder": [2, 1], "paths.rung": 0, "stage_two.updates": 3, "stage_two.last_updates": 3, "train.batch_size": 2, "train.warmup": 1,
    "train.checkpoint_every": 2, "train.log_every": 2, "train.log_with": "none",
}  # fmt: skip
VARYING = {"log.jsonl", "report.html", "metrics.json"}  # they hold times
SHARDS = {"data.shard_size": 1, "data.sampling_steps": 2, "data.samples_per_prompt": 1}
EVALUATION = "--samples 70 --budgets 8 --baselines none --reference-steps 8 --guidance-scale 2 --batch-size 64".split()


def set_all(changes):
    return [word for key, value in changes.items() for word in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture
def memory():
    """A folder in memory where there is such: a hundred runs wait for a disk longer than they compute."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny teacher, a student and the teacher that it is measured against, a tiny pipeline of text, and prompts."""
    folder = tmp_path_factory.mktemp("place")
    tiny_teacher(**{key: value for key, value in TRAINING.items() if key.startswith("network")}).save(folder / "teacher")
    tiny_student(2).save(folder / "model")
    tiny_teacher().save(folder / "of-model")
    pipelines.text_pipeline(folder / "pipeline")
    (folder / "prompts.txt").write_text("a cat\ndog\nowl\nbee\n")
    return folder


def words(command, place, out):
    """The command line of a tiny run."""
    here = {
        "distill": ("distill", "--teacher", place / "teacher", *set_all(TRAINING)),
        "teach": ("teach", "digits", *set_all(TRAINING)),
        "cache": ("cache", "--teacher", place / "pipeline", "--prompts", place / "prompts.txt", *set_all(SHARDS)),
        "evaluate": ("evaluate", place / "model", "--against", place / "of-model", "--data", "digits", *EVALUATION),
    }
    return *here[command], "--device", "cpu", "--out", out


def content_of(folder, but=()):
    """What every file holds, but for those with times or in some folders; of an evaluation's row without its times."""
    found = {}
    for file in sorted(path for path in Path(folder).rglob("*") if path.is_file() and not {*but} & {*path.parts}):
        name, content = file.relative_to(folder).as_posix(), file.read_bytes()
        if name.endswith(".safetensors"):  # the order of its metadata is drawn anew each time
            end = 8 + int.from_bytes(content[:8], "little")
            content = json.loads(content[8:end]), content[end:]
        if name.endswith(".json") and name not in VARYING:  # whatever its layout
            content = json.loads(content)
        if name.startswith("rows/") and name.endswith(".json"):
            content = {key: value for key, value in content.items() if "seconds" not in key and key != "xxh3_128"}
        if name.split("/")[-1] not in VARYING:
            found[name] = content
    return found


def left_over(folder):
    """What a killed process left that nobody takes away."""
    return [path.name for path in Path(folder).rglob("*") if TEMPORARY.fullmatch(path.name) or path.name == LOCK]


class Proof:
    """A command's uninterrupted result, and runs that are killed and gone on with."""

    def __init__(self, zygote, command, place, folder, processes=1):
        self.run, self.words, self.folder = zygote.run, lambda out: words(command, place, out), folder
        self.request = {"processes": processes} if processes > 1 else {}
        self.out = folder / "out"  # one for all: configs name it
        whole = self.run(*self.words(self.out), folder=self.out, **self.request)
        assert set(whole.codes) == {0}, whole.err
        self.expected, self.writes, self.seconds = content_of(self.out), whole.writes, whole.seconds
        self.kills = 0

    def killed(self, **when):
        """Kill a new run, go on with it, and compare; nothing of one that ended before, whose time is noted."""
        out = self.out
        shutil.rmtree(out, ignore_errors=True)
        cut = self.run(*self.words(out), folder=out, **when, **self.request)
        if -9 not in cut.codes:
            assert "kill_at" not in when and set(cut.codes) == {0}, cut.err
            self.seconds = cut.seconds
            return
        self.kills += 1
        again = self.run(*self.words(out), folder=out, **self.request)
        assert set(again.codes) == {0}, f"{when}: {again.err}"
        assert not left_over(out), when
        found = content_of(out)
        assert found.keys() == self.expected.keys(), when
        differ = [name for name in found if found[name] != self.expected[name]]
        assert not differ, f"{when}: {differ}"

    def at_random(self, times, seed=0):
        """So many runs, each killed at a moment drawn uniformly from the time that the last uninterrupted one took."""
        draw = random.Random(seed)
        while self.kills < times:
            self.killed(kill_after=draw.uniform(0, self.seconds))

    def at_writes(self, every=1, start=1):
        """Runs that are killed before each of their writes, or before some of them."""
        for number in range(start, self.writes + 1, every):
            self.killed(kill_at=number)


@pytest.mark.parametrize("command", ["distill", "cache"])
def test_a_killed_command_goes_on_to_the_same_bits(zygote, place, memory, command):
    proof = Proof(zygote, command, place, memory)
    proof.at_writes(every=proof.writes, start=proof.writes // 2)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("command", "times"), [("distill", 100), ("teach", 20), ("cache", 20), ("evaluate", 20)])
def test_a_command_killed_anywhere_goes_on_to_the_same_bits(zygote, place, memory, command, times, processes):
    proof = Proof(zygote, command, place, memory, processes)
    proof.at_random(times)
    at_random, every = proof.kills, 1 if command == "distill" else 3
    proof.at_writes(every)
    known = {"command": command, "processes": processes, "killed_at_random": at_random}
    record(
        "kills",
        known | {"writes": proof.writes, "killed_at_writes": proof.kills - at_random, "resumed_to_the_same_bits": proof.kills},
    )
