"""Where pictures and labels come from: handwritten digits, an .npz, a folder with a sub-folder a class (the rest: tables.py)."""

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.data.decoding import Example, check_memory
from fewstep.errors import InputError
from fewstep.models.metadata import bundled

# fmt: off
PICTURES = {
    ".apng", ".avif", ".bmp", ".cur", ".dds", ".dib", ".gif", ".icns", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".ras", ".sgi", ".tga", ".tif", ".tiff", ".webp", ".xbm",
}
# fmt: on
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
MOST_CLASSES = 100_000  # more than this is an identifier that was taken for a label


@dataclass(frozen=True)
class Source:
    """Pictures with labels, not yet decoded."""

    kind: str
    path: str
    classes: tuple[str, ...] | None  # names in the order of the labels; None where only a pass over the labels tells
    examples: Callable[[int | None, int], Iterator[Example]]  # (seed, epoch): shuffled; (None, 0): in the order of the source
    total: int | None = None  # how many, unreadable ones included, where that is known beforehand
    pixels: np.ndarray | None = None  # uint8 (n, c, h, w) where it is all in memory already
    labels: Sequence[Any] | None = None  # with `pixels`


def shuffled(total: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation int64 (total,) of one epoch, a pure function of its arguments."""
    return np.random.default_rng((seed, epoch)).permutation(total)


def resolve(labels: Sequence[Any], classes: tuple[str, ...] | None, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """int64 (n,) indices into the classes, and the classes: given, else names in alphabetical order, else "0", "1", ... .

    Raises:
        InputError: a label is missing, not an integer or a name, or not among the classes.
    """
    for label in labels:
        if label is None or (not isinstance(label, str) and label == -1):
            raise InputError(f"{where}: an example has no label ({label!r}): leave such examples out, or choose another data.split")
        if isinstance(label, bool) or not isinstance(label, str | int | np.integer):
            raise InputError(f"{where}: the label {label!r} is not an integer or a name: set data.label_column to one that is")
    named = [label for label in labels if isinstance(label, str)]
    if named and len(named) < len(labels):
        raise InputError(f"{where}: some labels are names ('{named[0]}'), others numbers: make them all of one kind")
    if named:
        classes = classes or tuple(sorted(set(named)))
        index = {name: k for k, name in enumerate(classes)}
        if unknown := sorted(set(named) - set(index)):
            raise InputError(f"{where}: the label '{unknown[0]}' is not among the {len(classes)} classes: add it to data.classes")
        return np.array([index[name] for name in named], dtype=np.int64), classes
    low, high = (min(labels), max(labels)) if len(labels) else (0, -1)
    limit = len(classes) if classes else MOST_CLASSES
    if low < 0 or high >= limit:
        bad = low if low < 0 else high
        raise InputError(
            f"{where}: the label {bad} is outside 0..{limit - 1}: number the classes from 0, or name all in data.classes"
        )
    return np.asarray(labels, dtype=np.int64), classes or tuple(str(k) for k in range(int(high) + 1))


def in_memory(kind: str, path: str, pixels: np.ndarray, labels: Sequence[Any], classes: tuple[str, ...] | None) -> Source:
    """A source of uint8 pixels (n, c, h, w)."""

    def examples(seed: int | None, epoch: int) -> Iterator[Example]:
        for k in range(len(pixels)) if seed is None else shuffled(len(pixels), seed, epoch):
            yield Example(pixels[k, 0] if pixels.shape[1] == 1 else pixels[k].transpose(1, 2, 0), labels[k], f"images[{k}]")

    return Source(kind, path, classes, examples, len(pixels), pixels, labels)


def digits() -> Source:
    """1,797 handwritten digits (E. Alpaydin and C. Kaynak, UCI, CC BY 4.0), 8 x 8, one channel, 10 classes; no download."""
    with np.load(bundled("digits.npz")) as file:
        values, labels = file["images"].astype(np.float64), file["labels"]  # 0..16
    pixels = np.rint(values * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return in_memory("digits", "digits", pixels, labels.tolist(), tuple("0123456789"))


def arrays_of(path: Path, wanted: set[str], limit: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Those of the wanted arrays that an .npz has, and the names of all that it has.

    Raises:
        InputError: the file is damaged, pickled or too large.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:  # numpy leaves a damaged path open
            found = list(file.files)
            for key in wanted & set(found):
                check_memory(file.zip.getinfo(f"{key}.npy").file_size, limit)
                arrays[key] = file[key]
    except InputError:
        raise
    except Exception as error:  # zipfile, lzma, struct, EOFError, ValueError for pickles, AttributeError for a bare .npy
        kind = "not a zip archive" if not zipfile.is_zipfile(path) else " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as an .npz ({kind}): write it anew with numpy.savez, without objects") from error
    return arrays, found


def npz(path: Path, classes: tuple[str, ...] | None, limit: int) -> Source:
    """The arrays of an .npz: `images` (n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w); `labels` (n,) integers; perhaps `classes`.

    `images` are integers in 0..255 or floats in 0..1. Names of classes: `classes` given, in the file, or in classes.json beside it.

    Raises:
        InputError: the file is damaged, pickled or too large, or an array is missing or of the wrong shape, type or range.
    """
    arrays, found = arrays_of(path, {"images", "labels", "classes"}, limit)
    for key in ("images", "labels"):
        if key not in arrays:
            raise InputError(f"{path} has no array '{key}' (it has: {', '.join(found) or 'none'}): add it with numpy.savez")
    pixels, labels = as_uint8(arrays["images"], path), arrays["labels"]
    if labels.shape != pixels.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        need = f"need integers of shape ({len(pixels)},), one an image"
        raise InputError(f"labels of {path} are {labels.dtype} of shape {labels.shape}: {need}")
    names = classes or (tuple(map(str, arrays["classes"].ravel())) if "classes" in arrays else named_beside(path.parent))
    return in_memory("npz", str(path), pixels, labels.tolist(), names)


def as_uint8(images: np.ndarray, path: Path) -> np.ndarray:
    """The images of an .npz as uint8 (n, c, h, w)."""
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        shapes = "(n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w) with n > 0"
        raise InputError(f"images of {path} have the shape {images.shape}: need {shapes}")
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    high = 255 if np.issubdtype(images.dtype, np.integer) else 1 if np.issubdtype(images.dtype, np.floating) else None
    if high is None or not (images.min() >= 0 and images.max() <= high):  # so written, not-a-number is refused too
        values = f"{images.dtype} from {images.min()} to {images.max()}" if high else str(images.dtype)
        raise InputError(f"images of {path} are {values}: need integers in 0..255 or floats in 0..1")
    return np.ascontiguousarray(np.rint(images.astype(np.float32) * (255 / high)).astype(np.uint8))


def named_beside(folder: Path) -> tuple[str, ...] | None:
    """The names in classes.json of the folder, a JSON list; None where there is no such file.

    Raises:
        InputError: it is not a list of names.
    """
    file = folder / "classes.json"
    if not file.is_file():
        return None
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not JSON ({error}): write a list of names, or remove it") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f'{file} is not a list of names: write ["first", "second", ...], or remove it')
    return tuple(names)


def files_below(folder: Path) -> list[Path]:
    """All files below the folder that are not hidden, relative to it, sorted; links are followed, save into a folder above."""
    found, real = [], {}
    for root, folders, names in os.walk(folder, followlinks=True):
        real[root] = os.path.realpath(root)
        if any(real.get(str(parent)) == real[root] for parent in Path(root).parents):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        found += [Path(root, name).relative_to(folder) for name in names if not name.startswith(".")]
    return sorted(found)


def of_split(folder: Path, pictures: list[Path], split: str, depth: int) -> tuple[Path, list[Path]]:
    """The folder and the pictures of a split, where all pictures lie in such folders, `depth` names deep at least; else all of them.

    Raises:
        InputError: there is no such split.
    """
    names = {alias for aliases in SPLITS.values() for alias in aliases}
    if all(len(file.parts) >= depth and file.parts[0] in names for file in pictures):
        here = sorted({file.parts[0] for file in pictures})
        chosen = next((name for name in SPLITS.get(split, (split,)) if name in here), None)
        if chosen is None:
            raise InputError(f"{folder} has no split '{split}': set data.split to one of {', '.join(here)}")
        return folder / chosen, [file.relative_to(chosen) for file in pictures if file.parts[0] == chosen]
    if split != "train":
        raise InputError(f"{folder} has no splits, so no '{split}': give the folder of that split as data.path")
    return folder, pictures


def class_folders(folder: Path, files: list[Path], split: str, report: Callable[[str], None]) -> Source:
    """Pictures in one sub-folder a class, at any depth, or in such a folder for each split; labels follow the sorted names.

    Raises:
        InputError: there are no pictures, no sub-folders, or no such split.
    """
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    if not pictures:
        raise InputError(f"{folder} holds no pictures ({len(files)} other files): put the pictures of each class in a sub-folder")
    folder, pictures = of_split(folder, pictures, split, depth=3)
    if outside := [file for file in pictures if len(file.parts) == 1]:
        if len(outside) == len(pictures):
            raise InputError(
                f"the {len(pictures)} pictures of {folder} lie in no sub-folder: put those of each class in a sub-folder"
            )
        report(f"{folder}: {len(outside)} pictures outside the sub-folders are left out ({outside[0]}, ...)")
    pictures = [file for file in pictures if len(file.parts) > 1]
    classes = tuple(sorted({file.parts[0] for file in pictures}))
    empty = {e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith((".", "__"))} - set(classes)
    if empty:
        report(f"{folder}: sub-folders without pictures are no classes: {', '.join(sorted(empty))}")
    label = {name: k for k, name in enumerate(classes)}

    def examples(seed: int | None, epoch: int) -> Iterator[Example]:
        for k in range(len(pictures)) if seed is None else shuffled(len(pictures), seed, epoch):
            yield Example(folder / pictures[k], label[pictures[k].parts[0]], pictures[k].as_posix())

    return Source("folder", str(folder), classes, examples, len(pictures))


def looks_like_hub_id(path: str) -> bool:
    """Whether the text has the form of a data set's name on the hub: `name` or `owner/name`."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", path) is not None
