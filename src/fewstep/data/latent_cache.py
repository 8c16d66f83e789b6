"""A cache: latents and conditions in shards of safetensors with an index.json, read by memory map in shuffled epochs.

A shard `00000.safetensors` holds "x" (n, ...), perhaps "mirrored" (n, ...), the distinct conditions of its examples as "condition"
(u,) or "condition.LEAF" (u, ...), "which" (n,), each example's place among them, and leaves that each example has for itself, as
"own.seconds" (n, ...). Of pictures in buckets it holds these of each bucket, as "x.1216x832", "which.1216x832", "own.sizes.1216x832".
"""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.data import fingerprints
from fewstep.data.batch_order import BatchOrder, InBuckets
from fewstep.data.buckets import Buckets, Fit
from fewstep.data.datasets import coins, rows_at, span
from fewstep.data.encoding import OWN
from fewstep.errors import InputError
from fewstep.files import verifying
from fewstep.hashed import read_json
from fewstep.method.conditioning import Condition
from fewstep.models.model import Model

INDEX = "index.json"
CONDITION = "condition"
OPEN = 30_000  # shards that stay mapped, 7.7 million examples of 256 a shard: a map holds no file open, and Linux allows a process 65,530
REMAKE = "run `fewstep cache` with the same --out again, which remakes what is damaged"


@dataclass(frozen=True)
class Shard:
    """A memory-mapped shard, whose pages are read when rows are asked for."""

    tensors: Any
    which: dict[str, Tensor]  # by bucket, where each example's condition is
    leaves: tuple[str, ...]  # of the distinct conditions
    own: dict[str, tuple[str, ...]]  # by bucket, the leaves that each example has for itself


class CachedData(InBuckets):
    """The examples of a cache, in epochs shuffled by the seed: any part of them can be asked for by its position.

    Of pictures in `buckets` (else None) those of an update are of one, as `in_batches_of` says how many that are.
    """

    def __init__(self, folder: str | Path, seed: int = 0, flip: bool = False) -> None:
        """Read the index and look at every shard's size.

        Raises:
            InputError: no cache, an unfinished one, one without mirrored pictures where they are asked for, or damaged shards.
        """
        self.folder, self.seed, self.flip = Path(folder), seed, flip
        index = read_index(self.folder)
        if not index["complete"]:
            raise InputError(f"the cache {folder} is not finished: run `fewstep cache` with the same --out again")
        self.made_by, self.count = index["made_by"], int(index["count"])
        self.description = self.made_by["data"] | {"cache": str(folder), "images": self.count}
        if flip and not self.made_by["data"].get("flip"):
            raise InputError(f"the cache {folder} was made without data.flip = true: set it to false, or make another cache")
        self.shards = [shard for shard in index["shards"] if shard["count"]]
        noted = index.get("contents", {})  # a cache from before there were any has none
        self.class_names, self.captions = tuple(noted.get("classes", ())), tuple(noted.get("captions", ()))
        self.skipped = [text for shard in index["shards"] for text in shard.get("skipped", ())]
        sizes = self.made_by["data"].get("buckets")
        self.buckets = Buckets.of(sizes) if sizes else None
        self._names = self.buckets.names if self.buckets else ("",)
        self.fits = fits_in(self._names, self.shards) if self.buckets else ()
        counts = [[count_in(shard, name) for shard in self.shards] for name in self._names]
        self._starts = [np.cumsum([0, *of_shards]) for of_shards in counts]
        self.order = BatchOrder([sum(of_shards) for of_shards in counts], seed)
        for shard in self.shards:
            file = self.folder / shard["file"]
            size = file.stat().st_size if file.is_file() else None
            if size != shard["bytes"]:
                found = "is missing" if size is None else f"has {size} bytes in place of {shard['bytes']}"
                raise InputError(f"{file} {found}: {REMAKE}")
        hashes = {self.folder / shard["file"]: shard["sha256"] for shard in self.shards}

        def checked(file: Path) -> Shard:
            expected = hashes.pop(file, None)  # once: a shard that is mapped again is not read again
            if expected is not None and verifying() and fingerprints.whole(file) != expected:
                raise InputError(f"{file} is damaged (its hash is another than in {INDEX}): {REMAKE}")
            return mapped(file)

        self._map = lru_cache(maxsize=OPEN)(checked)

    def __len__(self) -> int:
        """The number of examples, which is the length of an epoch."""
        return self.count

    def first_conditions(self, count: int) -> tuple[list[str], Condition]:
        """(captions, prompts or classes, conditions (n, ...)) of the first shard, at most `count` of them, each another one.

        Raises:
            InputError: the shard is damaged.
        """
        shard, known = self._map(self.folder / self.shards[0]["file"]), self.shards[0].get("first", [])
        used = 1 + max(int(which.max()) for which in shard.which.values())
        found = {name: shard.tensors.get_slice(name)[: min(count, used)] for name in shard.leaves}
        names = [f"example {i + 1}" for i in range(len(next(iter(found.values()))))]  # of a cache from before names were noted
        return [*known[: len(names)], *names[len(known) :]], condition_of(found)

    def batch(self, start: int, count: int) -> tuple[Tensor, Condition]:
        """What the model denoises, float32 (count, ...), and conditions (count, ...) from position `start` on.

        Raises:
            InputError: `start` is negative or `count` not positive, the examples are of two updates in buckets, or a shard is damaged.
        """
        span(start, count)  # which checks them
        bucket, first = self.order.at(start, count)
        name, starts, positions = self._names[bucket], self._starts[bucket], span(first, count)
        rows = rows_at(positions, int(starts[-1]), self.seed)
        mirrored = coins(positions, self.seed) if self.flip else np.zeros(count, dtype=bool)
        shards = np.searchsorted(starts, rows, side="right") - 1
        places = zip(shards.tolist(), (rows - starts[shards]).tolist(), mirrored, strict=True)
        read = [
            self._row(self.folder / self.shards[shard]["file"], row, "mirrored" if flip else "x", name)
            for shard, row, flip in places
        ]
        leaves = {name: torch.stack([row[name] for row in read]) for name in read[0]}
        x = leaves.pop("x")
        return x, condition_of(leaves)

    def _row(self, file: Path, row: int, side: str, bucket: str) -> dict[str, Tensor]:
        """One example: "x", which is stored as `side`, and the leaves of its condition, without the batch."""
        from safetensors import SafetensorError

        try:
            shard = self._map(file)
            read, place = shard.tensors.get_slice, int(shard.which[bucket][row])
            leaves = {name: read(name)[place] for name in shard.leaves}
            own = {f"{CONDITION}.{leaf}": read(in_bucket(f"{OWN}.{leaf}", bucket))[row] for leaf in shard.own[bucket]}
            return {"x": read(in_bucket(side, bucket))[row]} | leaves | own
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} is damaged ({error}): {REMAKE}") from None


def mapped(file: Path) -> Shard:
    """The memory-mapped shard."""
    from safetensors import safe_open

    tensors = safe_open(file, framework="pt")
    names = [name.split(".") for name in tensors.keys()]  # noqa: SIM118 - not a dict
    which = {".".join(bucket): tensors.get_tensor(in_bucket("which", *bucket)) for what, *bucket in names if what == "which"}
    own = {bucket: tuple(name[1] for name in names if name[0] == OWN and ".".join(name[2:]) == bucket) for bucket in which}
    return Shard(tensors, which, tuple(".".join(name) for name in names if name[0] == CONDITION), own)


def in_bucket(name: str, bucket: str = "") -> str:
    """The name of a bucket's tensor in a shard."""
    return f"{name}.{bucket}" if bucket else name


def count_in(shard: dict[str, Any], bucket: str) -> int:
    """How many examples of a bucket the index has in a shard."""
    return shard.get("buckets", {}).get(bucket, {}).get("count", 0) if bucket else shard["count"]


def fits_in(buckets: Sequence[str], shards: Sequence[dict[str, Any]]) -> tuple[Fit, ...]:
    """How the pictures of each bucket were made to fit, by the entries of the shards."""
    known = [shard.get("buckets", {}) for shard in shards]
    return tuple(sum((Fit(**of[name]) for of in known if name in of), Fit()) for name in buckets)


def leaves_of(condition: Condition) -> dict[str, Tensor]:
    """The tensors of a condition by the names that files have for them: "condition", or "condition.LEAF" for each of a tree."""
    return {CONDITION: condition} if isinstance(condition, Tensor) else {f"{CONDITION}.{k}": v for k, v in condition.items()}


def condition_of(leaves: dict[str, Tensor]) -> Condition:
    """The condition of which `leaves_of` gave the tensors."""
    return leaves.get(CONDITION, {name.removeprefix(f"{CONDITION}."): leaf for name, leaf in leaves.items()})


def is_cache(folder: Path) -> bool:
    """Whether a cache was begun in the folder."""
    return (folder / INDEX).is_file()


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a cache; raises InputError where there is none, or it is of something else."""
    if not (file := folder / INDEX).is_file():
        raise InputError(f"{folder} is no cache ({INDEX} is not there): make one by `fewstep cache RECIPE --out {folder}`")
    index = read_json(file, "remove the folder and make the cache anew")
    if index.get("what") != "cache of fewstep":
        raise InputError(f"{file} is not the index of a cache of fewstep: name a folder that `fewstep cache` wrote")
    return index


def teacher_fingerprint(model: Model) -> dict[str, Any] | None:
    """What tells a teacher from others: its family, and a fingerprint of every part; None where it lies in no folder."""
    folder = model.family.folder
    if folder is None:
        return None
    parts = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {part.name: [file.relative_to(part) for file in part.rglob("*") if file.is_file()] for part in parts}
    prints = {part.name: fingerprints.of_files(part, files[part.name]) for part in parts if files[part.name]}
    return {"path": str(folder), "family": model.family.name, "parts": prints}


def check_made_by(folder: Path, now: dict[str, Any]) -> None:
    """Raises InputError where the cache was made by another teacher or of other data than `now` names."""
    before = read_index(folder)["made_by"]
    for what, other in (("teacher", "by another teacher"), ("data", "of other data")):
        if now.get(what) is not None and (changed := difference(before[what], now[what], f"{what}.")):
            remedy = "make one for this recipe in another folder, or put back what it was made with"
            raise InputError(f"the cache {folder} was made {other}: {changed}; {remedy}")


def difference(before: dict[str, Any], now: dict[str, Any], prefix: str) -> str | None:
    """The first key, paths aside, in which two records differ, with both values; None where they agree."""
    for key in dict.fromkeys([*now, *before]):
        one, other = before.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            if inner := difference(one, other, f"{prefix}{key}."):
                return inner
        elif key != "path" and one != other:
            return f"{prefix}{key} was {reprlib.repr(one)} and is {reprlib.repr(other)}"
    return None
