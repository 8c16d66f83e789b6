"""The hashes of a model folder's files, in `fewstep-files.json`: written by a save, compared when the folder is opened."""

import hashlib
import json
from pathlib import Path

import xxhash

from fewstep.errors import InputError
from fewstep.files import verifying

HASHES = "fewstep-files.json"
MAY_CHANGE = ("README.md", "fewstep.json")  # a person's text, and what is checked by its own keys


def hash_of(file: Path) -> str:
    """XXH3 of a file, 128 bits in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, xxhash.xxh3_128).hexdigest()  # pyright: ignore[reportArgumentType] - one of hashlib's form


def write_hashes(folder: Path) -> None:
    """Write the hashes of all files of a model folder but `MAY_CHANGE` into it."""
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    hashes = {name: hash_of(folder / name) for name in files if name not in (*MAY_CHANGE, HASHES)}
    (folder / HASHES).write_text(json.dumps({"format": 1, "xxh3_128": hashes}, indent=1) + "\n", encoding="utf-8")


def hashes_of(folder: Path) -> dict[str, str]:
    """The hashes of a model folder's files by their names; none where there is no record of them that can be read."""
    try:
        known = json.loads((folder / HASHES).read_text(encoding="utf-8"))["xxh3_128"]
        return {str(name): str(value) for name, value in known.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def check_hashes(folder: Path) -> None:
    """Compare a model folder with its hashes; a folder without any is not checked.

    Raises:
        InputError: a file is missing or has changed, by name.
    """
    if not verifying() or not (folder / HASHES).is_file():
        return
    try:
        hashes = json.loads((folder / HASHES).read_text(encoding="utf-8"))["xxh3_128"]
        items = sorted((str(name), str(value)) for name, value in hashes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{folder / HASHES} is damaged; copy the folder again, or remove this file to go without it") from None
    for name, expected in items:
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
