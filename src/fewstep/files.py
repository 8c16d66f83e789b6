"""Writing files and folders so that nothing of anyone's is lost."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewstep.errors import InputError


def check_new(folder: Path) -> None:
    """Raises InputError where something is in the folder already: nothing of anyone's is overwritten."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds something already; name a folder that is new or empty")


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
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(aside)
            with open(aside, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
