"""A process's batches: read ahead on a thread beside the computing, with what the stage draws for their examples."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import xxhash
from torch import Tensor

from fewstep.data.batch_order import InBuckets
from fewstep.devices import copied_to
from fewstep.method.conditioning import each
from fewstep.training.draws import Draws
from fewstep.training.settings import TrainSettings
from fewstep.training.stage import Batch, Examples, Stage

AHEAD = 2  # micro-batches that are read before they are asked for


@dataclass(frozen=True)
class Split:
    """How the global batch is cut: this process's index, of how many, and its device."""

    process: int
    processes: int
    device: torch.device


class Batches:
    """The micro-batches of one process in a stage, update after update.

    The data are asked for examples by their positions alone, in rising order, by one thread at a time; so a run that was stopped
    goes on with the very examples that would have come, whatever had been read ahead. Data whose `ahead` is false are read in turn.
    """

    def __init__(self, stage: Stage, data: Examples, settings: TrainSettings, split: Split) -> None:
        self.stage, self.data, self.settings, self.split = stage, stage.data or data, settings, split
        self.size, self.parts = settings.batch_size, settings.gradient_accumulation
        self.total = self.size * self.parts * split.processes  # examples of an update
        if isinstance(self.data, InBuckets):
            self.data = self.data.in_batches_of(self.total)
        self.waited = 0.0  # seconds that were spent waiting for data
        self._ahead = AHEAD if getattr(self.data, "ahead", True) else 0
        self._thread = ThreadPoolExecutor(1, "fewstep-data")
        self._reading: deque[tuple[int, Future[Any]]] = deque()  # (position, what will be there)

    def close(self) -> None:
        """End the thread, after the batch that it is reading; also what `with` does at its end."""
        self._thread.shutdown(cancel_futures=True)
        self._reading.clear()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def of(self, update: int, start: int) -> Iterator[Batch]:
        """The micro-batches of an update, whose global batch has the data from position `start` on, on the device."""
        stage, split, seed = self.stage, self.split, self.settings.seed
        to_device = partial(copied_to, device=split.device)
        # for dropout, which draws by itself
        torch.manual_seed(xxhash.xxh3_64_intdigest(f"{seed} {stage.name} {update} {split.process}".encode()) >> 1)
        for part in range(self.parts):
            place = self._place(part)
            x, condition, *more = self._read(start, part, stage.updates - update)
            draws = Draws(seed, stage.name, start, self.total, slice(place, place + self.size), split.device)
            batch = stage.draw(draws)
            if "noise" not in batch and stage.data is None:
                batch["noise"] = draws.normal(x.shape[1:])
            batch |= {key: to_device(value) for part in more for key, value in part.items()}
            yield batch | {"x": to_device(x), "condition": each(to_device, condition)}

    def _place(self, part: int) -> int:
        """Where this process's micro-batch begins in the global batch."""
        return (part * self.split.processes + self.split.process) * self.size

    def _read(self, start: int, part: int, updates: int) -> tuple[Any, ...]:
        """The data of a micro-batch; those that follow within so many updates are begun."""
        start = self.data.aligned(start) if isinstance(self.data, InBuckets) else start
        began, numbers = time.perf_counter(), range(part, max(part + 1, min(part + 1 + self._ahead, updates * self.parts)))
        positions = [start + k // self.parts * self.total + self._place(k % self.parts) for k in numbers]
        if self._reading and self._reading[0][0] != positions[0]:  # the caller went elsewhere
            for _, reading in self._reading:
                reading.cancel()
            self._reading.clear()
        for position in positions[len(self._reading) :]:
            self._reading.append((position, self._thread.submit(self._batch, position)))
        found = self._reading.popleft()[1].result()
        self.waited += time.perf_counter() - began
        return found

    def _batch(self, position: int) -> tuple[Any, ...]:
        """What the data give, in pinned memory where the device is a GPU."""
        x, condition, *more = self.data.batch(position, self.size)
        if self.split.device.type != "cuda":
            return x, condition, *more
        pinned = [{key: Tensor.pin_memory(value) for key, value in part.items()} for part in more]
        return x.pin_memory(), each(Tensor.pin_memory, condition), *pinned


class Pace:
    """How fast a stage goes since it was begun or gone on with, and how much of the time since the last report it waited for data."""

    def __init__(self, first: int, batches: Batches) -> None:
        self.first, self.batches = first, batches
        self.began = self.last = time.monotonic()
        self.waited = 0.0

    def speed(self, update: int) -> float:
        """Updates a second."""
        return (update - self.first) / max(time.monotonic() - self.began, 1e-9)

    def waiting(self) -> float:
        """The share of the time since the last call, 0 to 1."""
        now, waited = time.monotonic(), self.batches.waited
        share = (waited - self.waited) / max(now - self.last, 1e-9)
        self.last, self.waited = now, waited
        return min(share, 1.0)
