"""One picture, whatever its format, as a uint8 array; many pictures, decoded on threads, as one array."""

import hashlib
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fewstep.data.formats import picture_endings
from fewstep.errors import InputError, first_line

Pixels = Path | str | bytes | np.ndarray | None  # a file, a URL of fsspec, an encoded picture, or (h, w) or (h, w, 3) uint8
Size = int | tuple[int, int] | None  # of a square, or (height, width); None: as the picture has it
WHITES = (255, 4095, 65535)
T = TypeVar("T")
GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"}  # Pillow's modes with one channel of colour


@dataclass(frozen=True)
class Example:
    """A picture not yet decoded, with its label: an index into the classes, the name of one, or None where there is none."""

    pixels: Pixels
    label: Any
    name: str = ""
    fault: str = ""  # why it is no example, whatever its picture is
    others: int = 0  # further captions of the picture, which are not used

    @property
    def title(self) -> str:
        """How a message names the picture."""
        if self.name or not isinstance(self.pixels, bytes):
            return self.name or "a picture without a name"
        return f"the picture of {len(self.pixels)} bytes with sha256 {hashlib.sha256(self.pixels).hexdigest()[:12]}"


def threads() -> ThreadPoolExecutor:
    """Threads to decode on: one a core, 16 at most (Pillow lets go of Python's lock while it decodes)."""
    return ThreadPoolExecutor(min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def decode(pixels: Pixels, size: Size, channels: int | None) -> np.ndarray:
    """The picture as uint8 (c, height, width): upright, over white where transparent, its central part resized.

    `size` is that of a square, or (height, width); None keeps its height and width, `channels` None its own 1 or 3. Any exception means that it cannot be read.
    """
    return as_array(fitted(as_mode(upright(pixels), channels), size))


def upright(pixels: Any) -> Any:
    """The Pillow image of a picture (or of a Pillow image), loaded and turned as its metadata say; an animation's first frame."""
    from PIL import Image, ImageOps

    if pixels is None:
        raise ValueError("no picture")
    if isinstance(pixels, np.ndarray):
        return Image.fromarray(pixels)
    if isinstance(pixels, str):
        import fsspec

        with fsspec.open(pixels, "rb") as file:
            pixels = bytes(file.read())  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(pixels, Path) and pixels.exists() and not pixels.is_file():  # a pipe or a device: reading it may never end
        raise ValueError(f"{pixels} is no regular file")
    if not isinstance(pixels, Image.Image):
        picture_endings()  # registers the plugins
        pixels = Image.open(io.BytesIO(pixels) if isinstance(pixels, bytes) else pixels)
    with pixels as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit and image.width * image.height > limit:  # Pillow itself only warns until twice this number
            raise ValueError(f"{image.width}x{image.height} pixels are more than the limit of {limit}")
        image.load()
        try:
            return ImageOps.exif_transpose(image)
        except Exception:  # metadata that cannot be parsed say nothing about the picture
            return image


def as_mode(image: Any, channels: int | None) -> Any:
    """The image in mode L (1 channel) or RGB (3)."""
    from PIL import Image

    mode = "L" if (channels or (1 if image.mode in GREY else 3)) == 1 else "RGB"
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        white = white_of(values)
        image = Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def white_of(values: np.ndarray) -> int:
    """What is white in a picture of 16 or 32 bits: of 255, 4095 and 65535 (8, 12 and 16 bits) the least that holds all of its values.

    Cameras and microscopes save 12 bits in 16, programs 8 bits in 32, and no file says so reliably.
    """
    if values.min() < 0 or values.max() > WHITES[-1]:
        raise ValueError(f"pixels from {values.min()} to {values.max()} are outside 16 bits")
    return next(white for white in WHITES if values.max() <= white)


def fitted(image: Any, size: Size) -> Any:
    """The central part of the image with the proportions of `size`, resized: Lanczos to shrink, bicubic to grow, untouched where it fits."""
    from PIL import Image

    if size is None:
        return image
    height, width = sides(size)
    left, top, right, bottom = box = central_box(image, height, width)
    if (right - left, bottom - top) == (width, height):
        return image if image.size == (width, height) else image.crop(box)
    method = Image.Resampling.LANCZOS if right - left > width else Image.Resampling.BICUBIC
    return image.resize((width, height), method, box=box)


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size; of one number those of a square."""
    return (size, size) if isinstance(size, int) else size


def central_box(image: Any, height: int = 1, width: int = 1) -> tuple[int, int, int, int]:
    """The largest central part of an image with the proportions height to width: left, top, right, bottom."""
    w = min(image.width, max(1, round(image.height * width / height)))
    h = min(image.height, max(1, round(image.width * height / width)))
    left, top = (image.width - w) // 2, (image.height - h) // 2
    return left, top, left + w, top + h


def as_array(image: Any) -> np.ndarray:
    """uint8 (c, h, w) of an image in mode L or RGB."""
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def attempt(example: Example, size: Size, channels: int | None) -> np.ndarray | str:
    """The decoded picture, or in one line why it cannot be read."""
    return tried(example, partial(decode, size=size, channels=channels))


def tried(example: Example, read: Callable[[Pixels], T]) -> T | str:
    """What `read` makes of a picture, or in one line why it cannot be read."""
    if example.fault:
        return example.fault
    try:
        return read(example.pixels)
    except Exception as error:  # damaged files raise nearly anything: OSError, SyntaxError, struct.error, EOFError, ...
        return (
            first_line(error).replace(str(example.pixels), example.title) if isinstance(example.pixels, Path) else first_line(error)
        )


def read_in_parallel(examples: Iterable[Example], read: Callable[[Example], T]) -> Iterator[tuple[Example, T]]:
    """Each example with what `read` makes of it, in their order; 256 at a time are read by all threads."""
    items = iter(examples)
    with threads() as pool:
        while chunk := list(islice(items, 256)):
            yield from zip(chunk, pool.map(read, chunk), strict=True)


def check_readable(labels: Sequence[Any], skipped: list[str]) -> None:
    """Raises InputError where no picture could be read."""
    if not labels:
        why = f"none of the {len(skipped)} pictures can be read ({skipped[0]})" if skipped else "there are no pictures"
        raise InputError(f"{why}: give data with readable pictures")


def shortened(lines: list[str]) -> str:
    """The first five of the lines, and how many more there are."""
    return "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")


def check_memory(needed: int, limit: int) -> None:
    """Raises InputError where the decoded pictures need more than `limit` bytes."""
    if needed > limit:
        sizes = f"{needed / 2**30:.3g} GiB or more of memory, over the limit of {limit / 2**30:.3g} GiB"
        remedy = "set data.streaming = true (a folder or `datasets`) or a smaller data.size"
        raise InputError(f"the decoded pictures need {sizes}: {remedy}")


def gather(
    examples: Iterable[Example], size: Size, channels: int | None, limit: int, total: int | None
) -> tuple[np.ndarray, list[Any], list[str], int]:
    """All pictures that can be read, uint8 (n, c, h, w), their labels, "name: reason" of each that cannot, how many had several captions.

    They are put into one buffer that grows in place, so that the peak is the array itself and not twice that.

    Raises:
        InputError: none can be read, they need more than `limit` bytes, or `size` is None and they are not of one square size.
    """
    buffer, labels, skipped = bytearray(), [], []
    shape, first, several = (0, 0, 0), "", 0
    for example, array in read_in_parallel(examples, partial(attempt, size=size, channels=channels)):
        if isinstance(array, str):
            skipped.append(f"{example.title}: {array}")
            continue
        if not labels:
            shape, first = array.shape, example.title
        if size is None:
            check_shape(array, example.title, shape, first)
        if len(array) > shape[0]:  # the first in colour after grey ones
            grey = np.frombuffer(buffer, np.uint8).reshape(-1, *shape)
            buffer, shape = bytearray(np.repeat(grey, 3, axis=1).tobytes()), array.shape
        labels.append(example.label)
        several += example.others > 0
        check_memory(max(len(labels), total or 0) * math.prod(shape), limit)
        buffer += np.broadcast_to(array, shape).tobytes()
    check_readable(labels, skipped)
    return np.frombuffer(buffer, np.uint8).reshape(-1, *shape), labels, skipped, several


def check_shape(array: np.ndarray, title: str, shape: tuple[int, ...], first: str) -> None:
    """Raises InputError where a picture (c, h, w) is not square, or not of the size of the first one."""
    if array.shape[1] != array.shape[2]:
        raise InputError(f"{title} is {array.shape[2]}x{array.shape[1]}, not square: set data.size to the size to train at")
    if array.shape[1:] != shape[1:]:
        sizes = f"{first} is {shape[2]}x{shape[1]}, {title} is {array.shape[2]}x{array.shape[1]}"
        raise InputError(f"the pictures differ in size ({sizes}): set data.size to the size to train at")
