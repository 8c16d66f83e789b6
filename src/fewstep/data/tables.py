"""What the `datasets` library opens: parquet, tar shards, save_to_disk, folders with metadata, data sets on the hub."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fewstep.data.decoding import Example
from fewstep.data.sources import Source, named_beside
from fewstep.errors import InputError, nearest

IMAGE_NAMES = ("image", "img", "images", "jpg", "jpeg", "png", "webp", "picture", "pixel_values")
LABEL_NAMES = ("label", "labels", "fine_label", "cls", "class", "class_label")
TABLE_FILES = {".parquet": "parquet", ".tar": "webdataset", ".arrow": "arrow"}
METADATA = {"metadata.csv", "metadata.jsonl"}
SHUFFLE_BUFFER = 1000  # encoded examples held in memory while streaming; shards are shuffled as well


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote the folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def is_table(folder: Path, files: list[Path]) -> bool:
    """Whether the folder, with these files in it, is for `datasets` to open."""
    return is_saved(folder) or any(file.suffix.lower() in TABLE_FILES or file.name.lower() in METADATA for file in files)


def table(
    path: str,
    *,
    split: str,
    streaming: bool,
    image_column: str | None,
    label_column: str | None,
    classes: tuple[str, ...] | None,
) -> Source:
    """The examples of a file, a folder or a hub id, by way of `datasets`.

    A column of type Image, else one with a usual name, holds the pictures; one of type ClassLabel, else one with a usual name,
    the labels. Class names: of the ClassLabel, else `classes`, else classes.json in a folder, else left to a pass over the labels.

    Raises:
        InputError: it cannot be opened or reached, has no such split or column, or streams labels whose classes nobody names.
    """
    rows = opened(path, split, streaming)
    if rows.features is None:
        raise InputError(f"{path}: `datasets` does not say which columns it has: convert it to parquet")
    image, label = image_of(rows.features, image_column, path), label_of(rows.features, label_column, path)
    names = getattr(rows.features[label], "names", None)
    here = Path(path).expanduser()
    known = tuple(names) if names else classes or (named_beside(here if here.is_dir() else here.parent) if here.exists() else None)
    if streaming and known is None:
        remedy = 'set data.classes = ["first", ...] or data.streaming = false'
        raise InputError(f"{path}: column '{label}' has plain labels, so a stream cannot know the classes: {remedy}")
    return Source("datasets", path, known, partial(examples, undecoded(rows, image, label), image, label, path), length(rows))


def opened(path: str, split: str, streaming: bool) -> Any:
    """The Dataset or IterableDataset; what lies on this machine is always read as a stream, which leaves no copy in a cache."""
    import datasets

    here = Path(path).expanduser()
    lazy = streaming or (here.exists() and "[" not in split)  # train[:10%] needs the whole
    try:
        if here.is_dir() and is_saved(here):
            rows = datasets.load_from_disk(str(here))
            if isinstance(rows, datasets.DatasetDict):
                if split not in rows:
                    raise InputError(f"{path} has no split '{split}': set data.split to one of {', '.join(map(str, rows))}")
                rows = rows[split]
            return rows
        if here.is_file():
            data_files = {split: str(here)}
            return datasets.load_dataset(TABLE_FILES[here.suffix.lower()], data_files=data_files, split=split, streaming=lazy)
        return datasets.load_dataset(str(here) if here.exists() else path, split=split, streaming=lazy)
    except InputError:
        raise
    except Exception as error:  # `datasets` passes on whatever its parts raise
        what = "cannot be opened" if here.exists() else "is neither a file or folder here nor a data set that the hub hands out"
        raise InputError(f"'{path}' {what} ({brief(error)}): check data.path, data.split and the network") from error


def brief(error: Exception) -> str:
    """The error in one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def image_of(features: Any, wanted: str | None, path: str) -> str:
    """The name of the column with pictures."""
    import datasets

    columns = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if wanted is not None:
        if wanted not in features:
            raise InputError(f"{path} has no column '{wanted}' for data.image_column: {nearest(wanted, features)}")
        return wanted
    named = [name for name in IMAGE_NAMES if name in (columns or features)]
    if len(columns) == 1 or named:
        return columns[0] if len(columns) == 1 else named[0]
    raise InputError(f"{path} has no column that is plainly the picture: set data.image_column ({nearest('', features)})")


def label_of(features: Any, wanted: str | None, path: str) -> str:
    """The name of the column with labels: integers or names."""
    import datasets

    if wanted is not None and wanted not in features:
        raise InputError(f"{path} has no column '{wanted}' for data.label_column: {nearest(wanted, features)}")
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    named = [name for name in LABEL_NAMES if name in (typed or features)]
    found = wanted or (typed[0] if len(typed) == 1 else named[0] if named else None)
    if found is None:
        raise InputError(
            f"{path} has no column of labels: set data.label_column to one of integers or names ({nearest('', features)})"
        )
    feature = features[found]
    kind = getattr(feature, "dtype", None)
    if not isinstance(kind, str) or not (kind.startswith(("int", "uint")) or kind in ("string", "large_string")):
        raise InputError(
            f"{path}: the labels in column '{found}' are {kind or 'lists'}: set data.label_column to integers or names"
        )
    return found


def undecoded(rows: Any, image: str, label: str) -> Any:
    """Only the two columns, the pictures left as bytes or paths: decoding, and what cannot be decoded, is decoding.py's affair."""
    import datasets

    rows = rows.select_columns([image, label])
    return rows.cast_column(image, datasets.Image(decode=False)) if isinstance(rows.features[image], datasets.Image) else rows


def length(rows: Any) -> int | None:
    """How many rows there are, where that is known without reading them."""
    import datasets

    return len(rows) if isinstance(rows, datasets.Dataset) else None


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
    iterator: Iterator[Any] = iter(rows)
    while True:
        try:
            row = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # a truncated parquet or tar: what follows in the shard is lost
            raise InputError(f"'{path}' cannot be read to its end ({brief(error)}): replace or remove the damaged shard") from error
        yield as_example(row[image], row[label])


def as_example(cell: Any, label: Any) -> Example:
    """One cell of an undecoded column of pictures: bytes, or a dict of bytes and path."""
    data, name = (cell.get("bytes"), cell.get("path") or "") if isinstance(cell, dict) else (cell, "")
    if data is None and name:
        return Example(name if "://" in name else Path(name), label, name)
    return Example(data, label, name)
