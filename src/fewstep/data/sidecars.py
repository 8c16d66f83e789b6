"""Captions in files beside pictures: `0.png` with `0.txt`, `0.caption` or `0.json`."""

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CAPTION_NAMES = ("text", "caption", "captions", "prompt", "txt", "description")  # of columns, and of keys in a .json
ENDINGS = (".txt", ".caption", ".json")  # of a picture that has several the first counts


def nfc(text: str) -> str:
    """The text with composed letters: macOS writes the names of files decomposed."""
    return unicodedata.normalize("NFC", text)


def stem_of(file: Path) -> str:
    """The path of a file without its ending, with composed letters."""
    return nfc(str(file.with_suffix("")))


def sidecars(folder: Path, files: Sequence[Path], pictures: Sequence[Path], key: str | None = None) -> dict[Path, Path]:
    """For each picture that has one the file with its caption; all are given relative to the folder.

    Endings count in any case, names in composed or decomposed letters. A .json counts where the first one of them has a caption:
    other programs put other facts there.
    """
    found: dict[Path, Path] = {}
    for ending in ENDINGS:
        texts = [file for file in files if file.suffix.lower() == ending]
        exact, composed = {str(file.with_suffix("")): file for file in texts}, {stem_of(file): file for file in texts}
        beside = {p: exact.get(str(p.with_suffix(""))) or composed.get(stem_of(p)) for p in pictures if p not in found}
        new = {picture: text for picture, text in beside.items() if text is not None}
        if ending != ".json" or (new and has_caption(folder / next(iter(new.values())), key)):
            found |= new
    return found


def has_caption(file: Path, key: str | None) -> bool:
    """Whether a file beside a picture holds a caption."""
    try:
        return bool(read_caption(file, key))
    except (OSError, ValueError):
        return False


def read_caption(file: Path, key: str | None = None) -> Any:
    """The caption in a file, or a list of several: its lines, or what the `key`, else a usual one, of a .json says.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    if file.exists() and not file.is_file():  # a pipe may never end
        raise ValueError("no regular file")
    text = file.read_text(encoding="utf-8-sig")
    if file.suffix.lower() != ".json":
        return lines_of(text)
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    return caption_in(values, key) if isinstance(values, dict) else values


def caption_in(values: dict[str, Any], key: str | None = None) -> Any:
    """What the `key` of a table's row or a .json says, else the first usual one that says anything; else None."""
    names = CAPTION_NAMES if key is None else (key,)
    return next((values[name] for name in names if values.get(name)), None)


def lines_of(text: str) -> list[str]:
    """The lines that are not blank, stripped; U+2028 and its like are part of a line."""
    return [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]


def one_caption(found: Any) -> tuple[str | None, int]:
    """(The first caption that is not blank or None, how many others there are) of text, a number, or a list of them."""
    given = found if isinstance(found, list | tuple) else [found]
    texts = [str(text).strip() for text in given if isinstance(text, str | int | float) and not isinstance(text, bool)]
    texts = [text for text in texts if text]
    return (texts[0], len(texts) - 1) if texts else (None, 0)
