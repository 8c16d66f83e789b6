# ruff: noqa: F811 - fixtures of another file are imported, then named as arguments
"""What cannot be cached or trained on is an error of one line; processes share the command."""

import json
import os
from pathlib import Path

import pytest
from test_cache import cache, distilled, index_of, made, pictures, pipeline, prompts, recipe, written  # noqa: F401 - fixtures

from conftest import run_command
from fewstep.data.fingerprints import of_file, of_files
from fewstep.data.prompts import read_prompts
from fewstep.errors import InputError
from fewstep.locks import locked
from fewstep.training.recipe import load_recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__path": None}, r"set data\.path"),
        ({"data__prompts": "GOOD"}, r"data\.prompts is for training without pictures"),
        ({"data__path": None, "data__prompts": "missing.txt"}, r"'missing\.txt' cannot be read"),
        ({"data__size": 32}, "data.size is 32, .* 16"),
        ({"data__path": None, "data__prompts": "EMPTY"}, "no prompt"),
        ({"data__path": None, "data__prompts": "LATIN"}, "not UTF-8"),
        ({"data__path": None, "data__prompts": "GOOD", "data__sampling_steps": 2000}, "sampling_steps is 2000"),
        ({"data__cache": "nowhere"}, "nowhere is no cache"),
        ({"data__cache": "nowhere", "data__on_the_fly": True}, "exclude each other"),
        ({"teacher__path": "digits", "data__prompts": "GOOD", "data__path": None}, "class labels, no prompts"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(recipe, tmp_path, changes, message):
    for name, content in (("EMPTY", b" \n\n"), ("LATIN", b"caf\xe9\n"), ("GOOD", b"a cat\n")):
        (tmp_path / name).write_bytes(content)
    changes = {key: str(tmp_path / value) if str(value).isupper() else value for key, value in changes.items()}
    with pytest.raises(InputError, match=message) as error:
        distilled(recipe(**changes), tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_not_written_into(recipe, pictures, made, tmp_path):
    with pytest.raises(InputError, match="holds something else"):
        written(recipe(), pictures)
    with pytest.raises(InputError, match=r"data\.shard_size = 3"):
        written(recipe(data__shard_size=4), made)
    with pytest.raises(InputError, match="nothing to cache"):
        written(recipe(teacher__path="digits", data__path=None, data__name="digits"), tmp_path / "digits")


def test_the_second_command_that_writes_a_cache_says_so_and_changes_nothing(recipe, cache):
    with locked(cache):
        before = {path: path.read_bytes() for path in cache.iterdir()}
        with pytest.raises(InputError, match="another command"):
            written(recipe(), cache)
        assert {path: path.read_bytes() for path in cache.iterdir()} == before


def test_prompts_are_lines_and_bounds_are_checked(prompts):
    assert read_prompts(prompts) == ("a cat", "dog", "owl")
    for key in ("data.samples_per_prompt", "data.sampling_steps", "data.encode_batch", "data.shard_size"):
        with pytest.raises(InputError, match=key):
            load_recipe(None, {key: 0})


def test_fingerprints_tell_content_and_names_and_not_places(tmp_path):
    large, a, b = bytearray(17 * 2**20), Path("a"), Path("b")
    (tmp_path / a).write_bytes(large)
    before = of_file(tmp_path / a)
    large[-1] = 1
    (tmp_path / a).write_bytes(large)
    assert of_file(tmp_path / a) != before
    (tmp_path / b).write_bytes(b"x")
    assert of_files(tmp_path, [a, b]) == of_files(tmp_path, [b, a]) != of_files(tmp_path, [a])
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert of_files(tmp_path, [a, Path("pipe"), Path("link")]) == of_files(tmp_path, [a])


def cache_command(recipe, out, **process):
    """`fewstep cache` of the recipe, with shards of one picture."""
    changes = {"teacher.path": recipe.teacher.path, "data.path": recipe.data.path, "data.encode_batch": 1, "data.shard_size": 1}
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    return run_command("cache", *words, "--device", "cpu", "--out", out, **process)


def sums(folder):
    return [shard["sha256"] for shard in index_of(folder)["shards"]]


@pytest.mark.slow  # kills, and going on to the same bits: tests/faults/test_kills.py
def test_processes_share_the_command(recipe, tmp_path):
    launcher = "-m torch.distributed.run --nproc_per_node=2 --master_port=0 --rdzv_backend=c10d --rdzv_endpoint=localhost:0".split()
    for name, process in (("one", {}), ("two", {"launcher": launcher})):
        out, _ = cache_command(recipe(), tmp_path / name, **process)
        assert out.count("7 examples in 7 shards") == 1  # of several processes the first says so
    assert sums(tmp_path / "one") == sums(tmp_path / "two")
