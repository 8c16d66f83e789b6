"""Writing files and folders so that nothing of anyone's is lost."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fewstep.errors import InputError, check_text, first_line, shown

LOCK = ".fewstep.lock"  # in a folder that a command works in
NO_VERIFY = "FEWSTEP_NO_VERIFY"  # an environment variable, so that all processes of a command have it
UMASK = os.umask(0o022)  # there is no other way to read it
os.umask(UMASK)
TEMPORARY = re.compile(r"\..+\.(\d+)\.fewstep")  # what `temporary` names


FULL = "what was there is kept: free some space and run the same command again"
DENIED = "get the permission, or name another place"
REMEDIES = {  # of errors of the file system, each with what a user can do
    errno.EACCES: DENIED, errno.EPERM: DENIED, errno.EROFS: DENIED, errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.EFBIG: FULL,
    errno.ENOENT: "name what is there", errno.ENOTDIR: "a file stands where a folder is needed: name another place",
    errno.EISDIR: "a folder stands where a file is needed: name a file", errno.EEXIST: "name another place",
    errno.ENOTEMPTY: "name another place", errno.ENAMETOOLONG: "name a shorter path", errno.ELOOP: "its links lead in a circle: name another place",
    errno.EIO: "the disk cannot be read or written there: name another place", errno.ENXIO: "name a file that can be read",
    errno.EILSEQ: "the file system takes no such name: name another", errno.EINVAL: "the file system takes no such name: name another",
    errno.ESTALE: "the network's folder is gone: run the same command again", errno.EBUSY: "it is in use: name another place",
}  # fmt: skip


@contextmanager
def os_errors() -> Iterator[None]:
    """Raises InputError in place of an error of the file system: no permission, a full disk, a path that cannot be; others pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES or isinstance(error, ConnectionError):
            raise
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else "a file"
        raise InputError(f"{shortened_path(where)}: {error.strerror or error}; {REMEDIES[error.errno]}") from error


def shortened_path(path: str) -> str:
    """A path as a message has it: of a long one its beginning and its end."""
    return path if len(path) <= 200 else f"{path[:100]}...{path[-60:]}"


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
    """Remove the temporary files and folders of processes that no longer run from a folder and from those below it."""
    for path in [*folder.rglob(".*.fewstep")]:
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


def utf8_path_of(what: str, given: Any) -> Path:
    """As `path_of`, of what holds safetensors files, whose paths must be UTF-8.

    Raises:
        InputError: as `path_of` does, or the path is not UTF-8.
    """
    path = path_of(what, given)
    check_text(f"the {what}'s path", str(path))
    return path


def check_new(folder: str | Path) -> None:
    """Raises InputError where something is in the folder already: nothing of anyone's is overwritten."""
    folder = path_of("folder", folder)
    if folder.exists() and (not folder.is_dir() or contents(folder)):
        raise InputError(f"{folder} holds something already; name a folder that is new or empty")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises InputError where the disk is full or not writable."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        why, remedy = error.strerror or first_line(error), REMEDIES.get(error.errno or 0, FULL)
        raise InputError(f"cannot write {shortened_path(str(path))}: {why}; {remedy}") from error
    except SafetensorError as error:
        raise InputError(f"cannot write {shortened_path(str(path))}: {first_line(error)}; {FULL}") from error


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(temporary_path)`, then put the file in the place of `path`; a failure leaves the old one as it was.

    Raises:
        InputError: the disk is full or not writable.
    """
    folder = temporary(path)  # of its own: safetensors puts a temporary file of another name beside the one that it writes
    aside = folder / path.name
    with writing(path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(aside)
            with open(aside, "rb+") as file:
                os.fsync(file.fileno())
            usual_mode(aside)
            os.replace(aside, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write files into, which are moved into `folder`, new or empty, when all are written; after a failure it is as it was.

    Raises:
        InputError: the disk is full or not writable.
    """
    aside, new, moved = temporary(folder / "files"), not folder.exists(), []
    with writing(folder):
        try:
            aside.mkdir(parents=True)
            sweep(folder)
            yield aside
            for path in sorted(aside.iterdir()):
                moved.append(folder / path.name)
                os.rename(path, moved[-1])
        except BaseException:
            for path in moved:
                path.unlink(missing_ok=True)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            if new:
                with suppress(OSError):  # it holds what was written
                    folder.rmdir()
