"""JSON and safetensors files with a hash of their own content, compared when they are read; a file without one is read as it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from fewstep.errors import InputError, first_line
from fewstep.files import verifying, write_atomically

HASH = "xxh3_128"  # the key of the hash: in a JSON file beside the others, of a safetensors file in its metadata
VALUES = "fewstep"  # the key of plain values, as JSON, in the metadata of a safetensors file
CHANGED = "its hash is another than when it was written"


def hash_of_values(values: Mapping[str, Any]) -> str:
    """XXH3, 128 bits in hexadecimal, of plain values as JSON, whatever their order and layout."""
    return xxhash.xxh3_128_hexdigest(json.dumps(values, sort_keys=True).encode())


def hash_of_tensors(tensors: Mapping[str, Tensor], values: str = "") -> str:
    """XXH3, 128 bits in hexadecimal, of tensors on the CPU with their names, types and shapes, and of plain values as JSON."""
    digest = xxhash.xxh3_128(values.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write plain values, and their hash, as a JSON file that is whole or as it was. Raises InputError as `write_atomically` does."""
    plain = json.loads(json.dumps(values))  # as they will be read: keys are text
    text = json.dumps(plain | {HASH: hash_of_values(plain)}, indent=1) + "\n"
    write_atomically(file, lambda aside: aside.write_text(text, encoding="utf-8"))


def read_json(file: Path, remedy: str) -> dict[str, Any]:
    """The values of a JSON file, without their hash.

    Raises:
        InputError: it cannot be read, is no table of values, or was changed since it was written.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no table of values")
        expected = values.pop(HASH, None)
        if expected is not None and verifying() and expected != hash_of_values(values):
            raise ValueError(CHANGED)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged ({first_line(error)}); {remedy}") from None
    return values


def write_tensors(file: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any] | None = None) -> None:
    """Write tensors by name, plain values, and the hash of both, as a safetensors file that is whole or as it was.

    Raises:
        InputError: the disk is full or not writable.
    """
    from safetensors.torch import save_file

    whole: dict[str, Tensor] = {}
    places = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous().cpu()
        tied = tensor.numel() > 0 and tensor.data_ptr() in places  # weights that a network has twice
        places.add(tensor.data_ptr())
        whole[name] = tensor.clone() if tied else tensor
    text = json.dumps(values or {})
    known = {VALUES: text, HASH: hash_of_tensors(whole, text)}
    write_atomically(file, lambda aside: save_file(whole, aside, known))


def read_tensors(file: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, plain values) of a safetensors file.

    Raises:
        InputError: it cannot be read, or was changed since it was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            known = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        text = known.get(VALUES, "{}")
        if verifying() and known.get(HASH) not in (None, hash_of_tensors(tensors, text)):
            raise ValueError(CHANGED)
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("its metadata hold no table of values")
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged ({first_line(error)}); {remedy}") from None
    return tensors, values


def claim(file: Path, known: dict[str, Any], what: str, state: Any) -> None:
    """Write what a folder's content is a function of into its JSON file, by the first of a command's processes, or check that it is that.

    `state` is the processes' (accelerate's `PartialState` or `Accelerator`). Keys that are new join those in the file.

    Raises:
        InputError: the file is damaged, or the folder is `what` of something else, naming the key that changed.
    """
    before = read_json(file, "copy it again, or name another --out") if file.is_file() else {}
    for key in (key for key, value in known.items() if before.get(key, value) != value):
        found = f"{file.parent} holds {what} with {key} {before[key]!r}, not {known[key]!r}"
        raise InputError(f"{found}; put it back, or name another --out")
    state.wait_for_everyone()  # all have looked before one writes
    if state.is_main_process:
        write_json(file, before | known)
    state.wait_for_everyone()
