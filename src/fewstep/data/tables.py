"""Tables by way of the `datasets` library: parquet, tar shards, save_to_disk, data sets on the hub."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fewstep.data.columns import caption_of, image_of, known_classes, label_of
from fewstep.data.decoding import Example
from fewstep.data.folders import are_captions, class_names, listed, pictures_of, split_of
from fewstep.data.listings import metadata_of
from fewstep.data.sources import Source, SourceSettings, captioned
from fewstep.data.tars import open_tars
from fewstep.errors import InputError, first_line

TABLE_FILES = {".parquet": "parquet", ".tar": "webdataset", ".arrow": "arrow"}
SHUFFLE_BUFFER = 1000  # encoded examples held in memory while streaming; shards are shuffled as well


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote the folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def is_table(folder: Path, files: list[Path], captions: Mapping[Path, Path], settings: SourceSettings) -> bool:
    """Whether the folder, with these files in it, is read by its tables or metadata; tables beside class folders are not.

    Raises:
        InputError: both its sub-folders and its metadata may say the classes.
    """
    if settings.layout != "auto" or is_saved(folder):
        return settings.layout in ("auto", "table")
    metadata = metadata_of(folder, files)
    if not metadata and not table_files(files):
        return False
    pictures = pictures_of(files)
    if len(class_names(pictures)) > 1:
        columns = (settings.image_column, settings.label_column, settings.caption_column)
        if not metadata or settings.captions_first or any(columns):
            return bool(metadata)
        raise InputError(
            f'{folder}: the labels may be those of {metadata[0]} (set data.layout = "table"), or its sub-folders may be classes '
            '(set data.layout = "classes")'
        )
    return bool(metadata) or not are_captions(pictures, captions, settings)


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
    rows, bases = opened(path, settings, files)
    if rows.features is None:
        raise InputError(f"{path}: `datasets` does not say which columns it has: convert it to parquet")
    image = image_of(rows.features, settings)
    caption = caption_of(rows.features, settings) if settings.captions_first else None
    label = caption or label_of(rows.features, settings)
    rows = rows.select_columns([image, label])
    if isinstance(rows.features[image], datasets.Image):  # left as bytes or paths, which decoding.py decodes
        rows = rows.cast_column(image, datasets.Image(decode=False))
    raw, length = partial(examples, rows, image, label, path, bases), len(rows) if isinstance(rows, datasets.Dataset) else None
    if caption:
        return captioned(path, raw, length)
    known = known_classes(label, rows.features, settings)
    if not bases:  # of shards: an example that lacks its label is left out, as one that lacks its caption
        return Source("datasets", path, known, lambda seed, epoch: map(labelled, raw(seed, epoch)), length)
    return Source("datasets", path, known, raw, length)


def opened(path: str, settings: SourceSettings, files: list[Path] | None) -> tuple[Any, list[Path]]:
    """The Dataset or IterableDataset, and the folders of its files, to which paths in it are relative: none of shards.

    What lies on this machine is always read as a stream, which leaves no copy in a cache.
    """
    import datasets

    here, split = Path(path).expanduser(), settings.split
    name, saved = split.partition("[")[0], is_saved(here)
    lazy = settings.streaming or (here.exists() and "[" not in split)  # train[:10%] needs the whole
    tables = [here] if here.is_file() else [] if saved else files_of_split(here, files or [], name)
    bases = list(dict.fromkeys(file.parent for file in tables)) or [here]
    shards = bool(tables) and lazy and tables[0].suffix.lower() == ".tar"
    try:
        if saved:
            rows = datasets.load_from_disk(str(here))
        elif shards:
            rows, bases = open_tars(tables, (settings.label_column, settings.caption_column)), []
        elif tables:
            builder = TABLE_FILES[tables[0].suffix.lower()]
            rows = datasets.load_dataset(builder, data_files={name: list(map(str, tables))}, split=split, streaming=lazy)
        else:
            rows = datasets.load_dataset(str(here) if here.exists() else path, split=split, streaming=lazy)
    except Exception as error:  # `datasets` passes on whatever its parts raise
        what = "cannot be opened" if here.exists() else "is neither a file or folder here nor a data set that the hub hands out"
        raise InputError(f"'{path}' {what} ({first_line(error)}): check data.path, data.split and the network") from error
    if not isinstance(rows, datasets.DatasetDict):
        return rows, bases
    if split not in rows:
        raise InputError(f"{path} has no split '{split}': set data.split to one of {', '.join(map(str, rows))}")
    return rows[split], bases


def has_card(folder: Path) -> bool:
    """Whether a README.md of a data set says which files are of which split."""
    card = folder / "README.md"
    return card.is_file() and "data_files:" in card.read_text(encoding="utf-8", errors="replace")


def files_of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    """The tables of a split, by the words in their names; [] where metadata or a card say what the files of the folder are.

    Raises:
        InputError: some names say a split and others none, there is no such split, or there are tables of two kinds.
    """
    tables = table_files(files)
    if metadata_of(folder, files) or has_card(folder):
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


def examples(
    rows: Any, image: str, label: str, path: str, bases: Sequence[Path], seed: int | None, epoch: int
) -> Iterator[Example]:
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
            yield as_example(row[image], row[label], bases)
    except Exception as error:  # a truncated parquet or tar: what follows in the shard is lost
        raise InputError(
            f"'{path}' cannot be read to its end ({first_line(error)}): replace or remove the damaged shard"
        ) from error


def labelled(example: Example) -> Example:
    """The example, with a fault where it has no label."""
    return replace(example, fault="it has no label") if example.label is None else example


def as_example(cell: Any, label: Any, bases: Sequence[Path]) -> Example:
    """One cell of an undecoded column of pictures: bytes, a dict of bytes and path, or a path, relative to one of the folders."""
    if isinstance(cell, str):
        cell = {"path": cell}
    data, name = (cell.get("bytes"), cell.get("path") or "") if isinstance(cell, dict) else (cell, "")
    if data is None and name:
        places = [base / Path(name).expanduser() for base in bases]
        data = name if "://" in name else next((place for place in places if place.exists()), places[0])
    return Example(data, label, name)
