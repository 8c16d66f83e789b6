"""What a source of training pictures is, and those that are arrays: handwritten digits and .npz (others: folders.py, tables.py)."""

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.data.decoding import Example, check_memory
from fewstep.data.sidecars import one_caption
from fewstep.errors import InputError, first_line
from fewstep.models.metadata import bundled

MOST_CLASSES = 100_000  # more than this is an identifier that was taken for a label
MEMORY_LIMIT = 8 * 2**30  # bytes of decoded pictures
NO_CAPTION = "it has no caption"
Examples = Callable[[int | None, int], Iterator[Example]]  # of (seed, epoch): shuffled; of (None, 0): in the order of the source


@dataclass(frozen=True)
class SourceSettings:
    """Where pictures lie and what is read of them: the keys of a recipe's `[data]`."""

    name: str | None = None  # built-in data: "digits"
    path: str | None = None
    split: str = "train"
    layout: str = "auto"  # of a folder: or "classes", "splits", "captions", "table"
    image_column: str | None = None
    label_column: str | None = None
    caption_column: str | None = None
    classes: tuple[str, ...] | None = None
    streaming: bool = False
    captions: bool = False  # captions are looked for before classes, as for a teacher of text
    memory_limit: int = MEMORY_LIMIT

    @property
    def captions_first(self) -> bool:
        """Whether captions are taken where there are any."""
        return self.layout == "captions" or self.caption_column is not None or (self.captions and self.label_column is None)

    @property
    def but(self) -> str:
        """How a message begins that says why something cannot be read as classes, where captions were looked for first."""
        return "has no captions (a .txt beside each picture, or data.caption_column), and " if self.captions_first else ""

    def check_no_column(self, keys: bool = False) -> None:
        """Raises InputError where a column of captions is named of what has neither columns nor `keys`."""
        if self.caption_column is not None and not keys:
            raise InputError(f"{self.path} has no columns, so no '{self.caption_column}': leave data.caption_column out")


@dataclass(frozen=True)
class Source:
    """Pictures with labels or captions, not yet decoded."""

    kind: str
    path: str
    classes: tuple[str, ...] | None  # names in the order of the labels; None where only a pass over the labels tells
    examples: Examples
    total: int | None = None  # how many, unreadable ones included, where that is known beforehand
    pixels: np.ndarray | None = None  # uint8 (n, c, h, w) where it is all in memory already
    labels: Sequence[Any] | None = None  # with `pixels`
    left_out: tuple[str, ...] = ()  # what lies there and is not read: how much, what, and perhaps why

    def describe(self, **facts: Any) -> dict[str, Any]:
        """The kind and path, and facts of the decoded data, for JSON."""
        return {"kind": self.kind, "path": self.path} | facts


def numbered(kind: str, path: str, classes: tuple[str, ...] | None, example: Callable[[int], Example], total: int) -> Source:
    """A source that gives the example of each number from 0 to total - 1."""

    def examples(seed: int | None, epoch: int) -> Iterator[Example]:
        return map(example, range(total) if seed is None else shuffled(total, seed, epoch))

    return Source(kind, path, classes, examples, total)


def shuffled(total: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation int64 (total,) of one epoch, a pure function of its arguments."""
    return np.random.default_rng((seed, epoch)).permutation(total)


def captioned(path: str, examples: Examples, total: int | None) -> Source:
    """A source of examples whose labels are captions, of several the first; one without has a fault, so that it is left out and named."""

    def first_caption(example: Example) -> Example:
        caption, others = one_caption(example.label)
        return replace(example, label=caption, others=others, fault=example.fault or ("" if caption else NO_CAPTION))

    return Source("captions", path, None, lambda seed, epoch: map(first_caption, examples(seed, epoch)), total)


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
    low, high, limit = min(labels, default=0), max(labels, default=-1), len(classes or ()) or MOST_CLASSES
    if low < 0 or high >= limit:
        outside = f"the label {low if low < 0 else high} is outside 0..{limit - 1}"
        raise InputError(f"{where}: {outside}: number the classes from 0, or name all in data.classes")
    return np.asarray(labels, dtype=np.int64), classes or tuple(str(k) for k in range(int(high) + 1))


def in_memory(kind: str, path: str, pixels: np.ndarray, labels: Sequence[Any], classes: tuple[str, ...] | None) -> Source:
    """A source of uint8 pixels (n, c, h, w)."""

    def example(k: int) -> Example:
        return Example(pixels[k, 0] if pixels.shape[1] == 1 else pixels[k].transpose(1, 2, 0), labels[k], f"images[{k}]")

    return replace(numbered(kind, path, classes, example, len(pixels)), pixels=pixels, labels=labels)


def digits() -> Source:
    """1,797 handwritten digits (E. Alpaydin and C. Kaynak, UCI, CC BY 4.0), 8 x 8, one channel, 10 classes; no download."""
    with np.load(bundled("digits.npz")) as file:
        values, labels = file["images"].astype(np.float64), file["labels"]  # 0..16
    pixels = np.rint(values * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return in_memory("digits", "digits", pixels, labels.tolist(), tuple("0123456789"))


def npz(path: Path, settings: SourceSettings) -> Source:
    """The arrays of an .npz: `images` (n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w); `labels` or `captions` (n,); `classes`.

    `images` are integers in 0..255 or floats in 0..1. Names of classes: those of the settings, in the file, or in classes.json.

    Raises:
        InputError: the file is damaged, pickled or too large, or an array is missing or of the wrong shape, type or range.
    """
    arrays, found = arrays_of(path, settings.memory_limit)
    key = "captions" if settings.captions_first and "captions" in arrays else "labels"
    for name in ("images", key):
        if name not in arrays:
            has = f"has no array '{name}' (it has: {', '.join(found) or 'none'})"
            raise InputError(f"{path} {settings.but}{has}: add it with numpy.savez")
    pixels, values = as_uint8(arrays["images"], path), arrays[key]
    if values.shape != pixels.shape[:1] or not np.issubdtype(values.dtype, np.str_ if key == "captions" else np.integer):
        need = f"need {'text' if key == 'captions' else 'integers'} of shape ({len(pixels)},), one an image"
        raise InputError(f"{key} of {path} are {values.dtype} of shape {values.shape}: {need}")
    names = settings.classes
    if names is None and key == "labels":
        names = tuple(map(str, arrays["classes"].ravel())) if "classes" in arrays else class_names_in(path.parent)
    source = in_memory("npz", str(path), pixels, values.tolist(), names)
    return captioned(str(path), source.examples, len(pixels)) if key == "captions" else source


def arrays_of(path: Path, limit: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of an .npz that `npz` reads, and the names of all that it has; raises InputError as `npz` does."""
    arrays: dict[str, np.ndarray] = {}
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:  # numpy leaves a damaged path open
            found = list(file.files)
            for key in {"images", "labels", "classes", "captions"} & set(found):
                check_memory(file.zip.getinfo(f"{key}.npy").file_size, limit)
                arrays[key] = file[key]
    except InputError:
        raise
    except Exception as error:  # zipfile, lzma, struct, EOFError, ValueError for pickles, AttributeError for a bare .npy
        kind = "not a zip archive" if not zipfile.is_zipfile(path) else first_line(error)
        raise InputError(f"{path} cannot be read as an .npz ({kind}): write it anew with numpy.savez, without objects") from error
    return arrays, found


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


def class_names_in(folder: Path) -> tuple[str, ...] | None:
    """The names in classes.json of the folder; None where there is no such file. Raises InputError where it is no list of names."""
    file = folder / "classes.json"
    if not file.is_file():
        return None
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f'{file} is not a JSON list of names: write ["first", "second", ...], or remove it')
    return tuple(names)


def looks_like_hub_id(path: str) -> bool:
    """Whether the text has the form of a data set's name on the hub: `name` or `owner/name`."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", path) is not None
