"""Opening training data: from where it lies to Data or StreamingData."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from fewstep.data import fingerprints
from fewstep.data.datasets import Data, StreamingData, check_classes
from fewstep.data.decoding import gather, shortened
from fewstep.data.folders import files_below, open_folder, pictures_of
from fewstep.data.sources import MEMORY_LIMIT, Source, SourceSettings, digits, looks_like_hub_id, npz, resolve
from fewstep.data.tables import TABLE_FILES, is_table, metadata_of, open_table, table_files
from fewstep.errors import InputError, check_whole_number, nearest, shown
from fewstep.files import os_errors, path_of
from fewstep.progress import to_stderr

__all__ = ["Data", "StreamingData", "open_data"]
NAMED = {"digits": digits}


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
    that cannot be read are left out, and `report` is called with a line that counts and names them. With `captions`, or a
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
    settings = SourceSettings(name, path, split, layout, *columns, names, streaming, captions, memory_limit, report)
    source = open_source(settings)
    if not streaming:
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
    settings.check_no_column()
    if file.suffix.lower() == ".npz":
        return npz(file, settings)
    raise InputError(f"{path} is a file of type '{place.suffix}': give a folder, an .npz, a .parquet or a .tar")


def open_layout(folder: Path, settings: SourceSettings) -> Source:
    """What a folder holds: tables or metadata for `datasets`, else pictures; that the other of the two is left out is reported."""
    files = files_below(folder)
    if is_table(folder, files, settings):
        if (beside := pictures_of(files)) and not metadata_of(folder, files):
            settings.report(f"{folder}: left out: {len(beside)} pictures beside tables ({beside[0]}, ...)")
        return open_table(settings, files)
    settings.check_no_column()
    source = open_folder(folder, files, settings)
    if strays := table_files(files):
        beside = f"{len(strays)} tables beside pictures ({strays[0]}, ...)"
        settings.report(f'{folder}: left out: {beside}: data.layout = "table" reads them')
    return source


def load(source: Source, size: int | None, channels: int | None, flip: bool, seed: int, settings: SourceSettings) -> Data:
    """All of the source decoded in memory; raises InputError as `open_data` does."""
    pixels, labels, skipped, report = source.pixels, source.labels, [], settings.report
    fits = pixels is not None and pixels.shape[1:] == (channels or pixels.shape[1], *2 * (size or pixels.shape[3],))
    if pixels is None or labels is None or not fits:
        pixels, labels, skipped = gather(source.examples(None, 0), size, channels, settings.memory_limit, source.total)
    index, classes = resolve(labels, source.classes, source.path)
    here, named = np.unique(index), source.kind != "captions"
    if named:
        check_classes([classes[k] for k in here], source.path)
    if skipped:
        report(f"skipped {len(skipped)} of {len(skipped) + len(labels)} pictures that cannot be read: {shortened(skipped)}")
    if absent := [classes[k] for k in np.setdiff1d(np.arange(len(classes)), here)]:
        report(f"{source.path}: no picture of {len(absent)} of the {len(classes)} classes: {', '.join(absent[:10])}")
    images, labels = torch.from_numpy(pixels), torch.from_numpy(index)
    facts = {"images": len(labels), "classes": list(classes) if named else [], "size": pixels.shape[3], "channels": pixels.shape[1]}
    facts |= {"skipped": len(skipped), "sha256": fingerprints.of_pictures(images, labels, classes)}
    return Data(images, labels, classes, tuple(skipped), source.describe(**facts), flip, seed)
