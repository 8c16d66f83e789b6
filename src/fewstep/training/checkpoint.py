"""The resume state of a stage in one safetensors file, replaced atomically; a run keeps the last two, for one may be damaged."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from fewstep.errors import InputError, first_line
from fewstep.files import verifying, write_atomically, writing

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
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    places = set()
    for key, value in checkpoint.tensors.items():
        value = value.detach().contiguous().cpu()
        tied = value.numel() > 0 and value.data_ptr() in places  # weights that a network has twice
        places.add(value.data_ptr())
        tensors[key] = value.clone() if tied else value
    values = json.dumps(checkpoint.values)
    known = {"fewstep": values, "xxh3_128": digest_of(tensors, values)}
    write_atomically(path, lambda aside: save_file(tensors, aside, known))


def digest_of(tensors: dict[str, Tensor], values: str) -> str:
    """XXH3, 128 bits in hexadecimal, of the tensors with their names, types and shapes, and of the plain values as JSON."""
    digest = xxhash.xxh3_128(values.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`, None where there is none. Raises InputError where the file is damaged, or not a checkpoint of ours."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            known = file.metadata() or {}
            tensors, values = {key: file.get_tensor(key) for key in file.keys()}, json.loads(known["fewstep"])  # noqa: SIM118 - not a dict
        if verifying() and known.get("xxh3_128") not in (None, digest_of(tensors, known["fewstep"])):
            raise ValueError("its hash is another than when it was written")
        return Checkpoint(tensors, values)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"the checkpoint {path} is damaged ({first_line(error)})") from None


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
                report(f"{problem}; the one before it, {file}, is used")
            return checkpoint
    if problem is not None:
        raise InputError(f"{problem}; no other can be read: remove {folder} to train that stage from its start")
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
