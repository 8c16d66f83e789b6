"""The hashes of a model folder's files, in `fewstep-files.json`: written by a save, compared when the folder is opened."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from fewstep.errors import InputError
from fewstep.files import verifying
from fewstep.hashed import HASH, read_json, write_json

HASHES = "fewstep-files.json"
MAY_CHANGE = ("README.md",)  # a person's text


def hash_of(file: Path) -> str:
    """XXH3 of a file, 128 bits in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, xxhash.xxh3_128).hexdigest()  # pyright: ignore[reportArgumentType] - one of hashlib's form


def write_hashes(folder: Path, but: str = "") -> None:
    """Write the hashes of all files of a model folder but `MAY_CHANGE`, and one more, into it."""
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    hashes = {name: hash_of(folder / name) for name in files if name not in (*MAY_CHANGE, HASHES, but)}
    write_json(folder / HASHES, {"format": 2, "files": hashes})


def hashes_of(folder: Path) -> dict[str, str]:
    """The hashes of a model folder's files by their names; none where there is no record of them that can be read."""
    try:
        return dict(hashes_in(folder))
    except (OSError, InputError):
        return {}


@contextmanager
def changing(folder: Path, name: str) -> Iterator[None]:
    """A file of a model folder may be replaced meanwhile; its hash is left out until it is the new one, so that a kill damages nothing."""
    hashes = hashes_of(folder)
    write_json(folder / HASHES, {"format": 2, "files": {key: value for key, value in hashes.items() if key != name}})
    yield
    write_json(folder / HASHES, {"format": 2, "files": dict(sorted((hashes | {name: hash_of(folder / name)}).items()))})


def check_hashes(folder: Path) -> None:
    """Compare a model folder with its hashes; a folder without any is not checked.

    Raises:
        InputError: a file is missing or has changed, by name.
    """
    if not verifying() or not (folder / HASHES).is_file():
        return
    for name, expected in sorted(hashes_in(folder).items()):
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file} is missing; copy the folder again")
        try:
            found = hash_of(file)
        except OSError as error:
            raise InputError(f"{file} cannot be read ({error.strerror}); copy the folder again") from None
        if found != expected:
            raise InputError(
                f"{file} is damaged: its hash is {found[:8]}, not {expected[:8]} as it was written; "
                "copy the folder again, or open it as it is with --no-verify (verify=False)"
            )


def hashes_in(folder: Path) -> dict[str, str]:
    """The hashes by file of `HASHES` in a folder. Raises InputError where it is damaged."""
    file, remedy, known = folder / HASHES, "copy the folder again, or remove this file to go without it", None
    with suppress(OSError, ValueError, RecursionError):  # which `read_json` says below
        known = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(known, dict) and known.get("format") == 1 and isinstance(known.get(HASH), dict):
        return {str(name): str(value) for name, value in known[HASH].items()}  # as before they had a hash of their own
    if isinstance(known, dict) and not isinstance(known.get(HASH), str):
        raise InputError(f"{file} is damaged (it has no hash of its own); {remedy}")
    found = read_json(file, remedy).get("files")
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InputError(f"{file} is damaged (it holds no hashes); {remedy}")
    return found
