"""Writing a cache: every process its own shards; the same command again keeps those that are whole and goes on."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from fewstep.compat import reset_accelerator
from fewstep.data import fingerprints
from fewstep.data.buckets import Fit, described
from fewstep.data.decoding import shortened
from fewstep.data.encoding import Encoded, PictureRows, conditions
from fewstep.data.latent_cache import INDEX, fits_in, in_bucket, is_cache, leaves_of, read_index
from fewstep.data.prompts import PromptRows
from fewstep.data.summary import contents_of
from fewstep.devices import check_device
from fewstep.errors import InputError
from fewstep.files import contents, write_atomically
from fewstep.hashed import read_json, write_json
from fewstep.method.conditioning import Condition, take
from fewstep.models.model import Model
from fewstep.progress import LiveLine, clock

NAMED = 8  # conditions of the first shard whose names the index has
Rows = PictureRows | PromptRows  # what is cached


class Writer:
    """Writes the shards that are missing or damaged, each complete or absent."""

    def __init__(
        self, rows: Rows, model: Model, folder: Path, batch: int, shard_size: int, state: PartialState, quiet: bool = False
    ) -> None:
        self.rows, self.model, self.folder, self.batch, self.shard_size = rows, model, folder, batch, shard_size
        self.state, self.line = state, LiveLine(quiet=quiet or not state.is_main_process)
        self.began, self.seen, self.made = time.monotonic(), 0, 0
        self.known: dict[str, Any] = {}  # the shards of the index, by file

    def write(self, made_by: dict[str, Any], report: Callable[[str], None]) -> None:
        """Write the cache in the folder, or what it lacks; `made_by` is what a cache that is there was made by.

        Raises:
            InputError: the folder holds something else, the disk is full, or nothing can be encoded.
        """
        made_by = made_by | {"shard_size": self.shard_size}
        self._check_folder(made_by)
        number, items = 0, iter(self.rows.items())
        while chunk := list(islice(items, self.shard_size)):
            if number % self.state.num_processes == self.state.process_index and not self._is_intact(number):
                self._write_shard(number, chunk)
            number, self.seen = number + 1, self.seen + len(chunk)
            self._show()
        self.state.wait_for_everyone()
        if self.state.is_main_process:
            self._finish(made_by, number, report)
        self.state.wait_for_everyone()
        self._show(final=True)

    def _check_folder(self, made_by: dict[str, Any]) -> None:
        """Check the folder, or begin its index."""
        if is_cache(self.folder):
            index = read_index(self.folder)
            before = index["made_by"].get("shard_size")
            if before != self.shard_size:
                raise InputError(f"the cache {self.folder} has data.shard_size = {before}: set it to that, or name another folder")
            self.known = {shard["file"]: shard for shard in index["shards"]}
        elif self.folder.exists() and (not self.folder.is_dir() or contents(self.folder)):
            raise InputError(
                f"{self.folder} holds something else, for it has no {INDEX}; name a folder that is new or empty, or a cache to go on with"
            )
        self.state.wait_for_everyone()  # all have looked before one writes
        if self.state.is_main_process and not self.known:
            self._write_index(made_by, complete=False, count=0, shards=[])
        self.state.wait_for_everyone()

    def _shard(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def _is_intact(self, number: int) -> bool:
        """Whether a shard is there as it was written, to the bit."""
        file, entry = self._shard(number), self._entry(number)
        return bool(entry) and file.is_file() and fingerprints.whole(file) == entry["sha256"]

    def _entry(self, number: int) -> dict[str, Any]:
        """What is noted of a shard, if anything: beside it while the cache is being written, later in the index."""
        file = self._shard(number)
        with suppress(InputError):
            return read_json(file.with_suffix(".json"), "it is written again")
        return self.known.get(file.name, {})

    def _write_shard(self, number: int, items: list[Any]) -> None:
        from safetensors.torch import save_file

        with warnings_of_cut_prompts() as cut:
            names, which, condition = self._conditions(items)
        made, skipped = self._encoded(items, which, condition)
        tensors = joined(made) | (leaves_of(condition) if made else {})
        file = self._shard(number)
        write_atomically(file, lambda aside: save_file({name: t.contiguous() for name, t in tensors.items()}, aside))
        entry = {"first": names} if number == 0 else {}
        entry |= {
            "file": file.name,
            "count": sum(len(one.places) for one in made),
            "bytes": file.stat().st_size,
            "sha256": fingerprints.whole(file),
        }
        entry |= {"buckets": {name: asdict(fit) for name, fit in fits_of(made).items()}} if self.rows.buckets else {}
        several = sum(getattr(item, "others", 0) > 0 for item in items)
        shapes = {name: [list(t.shape[1:]), str(t.dtype).removeprefix("torch.")] for name, t in tensors.items()}
        write_json(file.with_suffix(".json"), entry | {"leaves": shapes, "skipped": skipped, "cut": cut, "several": several})

    def _conditions(self, items: list[Any]) -> tuple[list[str], Tensor, Condition]:
        """(the first names of the distinct conditions, each item's place among them, int64 (n,), and those (u, ...)); zeros for items that have none."""
        given = [self.rows.prompt_or_label(item) for item in items]
        distinct = {value: place for place, value in enumerate(dict.fromkeys(value for value in given if value is not None))}
        which = torch.tensor([0 if value is None else distinct[value] for value in given])
        encoded = conditions(self.model, list(distinct), self.batch) if distinct else torch.zeros(1, dtype=torch.long)
        return [str(value) for value in islice(distinct, NAMED)], which, encoded

    def _encoded(self, items: list[Any], which: Tensor, condition: Condition) -> tuple[list[Encoded], list[str]]:
        """What a shard holds, each part with its examples' places among the conditions, "which"; and "name: reason" of what is left out."""
        encoded: list[Encoded] = []
        skipped: list[str] = []
        for start in range(0, len(items), self.batch):
            part = slice(start, start + self.batch)
            made, left = self.rows.encode(items[part], take(condition, which[part]))
            encoded += [replace(one, tensors=one.tensors | {"which": which[part][one.places]}) for one in made]
            skipped += left
            self.made += len(items[part])
            self._show(within=min(start + self.batch, len(items)))
        return encoded, skipped

    def _finish(self, made_by: dict[str, Any], shards: int, report: Callable[[str], None]) -> None:
        """Write the complete index, and report what was left out."""
        entries = [entry for number in range(shards) if (entry := self._entry(number))]
        count = sum(entry["count"] for entry in entries)
        skipped, cut = ([text for entry in entries for text in entry[what]] for what in ("skipped", "cut"))
        if not count:
            why = f"none of the {len(skipped)} pictures can be used ({skipped[0]})" if skipped else "there are no pictures"
            raise InputError(f"{why}: give data with readable pictures")
        leaves = {name: shape for entry in entries if entry["count"] for name, shape in entry["leaves"].items()}
        known = contents_of(self.rows)
        noted = {"classes": list(known.classes), "captions": list(known.captions)}
        self._write_index(made_by, complete=True, count=count, leaves=leaves, shards=entries, contents=noted)
        for number in range(shards):
            self._shard(number).with_suffix(".json").unlink(missing_ok=True)
        if self.rows.buckets:
            names = self.rows.buckets.names
            report(f"buckets: {described(names, fits_in(names, entries))}")
        if skipped:
            report(f"skipped {len(skipped)} of {len(skipped) + count} pictures: {shortened(skipped)}")
        if several := sum(entry.get("several", 0) for entry in entries):
            report(f"{several} pictures have several captions, of which the first is taken")
        if cut:
            report(f"{len(cut)} prompt{'s' * (len(cut) > 1)} cut: {shortened(cut)}")

    def _write_index(self, made_by: dict[str, Any], **values: Any) -> None:
        write_json(self.folder / INDEX, {"what": "cache of fewstep", "format": 1, "made_by": made_by} | values)

    def _show(self, within: int = 0, final: bool = False) -> None:
        """How far it is, from the shards of this process, which stand for those of the others."""
        done, total = self.seen + within, self.rows.total
        speed = self.made * self.state.num_processes / max(time.monotonic() - self.began, 1e-9)
        left = "done" if final else f"{clock((total - done) / speed)} left" if total and speed else ""
        self.line.show(f"cache  {done}/{total or '?'}  {speed:.1f} examples/s  {left}".rstrip(), final=final)


def joined(made: list[Encoded]) -> dict[str, Tensor]:
    """The tensors of all parts by name, those of a bucket one after the other; of nothing an empty "x"."""
    parts: dict[str, list[Tensor]] = {}
    for one in made:
        for name, value in one.tensors.items():
            parts.setdefault(in_bucket(name, one.bucket), []).append(value)
    return {name: torch.cat(values) for name, values in parts.items()} or {"x": torch.zeros(0)}


def fits_of(made: list[Encoded]) -> dict[str, Fit]:
    """How the pictures of each bucket were made to fit."""
    found: dict[str, Fit] = {}
    for one in made:
        found[one.bucket] = found.get(one.bucket, Fit()) + (one.fit or Fit())
    return found


@contextmanager
def warnings_of_cut_prompts() -> Iterator[list[str]]:
    """A list that gathers the warnings of prompts that are too long; all other warnings are passed on."""
    gathered: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield gathered
    for warning in caught:
        if "is cut to" in str(warning.message):
            gathered.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def processes(device: str | None) -> PartialState:
    """The processes of accelerate, and this one's device; raises InputError where the device is not here."""
    check_device(device)
    if not torch.distributed.is_initialized():
        reset_accelerator()  # another run in this process may have had another device
    return PartialState(cpu=device == "cpu")
