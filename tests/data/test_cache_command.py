# ruff: noqa: F811 - fixtures of another file are imported, then named as arguments
"""What cannot be cached or trained on is said in one line; the command is interrupted, resumed and shared by processes."""

import json
import signal
import time
from pathlib import Path

import pytest
from test_cache import distilled, index_of, pictures, pipeline, prompts, recipe, written  # noqa: F401 - fixtures

from conftest import run_command
from fewstep.data.fingerprints import of_file, of_files
from fewstep.data.prompts import read_prompts
from fewstep.errors import InputError
from fewstep.training.recipe import load_recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__path": None}, "there are no data: set data.path"),
        ({"data__prompts": "missing.txt"}, "is for training without pictures|cannot be read"),
        ({"data__size": 32}, "data.size is 32, the teacher's pictures have 16"),
        ({"data__path": None, "data__prompts": "EMPTY"}, "holds no prompt"),
        ({"data__path": None, "data__prompts": "LATIN"}, "is not UTF-8"),
        ({"data__path": None, "data__prompts": "GOOD", "data__sampling_steps": 2000}, "sampling_steps is 2000; this teacher takes 1 to"),
        ({"data__cache": "nowhere"}, "nowhere is no cache"),
        ({"data__cache": "nowhere", "data__on_the_fly": True}, "exclude each other"),
        ({"teacher__path": "digits", "data__prompts": "GOOD", "data__path": None}, "takes class labels, no prompts"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_refused_in_one_line(recipe, tmp_path, changes, message):
    for name, content in (("EMPTY", b" \n\n"), ("LATIN", b"caf\xe9\n"), ("GOOD", b"a cat\n")):
        (tmp_path / name).write_bytes(content)
    changes = {key: str(tmp_path / value) if str(value).isupper() else value for key, value in changes.items()}
    with pytest.raises(InputError, match=message) as error:
        distilled(recipe(**changes), tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_not_written_into(recipe, pictures, tmp_path):
    with pytest.raises(InputError, match="holds something else"):
        written(recipe(), pictures)
    written(recipe(), tmp_path / "cache")
    with pytest.raises(InputError, match=r"data\.shard_size = 3"):
        written(recipe(data__shard_size=4), tmp_path / "cache")
    with pytest.raises(InputError, match="nothing to cache"):
        written(recipe(teacher__path="digits", data__path=None, data__name="digits"), tmp_path / "digits")


def test_prompts_are_lines_and_bounds_are_checked(prompts):
    assert read_prompts(prompts) == ("a cat", "dog", "owl")
    for key, value in (
        ("data.samples_per_prompt", 0),
        ("data.sampling_steps", 0),
        ("data.encode_batch", 0),
        ("data.shard_size", 0),
    ):
        with pytest.raises(InputError, match=key):
            load_recipe(None, {key: value})


def test_fingerprints_tell_content_and_names_and_not_places(tmp_path):
    large = bytearray(17 * 2**20)
    (tmp_path / "a").write_bytes(large)
    before = of_file(tmp_path / "a")
    large[-1] = 1
    (tmp_path / "a").write_bytes(large)
    assert of_file(tmp_path / "a") != before
    (tmp_path / "b").write_bytes(b"x")
    assert (
        of_files(tmp_path, [Path("a"), Path("b")]) == of_files(tmp_path, [Path("b"), Path("a")]) != of_files(tmp_path, [Path("a")])
    )


def words(recipe, *more):
    """The recipe as words of a command."""
    changes = {"teacher.path": recipe.teacher.path, "data.path": recipe.data.path, "data.encode_batch": 1, "data.shard_size": 1}
    return [*(word for key, value in changes.items() for word in ("--set", f"{key}={json.dumps(value)}")), "--device", "cpu", *more]


def test_the_command_goes_on_after_every_signal(recipe, tmp_path):
    out, _ = run_command("cache", *words(recipe(), "--out", tmp_path / "whole"))
    assert "7 examples in 7 shards" in out
    for number, moment in ((signal.SIGKILL, 1), (signal.SIGINT, 3)):
        process = run_command("cache", *words(recipe(), "--out", tmp_path / "cut"), background=True)
        while process.poll() is None and len(list((tmp_path / "cut").glob("*.safetensors"))) < moment:
            time.sleep(0.002)
        process.send_signal(number)
        process.communicate(timeout=60)
    run_command("cache", *words(recipe(), "--out", tmp_path / "cut"))
    cut, all_of_it = index_of(tmp_path / "cut"), index_of(tmp_path / "whole")
    assert [shard["sha256"] for shard in cut["shards"]] == [shard["sha256"] for shard in all_of_it["shards"]]


def test_two_processes_write_what_one_writes(recipe, tmp_path):
    launcher = (
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--master_port=0",
        "--rdzv_backend=c10d",
        "--rdzv_endpoint=localhost:0",
    )
    run_command("cache", *words(recipe(), "--out", tmp_path / "one"))
    out, _ = run_command("cache", *words(recipe(), "--out", tmp_path / "two"), launcher=launcher)
    assert out.count("7 examples in 7 shards") == 2  # both say so
    one, two = index_of(tmp_path / "one"), index_of(tmp_path / "two")
    assert [shard["sha256"] for shard in one["shards"]] == [shard["sha256"] for shard in two["shards"]]
