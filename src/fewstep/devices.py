"""Devices: which there are, and how long work takes on them."""

import ctypes
import gc
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError, first_line, shown

M_MMAP_THRESHOLD, LARGE = -3, 4 << 20  # glibc's number of the setting; bytes


def best_device(name: str | torch.device | None = None) -> torch.device:
    """The named device, or without a name the best there is.

    Raises:
        InputError: no such device here.
    """
    if name is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    check_device(name)
    try:
        torch.empty(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device '{name}' is not here ({first_line(error)}); leave --device out, or name cpu") from None


def check_device(device: str | torch.device | None) -> None:
    """Raises InputError where there is no such device here; "meta", which computes nothing, is none."""
    here = getattr(torch.accelerator.current_accelerator(), "type", "cpu")
    try:
        if not isinstance(device, str | torch.device | None):
            raise TypeError
        kind = None if device is None else torch.device(device).type
    except (RuntimeError, TypeError, ValueError):
        raise InputError(f"device {shown(device)} is not known; leave --device out, or name cpu, cuda or mps") from None
    if kind not in (None, "cpu", here):
        raise InputError(f"device '{device}' is not here; leave --device out, or name cpu")


def copied_to(values: Tensor, device: torch.device) -> Tensor:
    """A copy on the device; from pinned memory, else the copy to a GPU would be waited for."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds that `work` takes, the device's part of it included."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def keep_large_blocks_apart() -> None:
    """From now on each block of memory of `LARGE` or more goes back to the system when it is let go of, not to the C library's heap.

    The library raises its own limit to 32 MB, and a training of large weights on the CPU leaves a heap full of holes: of 860 M weights
    0.6 GB at the peak.
    """
    with suppress(OSError, AttributeError):  # of glibc alone
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def return_memory() -> None:
    """Give what has been let go of back to the system: the C library keeps blocks below 32 MB, a network's weights among them, and so does CUDA."""
    gc.collect()
    with suppress(OSError, AttributeError):  # of glibc alone
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wait(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
