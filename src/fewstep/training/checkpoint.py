"""The resume state of a stage in one safetensors file, replaced atomically: at any moment a whole one is on the disk."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.files import write_atomically


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
    write_atomically(path, lambda aside: save_file(tensors, aside, {"fewstep": json.dumps(checkpoint.values)}))


def load_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`, None where there is none. Raises InputError where the file is not a checkpoint of ours."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})["fewstep"])
            return Checkpoint({key: file.get_tensor(key) for key in file.keys()}, values)  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not a checkpoint of fewstep ({error}); remove it to train that stage from its start") from None


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
