"""The resume state of a stage in one safetensors file, replaced atomically; a run keeps the last two, for one may be damaged."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.files import writing
from fewstep.hashed import read_tensors, write_tensors

NEWEST, BEFORE = "state.safetensors", "state-before.safetensors"  # the two that a run keeps
NEXT = "state-next.safetensors"  # whole, and about to be the newest


@dataclass
class Checkpoint:
    """What a stage needs to go on as if it had never stopped: tensors by name, and plain values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]  # stage, update, counters, the scaler's state, the data's position

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors under `name/`, by the rest of their names."""
        return {key.removeprefix(f"{name}/"): value for key, value in self.tensors.items() if key.startswith(f"{name}/")}


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
    save_checkpoint(folder / NEXT, checkpoint)
    with writing(folder):
        if (folder / NEWEST).is_file():
            os.replace(folder / NEWEST, folder / BEFORE)
        os.replace(folder / NEXT, folder / NEWEST)


def load_newest(folder: Path, report: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
    """The newest checkpoint in a run's folder of checkpoints, or, after a report, the one before where that is damaged; None without any.

    Raises:
        InputError: there is none that can be read.
    """
    problem: InputError | None = None
    for file in (folder / NEWEST, folder / BEFORE):
        try:
            checkpoint = load_checkpoint(file)
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
        f"{name}|{key}": torch.as_tensor(value)
        for name, p in zip(names, parameters, strict=True)
        for key, value in optimizer.state[p].items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    for name, p in zip(names, optimizer.param_groups[0]["params"], strict=True):
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors.get(f"{name}|{key}")  # none where the loss does not reach the parameter
            if value is not None:
                optimizer.state[p][key] = value.to(p.device, value.dtype).clone()
