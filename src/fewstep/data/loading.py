"""Opening training data: from where it lies to Data or StreamingData."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewstep.data import fingerprints
from fewstep.data.bucketed import BucketedPictures, gather_in_buckets
from fewstep.data.buckets import Buckets
from fewstep.data.class_names import check_classes
from fewstep.data.datasets import Data, StreamingData
from fewstep.data.decoding import Size, gather, shortened, sides
from fewstep.data.folders import files_below, open_folder, other_files, pictures_of
from fewstep.data.listings import LISTS, metadata_of, open_listing
from fewstep.data.sidecars import sidecars
from fewstep.data.sources import MEMORY_LIMIT, Source, SourceSettings, digits, looks_like_hub_id, npz, resolve
from fewstep.data.summary import contents_of, summary
from fewstep.data.tables import TABLE_FILES, has_card, is_table, open_table, table_files
from fewstep.errors import InputError, check_whole_number, nearest, shown
from fewstep.files import os_errors, path_of
from fewstep.progress import to_stderr

__all__ = ["Data", "StreamingData", "open_data"]
NAMED = {"digits": digits}
ARCHIVES = {".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}


@os_errors()
def open_data(
    *,
    name: str | None = None,
    path: str | None = None,
    size: int | None = None,
    channels: int | None = None,
    split: str = "train",
    layout: str = "auto",
    image_column: str | None = None,
    label_column: str | None = None,
    caption_column: str | None = None,
    captions: bool = False,
    classes: Sequence[str] | None = None,
    streaming: bool = False,
    flip: bool = False,
    seed: int = 0,
    memory_limit: int = MEMORY_LIMIT,
    report: Callable[[str], None] = to_stderr,
) -> Data | StreamingData:
    """The data of `name` ("digits") or `path`: a folder with a sub-folder a class, an .npz, or anything that `datasets` opens.

    Pictures are cropped to their central square and resized to `size` pixels; None keeps the size that all of them share.
    `channels` is 1, 3 or None for the source's own. `flip` mirrors half of the pictures, drawn anew each epoch. Unless
    `streaming`, all are decoded now, into `memory_limit` bytes at most. `classes` names labels that are plain numbers. Pictures
    that cannot be read are left out, and `report` is called with a line that says what is read and left out (`summary`). With `captions`, or a
    `caption_column`, captions are looked for first: each distinct one is then a class. `layout` says how a folder is read where
    its names allow two readings: "classes", "splits", "captions" or "table".

    Raises:
        InputError: an argument is out of bounds, or the data are missing, unreadable, unlabelled, too large or of one class.
    """
    if size is not None:
        check_whole_number("data.size", size, 1, 8192)
    if not isinstance(channels, int | None) or channels not in (None, 1, 3):
        raise InputError(f"data.channels = {shown(channels)} is neither 1 (grey) nor 3 (colour): set one of them, or leave it out")
    check_whole_number("seed", seed, 0, (1 << 63) - 1)
    check_whole_number("memory_limit", memory_limit, 1)
    given = {"name": name, "split": split, "layout": layout}
    given |= {"image_column": image_column, "label_column": label_column, "caption_column": caption_column}
    for key, value in given.items():
        if not isinstance(value, str | None):
            raise InputError(f"data.{key} = {shown(value)} is no text: set it to a name, or leave it out")
    for key, value in (("streaming", streaming), ("captions", captions), ("flip", flip)):
        if not isinstance(value, bool):
            raise InputError(f"data.{key} = {shown(value)} is neither true nor false: set one of them")
    if classes is not None and (not isinstance(classes, list | tuple) or not all(isinstance(known, str) for known in classes)):
        raise InputError(f"data.classes = {shown(classes)} are no names: give a list of text")
    columns, names = (image_column, label_column, caption_column), tuple(classes) if classes else None
    settings = SourceSettings(name, path, split, layout, *columns, names, streaming, captions, memory_limit)
    data = open_settings(settings, size, channels, flip, seed, report)
    if contents_of(data).left_out:
        report(summary(data))
    return data


def open_settings(
    settings: SourceSettings,
    size: Size,
    channels: int | None,
    flip: bool,
    seed: int,
    report: Callable[[str], None] = to_stderr,
) -> Data | StreamingData:
    """As `open_data`, of settings that are checked; what is left out is in the data alone."""
    source = open_source(settings)
    if not settings.streaming:
        return load(source, size, channels, flip, seed, settings)
    if source.kind == "captions":
        raise InputError("data.streaming = true: captions are streamed into a cache alone: leave data.on_the_fly = false")
    if source.pixels is not None:
        raise InputError(f"data.streaming = true: {source.path} is held in memory whole: set data.streaming = false")
    if size is None:
        raise InputError("data.streaming = true needs a size: set data.size to the size to train at")
    return StreamingData(source, size, channels, flip, seed, report)


def open_source(settings: SourceSettings) -> Source:
    """The pictures that the settings name, not yet decoded, with captions or with classes; raises InputError as `open_data` does."""
    name, split = settings.name, settings.split
    path = str(settings.path if settings.path is None else path_of("data.path", settings.path))
    if (name is None) == (settings.path is None):
        raise InputError("data needs one of data.path and data.name: set data.path, or data.name = 'digits'")
    if name is not None:
        if name not in NAMED:
            raise InputError(f"unknown data.name = '{name}': {nearest(name, NAMED)} (a folder, file or hub id goes in data.path)")
        if split != "train":
            raise InputError(f"data.name = '{name}' has no split '{split}': leave data.split at 'train'")
        return NAMED[name]()
    place = Path(path).expanduser()
    if not place.exists():
        if not looks_like_hub_id(path):
            raise InputError(f"there is no file or folder '{path}': check data.path")
        return open_table(settings)
    if not place.is_dir() and not place.is_file():
        raise InputError(f"{path} is neither a folder nor a regular file: check data.path")
    file = place / f"{split}.npz" if (place / f"{split}.npz").is_file() else place
    if file.is_dir():
        return open_layout(place, settings)
    if file.suffix.lower() in TABLE_FILES:
        return open_table(settings)
    if file.suffix.lower() in LISTS:
        return open_listing(file.parent, [Path(file.name)], settings)
    settings.check_no_column()
    if file.suffix.lower() == ".npz":
        return npz(file, settings)
    remedy = (
        "unpack it, and give the folder" if place.suffix.lower() in ARCHIVES else "give a folder, an .npz, a .parquet or a .tar"
    )
    raise InputError(f"{path} is a file of type '{place.suffix}': {remedy}")


def open_layout(folder: Path, settings: SourceSettings) -> Source:
    """What a folder holds: tables, or pictures that metadata list, else pictures by themselves.

    Raises:
        InputError: as `open_folder` and the others do; or the pictures are in an archive.
    """
    files = files_below(folder)
    pictures, metadata, tables = pictures_of(files), metadata_of(folder, files), table_files(files)
    archives = [file for file in files if file.suffix.lower() in ARCHIVES]
    if archives and not pictures and not tables:
        lists = f" (those that {metadata[0]} lists)" if metadata else ""
        raise InputError(f"{folder}: the pictures{lists} are in {archives[0]}: unpack it there, archives are not read")
    captions = sidecars(folder, files, pictures, settings.caption_column) if settings.captions_first else {}
    if is_table(folder, files, captions, settings):
        if metadata and not has_card(folder) and "[" not in settings.split:
            return open_listing(folder, metadata, settings, files)
        left = [f"{len(pictures)} pictures beside tables ({pictures[0]}, ...)"] if pictures and not metadata else []
        others = [file for file in files if file.name != "classes.json"] if tables else []
        return replace(source := open_table(settings, files), left_out=(*source.left_out, *left, *other_files(others)))
    settings.check_no_column(keys=any(file.suffix.lower() == ".json" for file in captions.values()))
    source = open_folder(folder, files, captions, settings)
    if not tables:
        return source
    beside = f'{len(tables)} tables beside pictures ({tables[0]}, ...): data.layout = "table" reads them'
    return replace(source, left_out=(*source.left_out, beside))


def load(source: Source, size: Size, channels: int | None, flip: bool, seed: int, settings: SourceSettings) -> Data:
    """All of the source decoded in memory; raises InputError as `open_data` does."""
    pixels, labels, skipped, several = source.pixels, source.labels, [], 0
    fits = pixels is not None and pixels.shape[1:] == (channels or pixels.shape[1], *sides(size or pixels.shape[3]))
    if pixels is None or labels is None or not fits:
        pixels, labels, skipped, several = gather(source.examples(None, 0), size, channels, settings.memory_limit, source.total)
    index, classes, left = indexed(labels, source, skipped, several)
    images, labels = torch.from_numpy(pixels), torch.from_numpy(index)
    named = list(classes) if source.kind != "captions" else []
    facts = {"images": len(labels), "classes": named, "size": pixels.shape[3], "channels": pixels.shape[1]}
    facts |= {"skipped": len(skipped), "sha256": fingerprints.of_pictures(images, labels, classes)}
    return Data(images, labels, classes, tuple(skipped), source.describe(**facts), flip, seed, left)


def load_buckets(settings: SourceSettings, buckets: Buckets, channels: int, flip: bool, seed: int) -> BucketedPictures:
    """All of the pictures that the settings name, decoded in memory in buckets; raises InputError as `open_data` does."""
    source = open_source(settings)
    found = gather_in_buckets(source.examples(None, 0), buckets, channels, settings.memory_limit)
    pixels, placed, labels, skipped, several = found
    index, classes, left = indexed([label for part in labels for label in part], source, skipped, several)
    named = list(classes) if source.kind != "captions" else []
    facts = source.describe(images=len(index), classes=named, channels=channels, skipped=len(skipped), sha256=None)
    known = classes, tuple(skipped), facts, flip, seed, left
    of_buckets = np.split(index, np.cumsum([len(part) for part in labels])[:-1])
    parts = [Data(torch.from_numpy(x), torch.from_numpy(k), *known) for x, k in zip(pixels, of_buckets, strict=True)]
    return BucketedPictures(buckets, tuple(parts), tuple(map(tuple, placed)))


def indexed(
    labels: Sequence[Any], source: Source, skipped: list[str], several: int
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Labels int64 (n,) of a source's pictures, the classes that they index, and what is left out; raises InputError as `open_data` does."""
    index, classes = resolve(labels, source.classes, source.path)
    here = np.unique(index)
    if source.kind != "captions":
        check_classes([classes[k] for k in here], source.path)
    left = list(source.left_out)
    if skipped:
        left.append(f"{len(skipped)} of {len(skipped) + len(labels)} pictures, which cannot be used ({shortened(skipped)})")
    if several:
        left.append(f"the other captions of {several} pictures with several, of which the first is taken")
    if absent := [classes[k] for k in np.setdiff1d(np.arange(len(classes)), here)]:
        left.append(f"{len(absent)} of the {len(classes)} classes, which have no picture ({', '.join(absent[:10])})")
    return index, classes, tuple(left)
