"""How processes share a run's work: one alone, DDP (each a whole network) or FSDP2 (each a part of it), as accelerate was started."""

import copy
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from torch import Tensor, nn

from fewstep import compat
from fewstep.data.batch_order import InBuckets
from fewstep.devices import check_device
from fewstep.errors import InputError
from fewstep.training.logging import tracker_arguments
from fewstep.training.settings import TrainSettings
from fewstep.training.stage import Examples


def accelerator_for(settings: TrainSettings, run: Path, device: str | None = None) -> Accelerator:
    """The accelerator of a run, on the device or the best one.

    Raises:
        InputError: no such device, a precision that it lacks, or accelerate was started for other settings than the recipe's.
    """
    check_device(device)
    check_launch(settings)
    if not torch.distributed.is_initialized():
        compat.reset_accelerator()  # another run in this process may have had another precision
    if device is not None and (index := torch.device(device).index) is not None and torch.accelerator.device_count() > 1:
        torch.accelerator.set_device_index(index)
        os.environ["ACCELERATE_TORCH_DEVICE"] = device  # accelerate takes the first of several otherwise
    tracker = tracker_arguments(settings.log_with, run)
    try:
        accelerator = Accelerator(mixed_precision=settings.precision, cpu=device == "cpu", **tracker)
    except ValueError as error:
        if settings.precision != "no" and settings.precision in str(error):
            raise InputError(f"train.precision '{settings.precision}': this device lacks it; set it to 'no'") from None
        raise
    here = accelerator.device
    if settings.precision == "fp16" and here.type == "cpu":
        raise InputError("train.precision 'fp16' needs a GPU; on the CPU set it to 'bf16' or 'no'")
    if device is not None and torch.device(device).type != here.type:
        raise InputError(f"device '{device}' is asked for, and accelerate was started for '{here.type}': leave one of them out")
    return accelerator


def check_launch(settings: TrainSettings) -> None:
    """Raises InputError where accelerate was started with a configuration that contradicts the recipe's settings, or is not known here."""
    started = {key.removeprefix("ACCELERATE_").lower(): value.lower() for key, value in os.environ.items()}
    for key, ours, neutral in (
        ("mixed_precision", ("train.precision", settings.precision), "no"),
        ("gradient_accumulation_steps", ("train.gradient_accumulation", str(settings.gradient_accumulation)), "1"),
        ("dynamo_backend", ("train.compile", "inductor" if settings.compile else "no"), "no"),
    ):
        if (theirs := started.get(key, neutral)) not in (neutral, ours[1]):
            shown = getattr(settings, ours[0].removeprefix("train."))
            raise InputError(
                f"accelerate's {key} is '{theirs}' and {ours[0]} {shown!r}: set the recipe's, and leave accelerate's out (or '{neutral}')"
            )
    if started.get("use_fsdp") == "true":
        if started.get("fsdp_version") != "2":
            raise InputError("accelerate was started with FSDP 1, which is not known here: set fsdp_version: 2 (FSDP_VERSION=2)")
        for key in (
            "fsdp_offload_params",
            "fsdp_cpu_ram_efficient_loading",
        ):  # with the second transformers leaves the other processes' weights empty
            if started.get(key) == "true":
                raise InputError(f"accelerate's {key} is not known here: set it to false (recipes/accelerate/fsdp2.yaml)")
        if settings.precision == "fp16":
            raise InputError(
                "train.precision 'fp16' scales gradients, which FSDP2 does not know here: set it to 'bf16', or use DDP"
            )
    for key, name in (("use_deepspeed", "DeepSpeed"), ("use_megatron_lm", "Megatron-LM")):
        if started.get(key) == "true":
            raise InputError(
                f"accelerate was started with {name}, which is not known here: use FSDP2 (recipes/accelerate/fsdp2.yaml)"
            )


def check_examples(data: Examples, accelerator: Accelerator) -> None:
    """Raises InputError where there are fewer examples than processes."""
    known: Any = getattr(data, "data", data)  # pictures that are encoded on the fly
    count = len(known) if hasattr(known, "__len__") else accelerator.num_processes
    if count < accelerator.num_processes:
        raise InputError(f"{accelerator.num_processes} processes for {count} examples: start at most {count}, or give more data")


def small_buckets(data: Examples, total: int) -> str:
    """A line that names the buckets of fewer pictures than the `total` of an update; empty where there are none."""
    if not isinstance(data, InBuckets) or data.buckets is None:
        return ""
    small = [f"{fit.count} {name}" for name, fit in zip(data.buckets.names, data.fits, strict=True) if 0 < fit.count < total]
    if not small:
        return ""
    return f"buckets with fewer pictures than the {total} of an update, which repeat them within one, and come the less often: {', '.join(small)}"


def described(accelerator: Accelerator, settings: TrainSettings) -> str:
    """The first line of a run: its device, processes, precision and global batch."""
    processes, device = accelerator.num_processes, accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    sharing = "1 process" if processes == 1 else f"{processes} processes ({'FSDP2' if is_sharded(accelerator) else 'DDP'})"
    factors = [settings.batch_size, *(n for n in (settings.gradient_accumulation, processes) if n > 1)]
    product = f" ({' x '.join(map(str, factors))})" if len(factors) > 1 else ""
    numbers = {"no": "float32", "bf16": "bf16", "fp16": "fp16"}[settings.precision]
    total = settings.batch_size * settings.gradient_accumulation * processes
    return f"{name}, {sharing}, precision {numbers}, {total} examples an update{product}"


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the processes share by FSDP2, as accelerate was started (`--use_fsdp --fsdp_version 2`); a process alone never does."""
    return accelerator.num_processes > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def sharded(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """A copy of a network of which each process's device holds its part, put there by torch; the network itself stays whole where it is.

    What is gathered at a time is a block: each module of the outermost lists of modules, as diffusers' networks have their blocks,
    and the rest. accelerate's own wrapping of a model does the same on GPUs alone.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    made, mesh = copy.deepcopy(network), init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for module in (*blocks(made), made):
        fully_shard(module, mesh=mesh, reshard_after_forward=bool(plugin.reshard_after_forward))
    return made


def blocks(network: nn.Module) -> list[nn.Module]:
    """The modules of the outermost lists of modules in a network, those with parameters."""
    found: list[nn.Module] = []
    for child in network.children():
        inside = isinstance(network, nn.ModuleList) and not isinstance(child, nn.ModuleList | nn.ModuleDict)
        found += [child] if inside and next(child.parameters(), None) is not None else blocks(child)
    return found


def is_part(value: Any) -> bool:
    """Whether a tensor is this process's part of a sharded one (a DTensor)."""
    return hasattr(value, "full_tensor")


def placed(value: Tensor, like: Any) -> Tensor:
    """A whole tensor as `like` is: on its device, or of a sharded one this process's part."""
    if not is_part(like):
        return value.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole(value: Any) -> Tensor:
    """All of a tensor; of a sharded one gathered from every process, each of which must ask for it."""
    return value.full_tensor() if is_part(value) else value
