"""Opening training data: from where it lies to Data or StreamingData."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fewstep.data import fingerprints, sources
from fewstep.data.captions import captioned
from fewstep.data.datasets import Data, StreamingData, check_classes, describe
from fewstep.data.decoding import gather
from fewstep.data.sources import Source
from fewstep.data.tables import TABLE_FILES, is_table, table
from fewstep.errors import InputError, nearest
from fewstep.progress import to_stderr

__all__ = ["Data", "StreamingData", "open_data"]
NAMED = {"digits": sources.digits}
MEMORY_LIMIT = 8 * 2**30  # bytes of decoded pictures


def open_data(
    *,
    name: str | None = None,
    path: str | None = None,
    size: int | None = None,
    channels: int | None = None,
    split: str = "train",
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
    `caption_column`, captions are looked for first: each distinct one is then a class.

    Raises:
        InputError: an argument is out of bounds, or the data are missing, unreadable, unlabelled, too large or of one class.
    """
    check_arguments(name, path, size, channels, seed)
    found = open_source(
        name, path, split, streaming, image_column, label_column, caption_column, captions, classes, memory_limit, report
    )
    if not streaming:
        return load(found, size, channels, flip, seed, memory_limit, report)
    if found.kind == "captions":
        raise InputError("data.streaming = true: captions are streamed into a cache alone: leave data.on_the_fly = false")
    if found.pixels is not None:
        raise InputError(f"data.streaming = true: {found.path} is held in memory whole: set data.streaming = false")
    if size is None:
        raise InputError("data.streaming = true needs a size: set data.size to the size to train at")
    return StreamingData(found, size, channels, flip, seed, report)


def open_source(
    name: str | None,
    path: str | None,
    split: str,
    streaming: bool,
    image_column: str | None,
    label_column: str | None,
    caption_column: str | None,
    captions: bool,
    classes: Sequence[str] | None,
    memory_limit: int = MEMORY_LIMIT,
    report: Callable[[str], None] = to_stderr,
) -> Source:
    """The pictures of `open_data`, not yet decoded: with captions where they are wanted and there, else with classes.

    Raises:
        InputError: as for `open_data`; or `caption_column` is given, and there are no captions.
    """
    given = tuple(classes) if classes else None
    if name is not None:
        if split != "train":
            raise InputError(f"data.name = '{name}' has no split '{split}': leave data.split at 'train'")
        return NAMED[name]()
    if caption_column is not None or (captions and label_column is None):
        limits = {"caption_column": caption_column, "memory_limit": memory_limit}
        found = captioned(str(path), split=split, streaming=streaming, image_column=image_column, **limits)
        if found is not None:
            return found
    try:
        return open_path(str(path), split, streaming, image_column, label_column, given, memory_limit, report)
    except InputError as error:
        if not captions or not Path(str(path)).expanduser().exists():
            raise
        raise InputError(
            f"{path} has no captions (a .txt beside each picture, or data.caption_column), and as classes: {error}"
        ) from None


def open_path(
    path: str,
    split: str,
    streaming: bool,
    image_column: str | None,
    label_column: str | None,
    classes: tuple[str, ...] | None,
    memory_limit: int,
    report: Callable[[str], None],
) -> Source:
    """The source that the path is, told by what lies there.

    Raises:
        InputError: nothing usable does.
    """
    place = Path(path).expanduser()
    as_table = partial(
        table, path, split=split, streaming=streaming, image_column=image_column, label_column=label_column, classes=classes
    )
    if place.is_file():
        if place.suffix.lower() == ".npz":
            return sources.npz(place, classes, memory_limit)
        if place.suffix.lower() in TABLE_FILES:
            return as_table()
        raise InputError(f"{path} is a file of type '{place.suffix}': give a folder, an .npz, a .parquet or a .tar")
    if place.is_dir():
        if (place / f"{split}.npz").is_file():
            return sources.npz(place / f"{split}.npz", classes, memory_limit)
        files = sources.files_below(place)
        if is_table(place, files):
            return as_table()
        return sources.class_folders(place, files, split, report)
    if not sources.looks_like_hub_id(path):
        raise InputError(f"there is no file or folder '{path}': check data.path")
    return as_table()


def load(
    source: Source, size: int | None, channels: int | None, flip: bool, seed: int, memory_limit: int, report: Callable[[str], None]
) -> Data:
    """All of the source decoded in memory.

    Raises:
        InputError: as for `open_data`.
    """
    pixels, labels, skipped = source.pixels, source.labels, []
    if (
        pixels is None
        or labels is None
        or pixels.shape != (len(labels), channels or pixels.shape[1], *2 * (size or pixels.shape[3],))
    ):
        pixels, labels, skipped = gather(source.examples(None, 0), size, channels, memory_limit, source.total)
    index, classes = sources.resolve(labels, source.classes, source.path)
    if source.kind != "captions":
        check_classes(len(np.unique(index)), source.path, tuple(classes[k] for k in np.unique(index)))
    if skipped:
        shown = "; ".join(skipped[:5]) + (f"; and {len(skipped) - 5} more" if len(skipped) > 5 else "")
        report(f"skipped {len(skipped)} of {len(skipped) + len(labels)} pictures that cannot be read: {shown}")
    if absent := [classes[k] for k in np.setdiff1d(np.arange(len(classes)), index)]:
        report(f"{source.path}: no picture of {len(absent)} of the {len(classes)} classes: {', '.join(absent[:10])}")
    images, labels = torch.from_numpy(pixels), torch.from_numpy(index)
    words = describe(
        source,
        len(labels),
        () if source.kind == "captions" else classes,
        pixels.shape[3],
        pixels.shape[1],
        len(skipped),
        fingerprints.of_pictures(images, labels, classes),
    )
    return Data(images, labels, classes, tuple(skipped), words, flip, seed)


def check_arguments(name: str | None, path: str | None, size: int | None, channels: int | None, seed: int) -> None:
    """Raises InputError where an argument of `open_data` is out of bounds."""
    if (name is None) == (path is None):
        raise InputError("data needs one of data.path and data.name: set data.path, or data.name = 'digits'")
    if name is not None and name not in NAMED:
        raise InputError(f"unknown data.name = '{name}': {nearest(name, NAMED)} (a folder, file or hub id goes in data.path)")
    if size is not None and not 1 <= size <= 8192:
        raise InputError(f"data.size = {size} is outside 1..8192: set it to the size in pixels to train at")
    if channels not in (None, 1, 3):
        raise InputError(f"data.channels = {channels} is neither 1 (grey) nor 3 (colour): set one of them, or leave it out")
    if seed < 0:
        raise InputError(f"the seed {seed} is negative: give 0 or more")
