"""Pictures with captions: a .txt beside each picture, an .npz with `captions`, or a column of anything that `datasets` opens."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fewstep.data import sources, tables
from fewstep.data.decoding import Example
from fewstep.data.sources import PICTURES, Source, shuffled
from fewstep.errors import InputError, nearest

CAPTION_NAMES = ("text", "caption", "captions", "prompt", "txt", "description")
NO_CAPTION = "it has no caption"


def captioned(
    path: str,
    *,
    split: str,
    streaming: bool,
    image_column: str | None,
    caption_column: str | None,
    memory_limit: int,
) -> Source | None:
    """The pictures of a path with their captions for labels, or None where nothing there is a caption.

    An example whose caption is missing or empty has a fault, so that it is left out, counted and named as unreadable ones are.

    Raises:
        InputError: `caption_column` names no column of text, or what lies there cannot be opened.
    """
    place = Path(path).expanduser()
    if place.is_dir() and not (place / f"{split}.npz").is_file():
        files = sources.files_below(place)
        if not tables.is_table(place, files):
            check_no_column(path, caption_column)
            return beside(place, files, split)
    file = place / f"{split}.npz" if place.is_dir() else place
    if file.suffix.lower() == ".npz" and file.is_file():
        check_no_column(path, caption_column)
        return npz(file, memory_limit)
    if not place.exists() and not sources.looks_like_hub_id(path):
        return None  # what is wrong is said where classes are looked for
    if place.is_file() and place.suffix.lower() not in tables.TABLE_FILES:
        return None
    rows = tables.opened(path, split, streaming)
    if rows.features is None:
        return None
    caption = caption_of(rows.features, caption_column, path)
    if caption is None:
        return None
    image = tables.image_of(rows.features, image_column, path)
    raw = partial(tables.examples, tables.undecoded(rows, image, caption), image, caption, path)
    return Source("captions", path, None, lambda seed, epoch: map(checked, raw(seed, epoch)), tables.length(rows))


def check_no_column(path: str, wanted: str | None) -> None:
    """Raises InputError where a column is named of what has none."""
    if wanted is not None:
        raise InputError(f"{path} has no columns, so no '{wanted}': leave data.caption_column out")


def caption_of(features: Any, wanted: str | None, path: str) -> str | None:
    """The name of the column of captions: the wanted one, else one of text with a usual name, else None.

    Raises:
        InputError: the wanted one is missing, or not text.
    """
    text = [name for name, feature in features.items() if getattr(feature, "dtype", None) in ("string", "large_string")]
    if wanted is None:
        return next((name for name in CAPTION_NAMES if name in text), None)
    if wanted not in features:
        raise InputError(f"{path} has no column '{wanted}' for data.caption_column: {nearest(wanted, features)}")
    if wanted not in text:
        raise InputError(f"{path}: column '{wanted}' is not text: set data.caption_column to one that is ({nearest('', text)})")
    return wanted


def checked(example: Example) -> Example:
    """The example with its caption's outer blanks removed, or with a fault where there is none."""
    caption = example.label.strip() if isinstance(example.label, str) else ""
    return replace(example, label=caption) if caption else replace(example, label=None, fault=NO_CAPTION)


def beside(folder: Path, files: list[Path], split: str) -> Source | None:
    """Pictures with a .txt of the same name beside them, at any depth; None where no picture has one."""
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    texts = {file.with_suffix("") for file in files if file.suffix.lower() == ".txt"}
    if not any(file.with_suffix("") in texts for file in pictures):
        return None
    folder, pictures = sources.of_split(folder, pictures, split, depth=2)

    def examples(seed: int | None, epoch: int) -> Iterator[Example]:
        for k in range(len(pictures)) if seed is None else shuffled(len(pictures), seed, epoch):
            yield read_beside(folder, pictures[k])

    return Source("captions", str(folder), None, examples, len(pictures))


def read_beside(folder: Path, picture: Path) -> Example:
    """The example of a picture, given relative to the folder, and the .txt beside it."""
    file, name = folder / picture.with_suffix(".txt"), picture.as_posix()
    if not file.is_file():
        return Example(folder / picture, None, name, fault=f"{NO_CAPTION} ({file.name} is missing)")
    try:
        return checked(Example(folder / picture, file.read_text(encoding="utf-8-sig"), name))
    except (OSError, UnicodeDecodeError) as error:
        return Example(folder / picture, None, name, fault=f"its caption {file.name} cannot be read ({error})")


def npz(file: Path, memory_limit: int) -> Source | None:
    """The `images` of an .npz with its `captions` (n,) of text; None where it has no such array.

    Raises:
        InputError: it is damaged, or its captions are not one text an image.
    """
    arrays, _ = sources.arrays_of(file, {"images", "captions"}, memory_limit)
    if not {"images", "captions"} <= set(arrays):
        return None
    pixels, captions = sources.as_uint8(arrays["images"], file), arrays["captions"]
    if captions.shape != pixels.shape[:1] or captions.dtype.kind != "U":
        need = f"need text of shape ({len(pixels)},), one an image"
        raise InputError(f"captions of {file} are {captions.dtype} of shape {captions.shape}: {need}")
    raw = sources.in_memory("captions", str(file), pixels, captions.tolist(), None).examples
    return Source("captions", str(file), None, lambda seed, epoch: map(checked, raw(seed, epoch)), len(pixels))
