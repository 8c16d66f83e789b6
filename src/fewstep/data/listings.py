"""Lists of picture files with labels or captions: metadata.csv, .jsonl or .parquet in a folder, or a .csv, .tsv or .jsonl by itself."""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewstep.data.columns import caption_of, image_of, known_classes, label_of
from fewstep.data.decoding import Example
from fewstep.data.folders import listed, other_files, pictures_of, split_of
from fewstep.data.sidecars import CAPTION_NAMES, nfc
from fewstep.data.sources import Source, SourceSettings, captioned, numbered
from fewstep.errors import InputError, first_line

LISTS = {".csv": ",", ".tsv": "\t", ".jsonl": ""}  # with what is between the columns
METADATA = {"metadata.csv", "metadata.jsonl", "metadata.parquet"}
Row = dict[str, Any]
csv.field_size_limit(1 << 27)


def metadata_of(folder: Path, files: Sequence[Path]) -> list[Path]:
    """The metadata files that list pictures in a column `file_name`."""

    def lists_pictures(file: Path) -> bool:
        if file.suffix.lower() == ".parquet":
            return "file_name" in columns_of_parquet(folder / file)
        with (folder / file).open(encoding="utf-8", errors="replace") as opened:
            return "file_name" in opened.readline()

    return [file for file in files if file.name.lower() in METADATA and (folder / file).is_file() and lists_pictures(file)]


def columns_of_parquet(file: Path) -> list[str]:
    """The names of its columns; none where it cannot be read."""
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_schema(file).names
    except Exception:  # damaged: whoever reads it says so
        return []


def rows_of(file: Path) -> list[Row]:
    """The rows of a .csv, .tsv, .jsonl or .parquet: of text an empty cell is None, and no word ("NA", "None") is.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if file.suffix.lower() == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(file).to_pylist()
        with file.open(encoding="utf-8-sig", newline="") as opened:
            if between := LISTS[file.suffix.lower()]:
                return [{k: v or None for k, v in row.items() if k} for row in csv.DictReader(opened, delimiter=between)]
            rows = [json.loads(line) for line in opened.read().split("\n") if line.strip()]
    except Exception as error:  # OSError, UnicodeDecodeError, csv.Error, JSONDecodeError, RecursionError, what pyarrow raises
        raise InputError(f"{file} cannot be read ({first_line(error)}): write it anew, as UTF-8") from None
    if wrong := next((k for k, row in enumerate(rows) if not isinstance(row, dict)), None):
        raise InputError(f'{file}: row {wrong} is no object: write one a line, as {{"file_name": "0.png", "text": "a cat"}}')
    return rows


def feature_of(values: Sequence[Any]) -> Any:
    """The type, as `datasets` has it, of a column with these values, None among them; text that is all whole numbers is numbers."""
    import datasets

    known = [value for value in values if value is not None]
    for kind, name in ((bool, "bool"), (int, "int64"), (float, "float64"), (str, "string")):
        if known and all(isinstance(value, kind) for value in known):
            return datasets.Value("int64" if kind is str and all(map(is_whole, known)) else name)
    lists = any(isinstance(value, list) for value in known) and all(isinstance(value, list | str) for value in known)
    return datasets.List(datasets.Value("string")) if lists else datasets.Value("string" if known else "null")


def is_whole(text: str) -> bool:
    """Whether a text is a whole number."""
    return re.fullmatch(r"\s*-?[0-9]{1,18}\s*", text) is not None


def open_listing(folder: Path, lists: Sequence[Path], settings: SourceSettings, files: Sequence[Path] | None = None) -> Source:
    """The pictures in lists, which are given relative to the folder, with captions or labels; paths in a list are relative to its folder.

    `files` are those of the folder, among which the pictures are that no list has. Text in a column of labels that is all whole
    numbers is numbers; captions are text, whatever they look like.

    Raises:
        InputError: a list cannot be read, has no such column, or lists no pictures of the split.
    """
    import datasets

    rows = [(file.parent, row) for file in lists for row in rows_of(folder / file)]
    names = dict.fromkeys(name for _, row in rows for name in row)
    if not rows:
        raise InputError(f"{folder / lists[0]} lists no pictures: write a line for each, with columns file_name and label or text")
    features = {name: feature_of([row.get(name) for _, row in rows]) for name in names}
    texts = {*CAPTION_NAMES, settings.caption_column} - {settings.label_column}
    features |= {
        name: datasets.Value("string") for name in texts & set(names) if str(getattr(features[name], "dtype", "")).startswith("int")
    }
    image = "file_name" if "file_name" in names and settings.image_column in (None, "image") else image_of(features, settings)
    caption = caption_of(features, settings) if settings.captions_first else None
    label = caption or label_of(features, settings)
    numbers = str(getattr(features[label], "dtype", "")).startswith("int")
    left: list[str] = []
    if unnamed := [row for _, row in rows if not isinstance(row.get(image), str)]:
        left.append(f"{len(unnamed)} rows without a {image}")
    places = [(os.path.normpath(at / row[image]), row[label]) for at, row in named(rows, image, label)]
    places = of_split(folder, places, settings.split)
    spelled = {nfc(file.as_posix()): file for file in files or ()}
    if rest := sorted(map(str, {nfc(str(file)) for file in pictures_of(files or ())} - {nfc(name) for name, _ in places})):
        rest = [name for name in rest if not in_other_split(name, settings.split)]
        left += [f"{len(rest)} pictures that {lists[0].name} does not list ({listed(rest)})"] if rest else []

    def example(k: int) -> Example:
        name, value = places[k]
        value = int(value) if numbers and isinstance(value, str) else value
        file = folder / name
        if not file.exists():
            file = folder / spelled.get(nfc(name), Path(name))
        return Example(file, value, name)

    path = str(settings.path)
    others = other_files([file for file in files or () if file not in lists])
    classes = None if caption else known_classes(label, features, settings)
    source = numbered("list", path, classes, example, len(places))
    source = captioned(path, source.examples, len(places)) if caption else source
    return replace(source, left_out=(*left, *others))


def named(rows: list[tuple[Path, Row]], image: str, label: str) -> list[tuple[Path, Row]]:
    """The rows that name a picture, with None for a label that they leave out."""
    return [(at, {label: None} | row) for at, row in rows if isinstance(row.get(image), str)]


def in_other_split(name: str, split: str) -> bool:
    """Whether one of the folders around a file stands for a split, and not for this one."""
    found = split_in_folders(name)
    return found is not None and found != (split_of(split) or split)


def split_in_folders(name: str) -> str | None:
    """The split that the first such folder around a file stands for."""
    return next((split for part in Path(name).parts[:-1] if (split := split_of(part))), None)


def of_split(folder: Path, places: list[tuple[str, Any]], split: str) -> list[tuple[str, Any]]:
    """Those of the pictures that are in a folder of the split, where all are in folders of splits; else all.

    Raises:
        InputError: there is no such split.
    """
    splits = Counter(split_in_folders(name) for name, _ in places)
    if None in splits or not splits:
        splits = Counter({"train": len(places)})
        chosen = places if split == "train" else []
    else:
        chosen = [(name, value) for name, value in places if split_in_folders(name) == (split_of(split) or split)]
    if not chosen:
        raise InputError(f"{folder} has no split '{split}' with pictures: set data.split to one of {listed(map(str, splits))}")
    return chosen
