"""Endless shuffled epochs of pictures in [-1, 1] with labels, where any slice can be asked for by its position."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count as counting
from itertools import islice
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.data.class_names import check_classes, class_order
from fewstep.data.decoding import Example, attempt, sides, threads
from fewstep.data.sources import Source, resolve, shuffled
from fewstep.errors import InputError

MOST_UNREADABLE = 256  # in a row, before a stream is given up
order = lru_cache(maxsize=4)(shuffled)


@dataclass(frozen=True, eq=False)
class Data:
    """Pictures in memory, uint8 (n, c, size, size), labels int64 (n,), and the names of the classes that labels index."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()  # "name: reason" of each picture that could not be read
    description: dict[str, Any] = field(default_factory=dict)
    flip: bool = False
    seed: int = 0
    left_out: tuple[str, ...] = ()  # what lies there and is not in here: how much, what, and perhaps why

    def __len__(self) -> int:
        """The number of pictures, which is the length of an epoch."""
        return len(self.labels)

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.pixels.shape[-1]

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (red, green, blue)."""
        return self.pixels.shape[1]

    def with_classes(self, known: tuple[str, ...], class_names: str = "match") -> "Data":
        """The same pictures with labels that index a model's classes, as `class_order` puts them."""
        where = str(self.description.get("path", "data"))
        order = torch.from_numpy(class_order(self.classes, known, where, class_names=class_names))
        if class_names == "match" and bool((order == torch.arange(len(order))).all()):
            return self
        return replace(self, labels=order[self.labels], classes=known, description=self.description | {"classes": list(known)})

    def images(self) -> Tensor:
        """All pictures in the order of the source, uint8 (n, c, size, size); not a copy."""
        return self.pixels

    def batch(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Pictures float32 (count, c, size, size) in [-1, 1] and labels int64 (count,) from position `start` on.

        Positions run through endless epochs, each a permutation of all pictures drawn from (seed, epoch). The result depends
        on the arguments alone, so that a resumed run goes on exactly and any process can take any slice.

        Raises:
            InputError: `start` is negative or `count` not positive.
        """
        positions = span(start, count)
        index = torch.from_numpy(rows_at(positions, len(self), self.seed))
        return as_input(self.pixels[index], positions, self.seed if self.flip else None), self.labels[index]


class StreamingData:
    """Pictures read and decoded as they are asked for; the same face as Data, without a length and without `images()`.

    An epoch has one position for each picture of the source. A picture that cannot be read is replaced by the next that can:
    so positions are known without decoding, and going to one costs reading at most one epoch and not decoding it.
    """

    def __init__(
        self,
        source: Source,
        size: int | tuple[int, int],
        channels: int | None,
        flip: bool,
        seed: int,
        report: Callable[[str], None],
    ) -> None:
        """Open the source and decode its first picture.

        Raises:
            InputError: fewer than two classes, or no picture can be read.
        """
        self.classes: tuple[str, ...] = source.classes or ()
        check_classes(self.classes, source.path)
        self.size, self._size, self._channels = sides(size)[1], size, channels  # of the decoded pictures; the width
        self.source, self._flip, self._seed, self._report = source, flip, seed, report
        self._unreadable: dict[str, str] = {}
        self._order = np.arange(len(self.classes))
        self._length = source.total  # of an epoch; None until the first one has been read to its end
        self._pool, self._lock = threads(), Lock()  # the position is one, and batches may be asked for by several threads
        self.channels = self._channels = channels or self._first().shape[0]
        self._go_to(0)

    def with_classes(self, known: tuple[str, ...], class_names: str = "match") -> "StreamingData":
        """These data, with labels from now on that index a model's classes, as `class_order` puts them."""
        order = class_order(self.classes, known, self.source.path, self._report, class_names)
        if class_names == "by-order" or (order != np.arange(len(order))).any():
            self._order, self.classes = order[self._order], known
        return self

    @property
    def skipped(self) -> tuple[str, ...]:
        """Each picture that could not be read so far, as "name: reason"."""
        return tuple(f"{name}: {reason}" for name, reason in self._unreadable.items())

    @property
    def description(self) -> dict[str, Any]:
        """What the data are, for JSON; the fingerprint is None, since the content is not read beforehand."""
        facts = {"images": self._length, "classes": list(self.classes), "size": self.size, "channels": self.channels}
        return self.source.describe(**facts, skipped=len(self._unreadable), sha256=None)

    def batch(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Pictures float32 (count, c, size, size) in [-1, 1] and labels int64 (count,) from position `start` on.

        The result depends on the arguments alone; it is fast where `start` goes up from call to call.

        Raises:
            InputError: `start` is negative, `count` not positive, the source is damaged, or a label is not among the classes.
        """
        positions = span(start, count)
        with self._lock:
            pictures, names = self._decoded_at(start, count)
        labels, _ = resolve(names, self.source.classes, self.source.path)
        images = torch.from_numpy(np.stack(pictures))
        return as_input(images, positions, self._seed if self._flip else None), torch.from_numpy(self._order[labels])

    def _decoded_at(self, start: int, count: int) -> tuple[Any, Any]:
        """Pictures uint8 (c, h, w) and labels of `count` positions from `start` on."""
        self._seek(start)
        self._fill(count)
        stand_in = self._ahead[-1]
        for k in reversed(range(len(self._ahead))):
            self._ahead[k] = stand_in = self._ahead[k] if self._ahead[k][0] is not None else stand_in
        pictures, names = zip(*(self._ahead.popleft() for _ in range(count)), strict=True)
        self._position = start + count
        return pictures, names

    def _first(self) -> np.ndarray:
        """The first picture in the order of the source that can be read."""
        for example in islice(self.source.examples(None, 0), MOST_UNREADABLE):
            if (picture := self._decoded(example)[0]) is not None:
                return picture
        why = f": {self.skipped[0]}" if self.skipped else ""
        raise InputError(f"{self.source.path}: no picture can be read{why}: give data with readable pictures")

    def _go_to(self, epoch: int) -> None:
        """Make the beginning of an epoch the position."""
        self._raw = self._endless(epoch)
        self._position = epoch * (self._length or 0)
        self._ahead: deque[tuple[Any, Any]] = deque()  # (uint8 (c, h, w) or None, label) from the position on; the last is readable

    def _endless(self, epoch: int) -> Iterator[Example]:
        for current in counting(epoch):
            seen = 0
            for seen, example in enumerate(self.source.examples(self._seed, current), 1):  # noqa: B007 - counted below
                yield example
            if not seen:
                raise InputError(f"{self.source.path} has no examples: give data with pictures")
            self._length = seen

    def _seek(self, start: int) -> None:
        """Make `start` the position, reading on without decoding, or anew from the beginning of its epoch."""
        if start < self._position:
            self._go_to(0)
        while self._position < start:
            if self._length and start // self._length > self._position // self._length:
                self._go_to(start // self._length)
                continue
            if self._ahead:
                self._ahead.popleft()
            else:
                next(self._raw)
            self._position += 1

    def _fill(self, count: int) -> None:
        """Decode ahead until `count` pictures are there and the last of them can be read."""
        while len(self._ahead) < count or self._ahead[-1][0] is None:
            raw = [next(self._raw) for _ in range(max(1, count - len(self._ahead)))]
            self._ahead.extend(self._pool.map(self._decoded, raw))
            if len(self._ahead) > MOST_UNREADABLE and all(picture is None for picture, _ in list(self._ahead)[-MOST_UNREADABLE:]):
                why = f"{MOST_UNREADABLE} pictures in a row cannot be read ({self.skipped[-1]})"
                raise InputError(f"{self.source.path}: {why}: give data with readable pictures")

    def _decoded(self, example: Example) -> tuple[Any, Any]:
        outcome = attempt(example, self._size, self._channels)
        if not isinstance(outcome, str):
            return outcome, example.label
        if example.title not in self._unreadable:
            self._unreadable[example.title] = outcome
            self._report(f"skipped a picture that cannot be read: {example.title}: {outcome}")
        return None, None


def matched(data: Any, known: tuple[str, ...], class_names: str = "match") -> Any:
    """Opened data with labels that index a model's classes; other objects are taken as they are. Raises InputError as `class_order`."""
    return data.with_classes(known, class_names) if isinstance(data, Data | StreamingData) else data


def span(start: int, count: int) -> np.ndarray:
    """Positions start .. start + count - 1, int64 (count,)."""
    if start < 0 or count < 1:
        raise InputError(f"no batch of {count} at position {start}: the position is at least 0 and the count at least 1")
    return np.arange(start, start + count, dtype=np.int64)


def rows_at(positions: np.ndarray, length: int, seed: int) -> np.ndarray:
    """The rows, of `length` in all, at positions int64 (count,) of endless epochs, each a permutation drawn from (seed, epoch)."""
    epochs, offsets = np.divmod(positions, length)
    return np.concatenate([order(length, seed, int(e))[offsets[epochs == e]] for e in np.unique(epochs)])


def as_input(images: Tensor, positions: np.ndarray, flip_seed: int | None) -> Tensor:
    """uint8 images (n, c, h, w) as float32 in [-1, 1], those mirrored whose position says so; None mirrors none."""
    images = images.float().div_(127.5).sub_(1)
    if flip_seed is not None:
        mirrored = torch.from_numpy(coins(positions, flip_seed))
        images[mirrored] = images[mirrored].flip(-1)
    return images


def coins(positions: np.ndarray, seed: int) -> np.ndarray:
    """One fair coin a position, bool (n,): the top bit of splitmix64, so that no state is kept."""
    start = np.random.SeedSequence(seed).generate_state(1, np.uint64)  # an array: unsigned arrays wrap without a warning
    return (splitmix64(start + positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(63)).astype(bool)


def splitmix64(z: np.ndarray) -> np.ndarray:
    """The uint64 numbers mixed, so that each bit of a result depends on every bit of its number (the last two steps of splitmix64)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
