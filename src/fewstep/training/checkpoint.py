"""The resume state of a stage in one safetensors file, or of a sharded one in a folder of them; a run keeps the last two, for one may be damaged."""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError, first_line
from fewstep.files import writing
from fewstep.hashed import read_tensors, write_tensors
from fewstep.models.file_hashes import check_hashes, write_hashes
from fewstep.training.sharing import is_part, placed

NEWEST, BEFORE = "state", "state-before"  # the two that a run keeps, each a file or a folder of shards
NEXT = "state-next"  # whole, and about to be the newest
FILE, FOLDER = ".safetensors", ""  # what the name of each kind ends in
VALUES = "state.json"  # in a folder of shards


@dataclass
class Checkpoint:
    """What a stage needs to go on as if it had never stopped: tensors by name, and plain values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]  # stage, update, counters, the scaler's state, the data's position

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors under `name/`, by the rest of their names."""
        return {key.removeprefix(f"{name}/"): value for key, value in self.tensors.items() if key.startswith(f"{name}/")}

    def like(self, known: dict[str, Tensor]) -> "Checkpoint":
        """The same with each tensor placed as the known one of its name is: on its device, or of a sharded one this process's part."""
        return Checkpoint({key: placed(value, known[key]) for key, value in self.tensors.items()}, self.values)


class Shards(Checkpoint):
    """A checkpoint in a folder, written by several processes; `like` reads what this process needs of it, however many they are now."""

    def __init__(self, folder: Path, values: dict[str, Any], names: list[str]) -> None:
        super().__init__({}, values)
        self.folder, self.names = folder, names

    def like(self, known: dict[str, Tensor]) -> Checkpoint:
        """As of every checkpoint; where the known tensors are sharded, all processes read together."""
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.state_dict_loader import load

        tensors = {name: torch.empty_like(known[name]) for name in self.names}
        apart = not any(map(is_part, tensors.values()))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it is meant to be, of one process
            load(tensors, storage_reader=HuggingFaceStorageReader(str(self.folder)), no_dist=apart)
        return Checkpoint(tensors, self.values)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint at `path`. Raises InputError where the disk is full or not writable; the last checkpoint survives."""
    write_tensors(path, checkpoint.tensors, checkpoint.values)


def load_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`, None where there is none. Raises InputError where the file is damaged, or not a checkpoint of ours."""
    if not path.is_file():
        return None
    tensors, values = read_tensors(path, "it is left out")
    if "stage" not in values:
        raise InputError(f"{path} is no checkpoint of ours; it is left out")
    return Checkpoint(tensors, values)


def save_newest(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the newest checkpoint of a run into its folder of checkpoints; the one before is kept, all older ones are not.

    Raises:
        InputError: the disk is full or not writable; the last checkpoint survives.
    """
    save_checkpoint(folder / f"{NEXT}{FILE}", checkpoint)
    _make_newest(folder, FILE)


def save_shards(folder: Path, checkpoint: Checkpoint, state: Any) -> None:
    """As `save_newest`, of a sharded state: every process calls it and writes its part. `state` is the processes' (accelerate's).

    Raises:
        InputError: the disk is full or not writable; the last checkpoint survives.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    aside = folder / NEXT
    if state.is_main_process:
        shutil.rmtree(aside, ignore_errors=True)  # what a killed run left
    state.wait_for_everyone()
    try:
        writer = HuggingFaceStorageWriter(str(aside), save_distributed=True)
        save({name: value.detach() for name, value in checkpoint.tensors.items()}, storage_writer=writer)
    except CheckpointException as error:
        why = first_line(next(iter(error.failures.values()))[0])
        raise InputError(
            f"cannot write {aside}: {why}; what was there is kept, free some space and run the same command again"
        ) from error
    if state.is_main_process:
        with writing(aside):
            (aside / VALUES).write_text(
                json.dumps({"values": checkpoint.values, "names": sorted(checkpoint.tensors)}), encoding="utf-8"
            )
            write_hashes(aside)
        _make_newest(folder, FOLDER)


def _make_newest(folder: Path, kind: str) -> None:
    """Let the newest checkpoint be the one before, and the next one, of this kind, the newest; one of them is whole at any moment."""
    with writing(folder):
        for before in (FILE, FOLDER):
            if (newest := folder / f"{NEWEST}{before}").exists():
                shutil.rmtree(folder / f"{BEFORE}{FOLDER}", ignore_errors=True)
                os.replace(newest, folder / f"{BEFORE}{before}")
                if before == FOLDER:
                    (folder / f"{BEFORE}{FILE}").unlink(missing_ok=True)
        os.replace(folder / f"{NEXT}{kind}", folder / f"{NEWEST}{kind}")


def load_shards(folder: Path) -> Shards | None:
    """The checkpoint in a folder of shards, None where there is none. Raises InputError where it is damaged, or not one of ours."""
    if not folder.is_dir():
        return None
    try:
        check_hashes(folder)
        known = json.loads((folder / VALUES).read_text(encoding="utf-8"))
        if "stage" not in known["values"]:
            raise ValueError(f"its {VALUES} is not ours")
        return Shards(folder, known["values"], known["names"])
    except (InputError, OSError, KeyError, ValueError) as error:
        raise InputError(f"the checkpoint {folder} is damaged ({first_line(error)}); it is left out") from None


def load_newest(folder: Path, report: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
    """The newest checkpoint in a run's folder of checkpoints, or, after a report, the one before where that is damaged; None without any.

    Raises:
        InputError: there is none that can be read.
    """
    problem: InputError | None = None
    for file in (folder / f"{name}{kind}" for name in (NEWEST, BEFORE) for kind in (FILE, FOLDER)):
        try:
            checkpoint = load_checkpoint(file) if file.suffix else load_shards(file)
        except InputError as error:
            problem = problem or error
            continue
        if checkpoint is not None:
            if problem is not None:
                report(f"{problem}: the one before it, {file}, is used")
            return checkpoint
    if problem is not None:
        raise InputError(f"{problem}, and no other can be read: remove {folder} to train that stage from its start")
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """The optimiser's state as flat tensors "name|key", one group of parameters in the order of `names`."""
    parameters = optimizer.param_groups[0]["params"]
    return {
        f"{name}|{key}": value if isinstance(value, Tensor) else torch.as_tensor(value)
        for name, p in zip(names, parameters, strict=True)
        for key, value in optimizer.state[p].items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    parts: dict[str, dict[str, Tensor]] = {}
    for place, value in tensors.items():
        name, _, key = place.rpartition("|")
        parts.setdefault(name, {})[key] = value
    for name, p in zip(names, optimizer.param_groups[0]["params"], strict=True):
        for key, value in parts.get(name, {}).items():  # none where the loss does not reach the parameter
            counted = key == "step" and not isinstance(optimizer, torch.optim.AdamW)  # a plain number there
            optimizer.state[p][key] = int(value) if counted else value.to(p.device, value.dtype).clone()
