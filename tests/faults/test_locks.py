"""One command at a time works in a folder; what killed ones left there is no obstacle."""

import json
import os
import subprocess
import sys

import pytest

import fewstep
from command_line import refused
from conftest import TINY
from fewstep.errors import InputError
from fewstep.files import LOCK, check_new, contents, write_atomically
from fewstep.locks import locked, owner
from fewstep.training.run_folder import check_run

CHANGES = TINY | {"data.name": "digits", "teach.updates": 2}


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def state_of(folder):
    """The folder's files with their content and times."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["teach", "distill", "quickstart", "evaluate"])
def test_the_second_command_in_a_folder_says_so_and_changes_nothing(tmp_path, name, teacher_folder, capsys, zygote):
    run = tmp_path / "run"
    words = {
        "teach": ["teach", "digits"],
        "distill": ["distill", "--teacher", teacher_folder, "--set", "data.name=digits"],
        "quickstart": ["quickstart"],
        "evaluate": "evaluate digits-student --data digits --samples 66 --guidance-scale 2 --baselines none".split(),
    }[name]
    with locked(run):
        before = state_of(tmp_path)
        if name == "teach":  # from a process of its own; the others go the same way
            done = zygote.run(*words, "--out", run)
            assert done.codes == [2]
            errors = done.err
        else:
            errors = refused(capsys, *words, "--out", run)
        assert state_of(tmp_path) == before
    assert f"process {os.getpid()}" in errors
    assert not run.exists()


def test_a_lock_is_free_after_its_holder_and_others_of_the_same_process_wait(tmp_path):
    for _ in range(2):
        with locked(tmp_path), pytest.raises(InputError, match="another command"), locked(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stale", ["dead", "number taken by a later process", "another boot", "not readable"])
def test_a_stale_lock_is_taken_over(tmp_path, dead, stale):
    changed = {
        "dead": {"process": dead},
        "number taken by a later process": {"started": "1"},
        "another boot": {"boot": "another"},
        "not readable": {},
    }[stale]
    (tmp_path / LOCK).write_text(json.dumps(owner() | changed) if changed else "{")
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_lock_of_another_machine_holds(tmp_path):
    held = json.dumps(owner() | {"machine": "elsewhere", "boot": "another"})
    (tmp_path / LOCK).write_text(held)
    with pytest.raises(InputError, match="elsewhere"), locked(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == held


def test_what_killed_processes_left_is_swept_and_makes_no_folder_something_else(tmp_path, dead, recipe):
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    left = [run / f".recipe.toml.{dead}.fewstep", run / "checkpoint" / f".state.safetensors.{dead}.fewstep"]
    for file in left:
        file.write_bytes(b"half")
    (run / f".stage-one.{dead}.fewstep").mkdir()
    (run / "checkpoint").rename(run / "cache")
    check_run(run, recipe())
    other = tmp_path / "other"
    other.mkdir()
    (other / f".00000.png.{dead}.fewstep").touch()
    check_new(other)
    (run / "letter.txt").touch()  # of somebody
    (run / ".notes.2024").touch()
    with locked(run):
        assert {path.name for path in run.iterdir()} == {"cache", "letter.txt", ".notes.2024", LOCK}
        assert not list((run / "cache").iterdir())


def test_a_process_that_is_killed_while_it_writes_leaves_a_name_that_is_known(tmp_path):
    def write(aside):
        aside.write_text("half")
        assert not contents(tmp_path)
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space"):
        write_atomically(tmp_path / "recipe.toml", write)
    assert not list(tmp_path.iterdir())


def test_teaching_leaves_no_lock(tmp_path):
    fewstep.teach("digits", tmp_path / "run", changes=CHANGES, device="cpu", quiet=True)
    assert not (tmp_path / "run" / LOCK).exists()
