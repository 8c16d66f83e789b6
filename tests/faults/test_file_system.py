"""A full disk, no permission, and paths that cannot be or are not UTF-8: one line; nothing half-written stays, and the same command goes on."""

import errno
import json
import os
import shutil

import pytest

import fewstep
from conftest import TINY
from fewstep.errors import InputError
from fewstep.files import os_errors
from fewstep.training.logging import RunLog, entries_of
from fewstep.training.recipe import load_recipe
from fewstep.training.run_folder import check_run
from tiny import tiny_student

SETTINGS = [word for key, value in (TINY | {"data.name": "digits"}).items() for word in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def place(tmp_path_factory, teacher_folder):
    """A folder with a student, a picture, and a run that is at its end."""
    folder = tmp_path_factory.mktemp("place")
    student = tiny_student(2)
    student.save(folder / "student")
    student.sample([3])[0].save(folder / "three.png")
    shutil.copytree(teacher_folder, folder / "teacher")
    changes = TINY | {"data.name": "digits", "stage_two.ladder": [2, 1]}
    fewstep.distill(folder / "teacher", None, out=folder / "run", changes=changes, device="cpu", quiet=True)
    return folder


def words(command, place, out):
    here = {
        "sample": ("sample", place / "student", "--class-label", "3"),
        "edit": ("edit", place / "student", "--image", place / "three.png", "--class-label", "3", "--strength", "0.5"),
        "distill": ("distill", "--teacher", place / "teacher", *SETTINGS, "--set", "stage_two.ladder=[2,1]"),
        "teach": ("teach", "digits", *SETTINGS),
        "export": ("export", place / "student"),
    }
    return (*here[command], out) if command == "export" else (*here[command], "--out", out, "--device", "cpu")


def refused(done):
    """The one line with which a command was refused."""
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.codes == [2] and len(lines) == 1 and "Traceback" not in done.err, done.err
    return lines[0]


@pytest.mark.parametrize("command", ["sample", "edit", "export", "distill"])
def test_what_does_not_fit_is_one_line_and_the_command_can_be_given_again(zygote, place, tmp_path, command):
    out, limit = tmp_path / "out", {"sample": 100, "edit": 100, "export": 20_000, "distill": 20_000}[command]
    line = refused(zygote.run(*words(command, place, out), file_limit=limit))
    assert "File too large" in line and "free some space" in line
    if command != "distill":
        assert not out.exists()
    assert zygote.run(*words(command, place, out)).codes == [0]
    assert not list(out.rglob(".*.fewstep"))


@pytest.mark.parametrize("command", ["sample", "distill"])
def test_a_full_disk_is_one_line(zygote, place, tmp_path, command):
    (tmp_path / "disk").mkdir()
    done = zygote.run(*words(command, place, tmp_path / "disk" / "out"), disk=[tmp_path / "disk", 4096])
    if "PermissionError" in done.err or "no mounts" in done.err:
        pytest.skip("no mounts of one's own here")
    assert {"sample": "No space left on device", "distill": "GB free"}[command] in refused(done)  # distill looks before its start


@pytest.mark.parametrize("command", ["sample", "edit", "teach", "export"])
@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("denied/out", "ermission denied"),
        ("y" * 300, "too long"),
        ("three.png/out", "ot a directory"),
        ("/proc/nothing/out", "No such"),
    ],
)
def test_a_folder_that_cannot_be_written_is_one_line(zygote, place, command, out, reason):
    (place / "denied").mkdir(exist_ok=True)
    (place / "denied").chmod(0o555)
    assert reason in refused(zygote.run(*words(command, place, place / out), powerless=True))


@pytest.fixture
def shut(place, tmp_path):
    """A function that gives a copy of something in the place in which one file or folder cannot be read."""

    def copy(name, part=""):
        made = tmp_path / name
        (shutil.copytree if (place / name).is_dir() else shutil.copy)(place / name, made)
        (made / part).chmod(0)
        locked.append(made / part)
        return made

    locked = []
    yield copy
    for path in locked:
        path.chmod(0o700)


@pytest.mark.parametrize(
    ("name", "part", "command"),
    [
        ("student", "", ("show", "IT")), ("student", "unet", ("sample", "IT", "--class-label", "3", "--out", "OUT")),
        ("student", "unet/diffusion_pytorch_model.safetensors", ("bench", "IT")),
        ("three.png", "", ("edit", "digits", "--image", "IT", "--class-label", "3", "--strength", "0.5", "--out", "OUT")),
        ("run", "recipe.toml", ("show", "IT")), ("run", "recipe.toml", ("teach", "IT/recipe.toml", "--out", "OUT")),
        ("run", "log.jsonl", ("show", "IT")), ("run", "stage-one", ("distill", "--teacher", "TEACHER", "--out", "IT")),
        ("run", "recipe.toml", ("distill", "--teacher", "TEACHER", "--out", "IT")),
        ("student", "unet", ("teach", "own-images", "--set", "data.path=IT", "--out", "OUT")),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(zygote, place, shut, tmp_path, name, part, command):
    it = shut(name, part)
    known = {"OUT": str(tmp_path / "out"), "TEACHER": str(place / "teacher")}
    given = [known.get(word, word.replace("IT", str(it))) if "IT" in word or word in known else word for word in command]
    extra = [*SETTINGS, "--set", "stage_two.ladder=[2,1]"] if "distill" in command else []
    line = refused(zygote.run(*given, *extra, powerless=True))
    assert str(it / part).rstrip("/") in line
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="paths of bytes")
def test_a_path_that_is_not_utf8_is_one_line_where_safetensors_cannot_take_it(zygote, place, tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/o\xff")
    for command in ("teach", "distill", "export"):
        assert "UTF-8" in refused(zygote.run(*words(command, place, odd)))
    assert "UTF-8" in refused(zygote.run("sample", odd, "--class-label", "3", "--out", tmp_path / "out"))
    assert "UTF-8" in refused(zygote.run("distill", "--teacher", odd, "--set", "data.name=digits", "--out", tmp_path / "out"))
    assert zygote.run(*words("sample", place, odd)).codes == [0]
    assert not (tmp_path / "out").exists()


def test_in_python_an_error_of_the_file_system_is_an_input_error(place, tmp_path):
    for number in (errno.EACCES, errno.ENOSPC, errno.EIO, errno.EROFS):
        with pytest.raises(InputError, match="mine"), os_errors():
            raise OSError(number, os.strerror(number), "mine.txt")
    with pytest.raises(ConnectionRefusedError), os_errors():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for call in (
        lambda: check_run(tmp_path / "loop", load_recipe("digits")),
        lambda: RunLog(place / "three.png", None, "none").write(stage="x", update=1),  # pyright: ignore[reportArgumentType]
        lambda: fewstep.open_model(tmp_path / "loop"),
        lambda: fewstep.open_data(path=str(tmp_path / "loop")),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert "\n" not in str(error.value)


def test_lines_of_a_log_that_are_cut_or_no_text_are_left_out(tmp_path):
    log = tmp_path / "log.jsonl"
    whole = [{"stage": "a", "update": 1, "loss": 0.5}, {"stage": "a", "update": 2, "loss": 0.25}]
    lines = [json.dumps(line).encode() for line in whole]
    log.write_bytes(lines[0] + b"\n" + b'{"stage": "\xff\n' + b"[]\n" + lines[1] + b"\n" + lines[1][:9])
    assert entries_of(log) == whole
    RunLog(tmp_path, None, "none").resume("a", 1)  # pyright: ignore[reportArgumentType]
    assert log.read_bytes() == lines[0] + b"\n"
    assert entries_of(tmp_path / "nothing") == []
