"""A cache: latents and conditions in shards of safetensors with an index.json, read by memory map in shuffled epochs.

A shard `00000.safetensors` holds "x" (n, ...), perhaps "mirrored" (n, ...), the distinct conditions of its examples as "condition"
(u,) or "condition.LEAF" (u, ...), and "which" (n,), each example's place among them.
"""

import reprlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.data import fingerprints
from fewstep.data.datasets import coins, rows_at, span
from fewstep.errors import InputError
from fewstep.files import verifying
from fewstep.hashed import read_json
from fewstep.method.conditioning import Condition
from fewstep.models.model import Model

INDEX = "index.json"
CONDITION = "condition"
OPEN = 30_000  # shards that stay mapped, 7.7 million examples of 256 a shard: a map holds no file open, and Linux allows a process 65,530
REMAKE = "run `fewstep cache` with the same --out again, which remakes what is damaged"


class CachedData:
    """The examples of a cache, in epochs shuffled by the seed: any part of them can be asked for by its position."""

    def __init__(self, folder: str | Path, seed: int = 0, flip: bool = False) -> None:
        """Read the index and look at every shard's size.

        Raises:
            InputError: no cache, an unfinished one, one without mirrored pictures where they are wanted, or damaged shards.
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
        self._starts = np.cumsum([0] + [shard["count"] for shard in self.shards])
        for shard in self.shards:
            file = self.folder / shard["file"]
            size = file.stat().st_size if file.is_file() else None
            if size != shard["bytes"]:
                found = "is missing" if size is None else f"has {size} bytes in place of {shard['bytes']}"
                raise InputError(f"{file} {found}: {REMAKE}")
        hashes = {self.folder / shard["file"]: shard["sha256"] for shard in self.shards}

        def checked(file: Path) -> tuple[Any, Tensor]:
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
        shard, known = self.shards[0], self.shards[0].get("first", [])
        tensors, which = self._map(self.folder / shard["file"])
        leaves = [name for name in tensors.keys() if name.startswith(CONDITION)]  # noqa: SIM118 - not a dict
        found = {name: tensors.get_slice(name)[: min(count, int(which.max()) + 1)] for name in leaves}
        names = [f"example {i + 1}" for i in range(len(next(iter(found.values()))))]  # of a cache from before names were noted
        return [*known[: len(names)], *names[len(known) :]], condition_of(found)

    def batch(self, start: int, count: int) -> tuple[Tensor, Condition]:
        """What the model denoises, float32 (count, ...), and conditions (count, ...) from position `start` on.

        Raises:
            InputError: `start` is negative or `count` not positive, or a shard is damaged.
        """
        positions = span(start, count)
        rows = rows_at(positions, self.count, self.seed)
        mirrored = coins(positions, self.seed) if self.flip else np.zeros(count, dtype=bool)
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        places = zip(shards.tolist(), (rows - self._starts[shards]).tolist(), mirrored, strict=True)
        read = [
            self._row(self.folder / self.shards[shard]["file"], row, "mirrored" if flip else "x") for shard, row, flip in places
        ]
        leaves = {name: torch.stack([row[name] for row in read]) for name in read[0]}
        x = leaves.pop("x")
        return x, condition_of(leaves)

    def _row(self, file: Path, row: int, side: str) -> dict[str, Tensor]:
        """One example: "x", which is stored as `side`, and the leaves of its condition, without the batch."""
        from safetensors import SafetensorError

        try:
            tensors, which = self._map(file)
            names = [name for name in tensors.keys() if name.startswith(CONDITION)]  # noqa: SIM118 - not a dict
            leaves = {name: tensors.get_slice(name)[int(which[row])] for name in names}
            return {"x": tensors.get_slice(side)[row]} | leaves
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} is damaged ({error}): {REMAKE}") from None


def mapped(file: Path) -> tuple[Any, Tensor]:
    """The memory-mapped shard, whose pages are read when rows are asked for, and where each of its examples has its condition."""
    from safetensors import safe_open

    tensors = safe_open(file, framework="pt")
    return tensors, tensors.get_tensor("which")


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
