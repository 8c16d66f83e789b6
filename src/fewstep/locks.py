"""A lock on the folder that a command works in: a file with its machine, process and time; that of a dead process does not count."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fewstep.errors import InputError
from fewstep.files import LOCK, is_running, path_of, sweep, temporary, writing
from fewstep.progress import is_first_process


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold the folder's lock, made by the first of a command's processes; what killed processes left in the folder is swept.

    A folder that is not there is made, and removed at the end where it is still empty.

    Raises:
        InputError: another command works in the folder, or it cannot be written; nothing is changed.
    """
    folder, mine = path_of("folder", folder).absolute(), owner()
    if not is_first_process():  # of a command on many devices, whose first process holds the lock
        yield
        return
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; name a folder")
        new = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        acquire(folder / LOCK, mine)
    try:
        sweep(folder)
        yield
    finally:
        if read_owner(folder / LOCK) == mine:
            (folder / LOCK).unlink(missing_ok=True)
        for place in new:
            with suppress(OSError):  # no longer empty
                place.rmdir()


def acquire(lock: Path, mine: dict[str, Any]) -> None:
    """Write the lock, in the place of one whose process no longer runs.

    Raises:
        InputError: its process runs, or may run on another machine.
    """
    aside = temporary(lock)
    aside.write_text(json.dumps(mine), encoding="utf-8")
    try:
        for _ in range(3):
            try:
                put(aside, lock)
                return
            except FileExistsError:
                check_stale(lock)
                stale = temporary(lock.with_name(f"{LOCK}.stale"))
                with suppress(FileNotFoundError):  # another command has just removed it
                    os.replace(lock, stale)
                    stale.unlink()
    finally:
        aside.unlink(missing_ok=True)
    raise InputError(f"{lock.parent} is being taken by other commands at this moment; run the command again")


def put(aside: Path, lock: Path) -> None:
    """Make the lock, whole from its beginning where the file system has links. Raises FileExistsError where there is one."""
    try:
        os.link(aside, lock)
    except FileExistsError:
        raise
    except OSError:
        with open(lock, "x", encoding="utf-8") as file:
            file.write(aside.read_text(encoding="utf-8"))


def check_stale(lock: Path) -> None:
    """Raises InputError where the process that holds a lock runs, or may run on another machine."""
    held, here = read_owner(lock), owner()
    if held is None or (held.get("machine") == here["machine"] and (held.get("boot") != here["boot"] or not still_runs(held))):
        return
    where, since = f"process {held.get('process')} on {held.get('machine')}", held.get("since")
    raise InputError(
        f"{lock.parent}: another command works in it ({where}, since {since}), and nothing is changed: "
        f"wait for it, or name another --out; if it no longer runs, remove {lock}"
    )


def still_runs(held: dict[str, Any]) -> bool:
    """Whether the process of a lock of this machine runs, and is no later one with its number."""
    number = held.get("process")
    return isinstance(number, int) and is_running(number) and started(number) == held.get("started")


def owner() -> dict[str, Any]:
    """What a lock of this process says: its machine, that machine's boot, its number and start, and the time."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    now, process = time.strftime("%Y-%m-%d %H:%M:%S"), os.getpid()
    known = {"machine": platform.node(), "boot": boot.read_text().strip() if boot.is_file() else ""}
    return known | {"process": process, "started": started(process), "since": now}


def started(process: int) -> str:
    """When a process of this machine was started, in ticks since its boot; empty where the system does not say."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def read_owner(lock: Path) -> dict[str, Any] | None:
    """What a lock says; None where there is none, or none that can be read."""
    try:
        held = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return held if isinstance(held, dict) else None
