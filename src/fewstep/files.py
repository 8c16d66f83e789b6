"""Writing files and folders so that nothing of anyone's is lost."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fewstep.errors import InputError, first_line, shown

LOCK = ".fewstep.lock"  # in a folder that a command works in
NO_VERIFY = "FEWSTEP_NO_VERIFY"  # an environment variable, so that all processes of a command have it
UMASK = os.umask(0o022)  # there is no other way to read it
os.umask(UMASK)
TEMPORARY = re.compile(r"\..+\.(\d+)\.fewstep")  # what `temporary` names


def verifying() -> bool:
    """Whether files are compared with their hashes when they are read: unless `--no-verify` or the environment says no."""
    return os.environ.get(NO_VERIFY, "") in ("", "0")


def usual_mode(path: Path) -> None:
    """Give a file that has just been written the permissions that the user's umask gives; safetensors keeps its own to the owner."""
    path.chmod(0o666 & ~UMASK)


def temporary(path: Path) -> Path:
    """The name beside `path` under which this process writes what is to take its place."""
    return path.with_name(f".{path.name}.{os.getpid()}.fewstep")


def contents(folder: Path) -> list[Path]:
    """What is in a folder, without temporary files and folders that a killed process has left, and without a lock."""
    return [path for path in folder.iterdir() if path.name != LOCK and not TEMPORARY.fullmatch(path.name)]


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders of processes that no longer run from a folder and from those in it."""
    for path in [*folder.glob(".*.fewstep"), *folder.glob("*/.*.fewstep")]:
        named = TEMPORARY.fullmatch(path.name)
        if named and not is_running(int(named[1])):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def is_running(process: int) -> bool:
    """Whether a process of this machine has this number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def path_of(what: str, given: Any) -> Path:
    """The path, of something that is here or may be made here.

    Raises:
        InputError: no text or path, or one that the file system cannot have: too long, with a NUL or a lone surrogate, not readable.
    """
    try:
        path = Path(given)
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (TypeError, ValueError, OSError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise InputError(
            f"{what} {shown(str(given) if isinstance(given, Path) else given)} is no path ({why}); name another"
        ) from None
    return path


def replace_folder(aside: Path, folder: Path) -> None:
    """Rename a folder to the place of another one, which is renamed first and removed last: at every moment one of them is whole."""
    before = folder.with_name(f".{folder.name}.before")
    if folder.exists():
        shutil.rmtree(before, ignore_errors=True)  # which a kill may have left
        os.rename(folder, before)
    try:
        os.rename(aside, folder)
    except OSError:
        if before.exists() and not folder.exists():
            os.rename(before, folder)
        raise
    shutil.rmtree(before, ignore_errors=True)


def check_new(folder: str | Path) -> None:
    """Raises InputError where something is in the folder already: nothing of anyone's is overwritten."""
    folder = path_of("folder", folder)
    if folder.exists() and (not folder.is_dir() or contents(folder)):
        raise InputError(f"{folder} holds something already; name a folder that is new or empty")


def claim(file: Path, known: dict[str, Any], what: str, state: Any) -> None:
    """Write what a folder's content is a function of into its JSON file, by the first of a command's processes, or check that it is that.

    `state` is the processes' (accelerate's `PartialState` or `Accelerator`). Keys that are new join those in the file.

    Raises:
        InputError: the file is damaged, or the folder is `what` of something else, naming the key that changed.
    """
    before: dict[str, Any] = {}
    if file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            raise InputError(f"{file} is damaged; name another --out") from None
        for key in (key for key, value in known.items() if before.get(key, value) != value):
            found = f"{file.parent} holds {what} with {key} {before[key]!r}, not {known[key]!r}"
            raise InputError(f"{found}; put it back, or name another --out")
    state.wait_for_everyone()  # all have looked before one writes
    if state.is_main_process:
        write_atomically(file, lambda aside: aside.write_text(json.dumps(before | known, indent=1) + "\n", encoding="utf-8"))
    state.wait_for_everyone()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises InputError where the disk is full or not writable."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot write {path}: {error}; what was there is kept, free some space and run the same command again"
        ) from error


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(temporary_path)`, then put the file in the place of `path`; a failure leaves the old one as it was.

    Raises:
        InputError: the disk is full or not writable.
    """
    aside = temporary(path)
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(aside)
            with open(aside, "rb+") as file:
                os.fsync(file.fileno())
            usual_mode(aside)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
