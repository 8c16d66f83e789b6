"""What the `datasets` library opens: parquet, tar shards, save_to_disk, folders with metadata, data sets on the hub."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fewstep.data.decoding import Example
from fewstep.data.folders import class_names, has_captions, listed, pictures_of, split_of
from fewstep.data.sources import Source, SourceSettings, captioned, class_names_in
from fewstep.errors import InputError, first_line, nearest

IMAGE_NAMES = ("image", "img", "images", "jpg", "jpeg", "png", "webp", "picture", "pixel_values")
LABEL_NAMES = ("label", "labels", "fine_label", "cls", "class", "class_label")
CAPTION_NAMES = ("text", "caption", "captions", "prompt", "txt", "description")
TEXT = ("string", "large_string")
TABLE_FILES = {".parquet": "parquet", ".tar": "webdataset", ".arrow": "arrow"}
METADATA = {"metadata.csv", "metadata.jsonl"}
SHUFFLE_BUFFER = 1000  # encoded examples held in memory while streaming; shards are shuffled as well


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote the folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def is_table(folder: Path, files: list[Path], settings: SourceSettings) -> bool:
    """Whether the folder, with these files in it, is for `datasets` to open; files of its kinds beside class folders are not.

    Raises:
        InputError: both its sub-folders and its metadata may say the classes.
    """
    if settings.layout != "auto" or is_saved(folder):
        return settings.layout in ("auto", "table")
    metadata = metadata_of(folder, files)
    if not metadata and not table_files(files):
        return False
    if len(class_names(pictures_of(files))) > 1:
        columns = (settings.image_column, settings.label_column, settings.caption_column)
        if not metadata or settings.captions_first or any(columns):
            return bool(metadata)
        raise InputError(
            f'{folder}: the labels may be those of {metadata[0]} (set data.layout = "table"), or its sub-folders may be classes '
            '(set data.layout = "classes")'
        )
    return bool(metadata) or not (settings.captions_first and has_captions(files))


def metadata_of(folder: Path, files: list[Path]) -> list[Path]:
    """The metadata files that list pictures in a column `file_name`, as the imagefolder of `datasets` has it."""

    def lists_pictures(file: Path) -> bool:
        with (folder / file).open(encoding="utf-8", errors="replace") as opened:
            return "file_name" in opened.readline()

    return [file for file in files if file.name.lower() in METADATA and lists_pictures(file)]


def table_files(files: list[Path]) -> list[Path]:
    """The files that `datasets` reads by their ending."""
    return [file for file in files if file.suffix.lower() in TABLE_FILES]


def open_table(settings: SourceSettings, files: list[Path] | None = None) -> Source:
    """The examples of a file, of a folder with these files, or of a hub id, by way of `datasets`, with captions or with labels.

    A column of type Image, else one with a usual name, holds the pictures; one of text with a usual name the captions; one of type
    ClassLabel, else one with a usual name, the labels. Class names: of the ClassLabel, else of the settings, else classes.json in a
    folder, else left to a pass over the labels.

    Raises:
        InputError: it cannot be opened or reached, has no such split or column, or streams labels whose classes nobody names.
    """
    import datasets

    path = str(settings.path)
    rows = opened(path, settings.split, settings.streaming, files)
    if rows.features is None:
        raise InputError(f"{path}: `datasets` does not say which columns it has: convert it to parquet")
    image = image_of(rows.features, settings)
    caption = caption_of(rows.features, settings) if settings.captions_first else None
    label = caption or label_of(rows.features, settings)
    rows = rows.select_columns([image, label])
    if isinstance(rows.features[image], datasets.Image):  # left as bytes or paths, which decoding.py decodes
        rows = rows.cast_column(image, datasets.Image(decode=False))
    raw, length = partial(examples, rows, image, label, path), len(rows) if isinstance(rows, datasets.Dataset) else None
    if caption:
        return captioned(path, raw, length)
    here, names = Path(path).expanduser(), getattr(rows.features[label], "names", None)
    known = tuple(names) if names else settings.classes
    known = known or (class_names_in(here if here.is_dir() else here.parent) if here.exists() else None)
    if settings.streaming and known is None:
        remedy = 'set data.classes = ["first", ...] or data.streaming = false'
        raise InputError(f"{path}: column '{label}' has plain labels, so a stream cannot know the classes: {remedy}")
    return Source("datasets", path, known, raw, length)


def opened(path: str, split: str, streaming: bool, files: list[Path] | None) -> Any:
    """The Dataset or IterableDataset; what lies on this machine is always read as a stream, which leaves no copy in a cache."""
    import datasets

    here, name = Path(path).expanduser(), split.partition("[")[0]
    lazy = streaming or (here.exists() and "[" not in split)  # train[:10%] needs the whole
    saved = is_saved(here)
    tables = [here] if here.is_file() else [] if saved else files_of_split(here, files or [], name)
    try:
        if saved:
            rows = datasets.load_from_disk(str(here))
        elif tables:
            builder = TABLE_FILES[tables[0].suffix.lower()]
            rows = datasets.load_dataset(builder, data_files={name: list(map(str, tables))}, split=split, streaming=lazy)
        else:
            rows = datasets.load_dataset(str(here) if here.exists() else path, split=split, streaming=lazy)
    except Exception as error:  # `datasets` passes on whatever its parts raise
        what = "cannot be opened" if here.exists() else "is neither a file or folder here nor a data set that the hub hands out"
        raise InputError(f"'{path}' {what} ({first_line(error)}): check data.path, data.split and the network") from error
    if not isinstance(rows, datasets.DatasetDict):
        return rows
    if split not in rows:
        raise InputError(f"{path} has no split '{split}': set data.split to one of {', '.join(map(str, rows))}")
    return rows[split]


def files_of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    """The tables of a split, by the words in their names; [] where metadata or a card say what the files of the folder are.

    Raises:
        InputError: some names say a split and others none, there is no such split, or there are tables of two kinds.
    """
    tables, card = table_files(files), folder / "README.md"
    if metadata_of(folder, files) or (card.is_file() and "data_files:" in card.read_text(encoding="utf-8", errors="replace")):
        return []
    tars = [file for file in tables if file.suffix.lower() == ".tar"]
    if {file.with_suffix("") for file in tables} == {file.with_suffix("") for file in tars}:
        tables = tars  # img2dataset writes a .parquet beside each
    kinds = {file.suffix.lower() for file in tables}
    if len(kinds) > 1:
        remedy = "name one of them, or a folder of one kind, as data.path"
        raise InputError(f"{folder} has files of {' and '.join(sorted(kinds))}: {remedy}")
    named = {file: found for file in tables if (found := split_in(file))}
    if not tables or (not named and split == "train"):
        return [folder / file for file in tables]
    if named and len(named) < len(tables):
        (one, found), other = next(iter(named.items())), next(file for file in tables if file not in named)
        readings = f"{one} may be the split '{found}', or with {other} all may be one"
        raise InputError(f"{folder}: {readings}: name one file as data.path, or give each file the name of its split")
    chosen = [folder / file for file, found in named.items() if found == (split_of(split) or split)]
    if not chosen:
        raise InputError(f"{folder} has no split '{split}': set data.split to one of {listed(set(named.values())) or 'train'}")
    return chosen


def split_in(file: Path) -> str | None:
    """The split that a word in the name of a file, or else of a folder around it, stands for."""
    words = [word for part in reversed(file.parts) for word in re.split(r"[^a-z]+", part.casefold())]
    return next((split for word in words if (split := split_of(word))), None)


def column_of(features: Any, settings: SourceSettings, key: str, usual: tuple[str, ...], kind: type) -> str | None:
    """The column that `key` of the settings names, else the only one of a kind, else the first with a usual name.

    Usual names are looked for among the columns of the kind, or among all where none is. Raises InputError where there is none of
    the name in the settings.
    """
    given = getattr(settings, key)
    if given is not None and given not in features:
        raise InputError(f"{settings.path} has no column '{given}' for data.{key}: {nearest(given, features)}")
    typed = [name for name, feature in features.items() if isinstance(feature, kind)]
    return given or (typed[0] if len(typed) == 1 else next((name for name in usual if name in (typed or features)), None))


def image_of(features: Any, settings: SourceSettings) -> str:
    """The name of the column with pictures."""
    import datasets

    found = column_of(features, settings, "image_column", IMAGE_NAMES, datasets.Image)
    if found is None:
        known = nearest("", features)
        raise InputError(f"{settings.path} has no column that is plainly the picture: set data.image_column ({known})")
    return found


def caption_of(features: Any, settings: SourceSettings) -> str | None:
    """The name of the column of captions: the given one, else one of text with a usual name, else None."""
    text = [name for name, feature in features.items() if getattr(feature, "dtype", None) in TEXT]
    if settings.caption_column is None:
        return next((name for name in CAPTION_NAMES if name in text), None)
    found = column_of(features, settings, "caption_column", (), object)
    if found not in text:
        remedy = f"set data.caption_column to one that is ({nearest('', text)})"
        raise InputError(f"{settings.path}: column '{found}' is not text: {remedy}")
    return found


def label_of(features: Any, settings: SourceSettings) -> str:
    """The name of the column with labels: integers or names."""
    import datasets

    found = column_of(features, settings, "label_column", LABEL_NAMES, datasets.ClassLabel)
    if found is None:
        remedy = f"set data.label_column to one of integers or names ({nearest('', features)})"
        raise InputError(f"{settings.path} {settings.but}has no column of labels: {remedy}")
    kind = str(getattr(features[found], "dtype", None) or "lists")
    if not kind.startswith(("int", "uint")) and kind not in TEXT:
        remedy = "set data.label_column to integers or names"
        raise InputError(f"{settings.path}: the labels in column '{found}' are {kind}: {remedy}")
    return found


def examples(rows: Any, image: str, label: str, path: str, seed: int | None, epoch: int) -> Iterator[Example]:
    """The rows in order, or shuffled by (seed, epoch): a whole table by permutation, a stream through a buffer and by shards.

    Raises:
        InputError: a shard cannot be read to its end.
    """
    import datasets

    if seed is not None:
        if isinstance(rows, datasets.Dataset):
            rows = rows.to_iterable_dataset(num_shards=max(1, min(64, len(rows))))
        rows = rows.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        rows.set_epoch(epoch)
    try:
        for row in rows:
            yield as_example(row[image], row[label])
    except Exception as error:  # a truncated parquet or tar: what follows in the shard is lost
        raise InputError(
            f"'{path}' cannot be read to its end ({first_line(error)}): replace or remove the damaged shard"
        ) from error


def as_example(cell: Any, label: Any) -> Example:
    """One cell of an undecoded column of pictures: bytes, or a dict of bytes and path."""
    data, name = (cell.get("bytes"), cell.get("path") or "") if isinstance(cell, dict) else (cell, "")
    if data is None and name:
        data = name if "://" in name else Path(name)
    return Example(data, label, name)
