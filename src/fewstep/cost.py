"""What one evaluation of a network costs: FLOPs, memory and seconds.

FLOPs and memory are counted on PyTorch's meta device, where tensors have shapes and no content, so a network that does not fit
this machine can be planned on it. Seconds are measured by a short probe of the network itself.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from fewstep.bench import seconds
from fewstep.condition import cast, to
from fewstep.model import Model

PROBE_FLOPS = 2e11  # of a probe's forward and backward pass, about


def evaluate(model: Model, batch_size: int) -> Tensor:
    """The output of the network for a batch of its inputs."""
    info, parameter = model.info, next(model.denoiser.network.parameters())
    z = torch.zeros(batch_size, *info.shape, device=parameter.device, dtype=parameter.dtype)
    t = torch.ones(batch_size, device=parameter.device)
    condition = cast(to(model.example(batch_size), parameter.device), parameter.dtype)
    return model.denoiser.call(model.denoiser.network, z, t, condition, t if info.takes_w else None)


def count(model: Model, batch_size: int) -> dict[str, Any]:
    """Parameters, bytes, FLOPs of an evaluation, and the bytes that a pass over `batch_size` keeps for its gradient."""
    network = model.denoiser.network.requires_grad_(True)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        evaluate(model, 1)
    with FlopCounterMode(display=False) as trained:
        evaluate(model, 1).sum().backward()
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), _FusedAttention():
        evaluate(model, batch_size)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "bytes": size_of(network),
        "flops": {"forward": forward.get_total_flops(), "trained": trained.get_total_flops()},
        "activations": sum(storage.nbytes() for key, storage in kept.items() if key not in weights),
    }


class _FusedAttention(TorchFunctionMode):
    """Attention that keeps no matrix of weights, as on a CPU and on GPUs: by itself the meta device takes the plain one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.scaled_dot_product_attention or not args or args[0].ndim != 4:
            return func(*args, **(kwargs or {}))
        mask = args[3] if len(args) > 3 else (kwargs or {}).get("attn_mask")
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3], attn_mask=mask)[0]


def size_of(network: nn.Module) -> int:
    """Bytes of the network's weights."""
    return sum(p.numel() * p.element_size() for p in network.parameters())


def measure(model: Model, device: torch.device, flops: float, batch_size: int, precision: str = "no") -> dict[str, Any]:
    """Seconds an example of an evaluation ("forward"), and of one with its gradient ("trained"), in a batch of PROBE_FLOPS."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    size = max(1, min(batch_size, int(PROBE_FLOPS / max(flops, 1))))
    network = model.denoiser.network.to(device).requires_grad_(True)

    def output() -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            return evaluate(model, size)

    def trained() -> None:
        network.zero_grad()
        output().square().mean().backward()

    def probe(work: Callable[[], Any]) -> float:
        first = seconds(work, device)  # it warms up, and stands where more would take long
        # the least: what else the machine does only adds, and two threads on busy cores are up to 30 times slower than one
        return (first if first > 2 else min(seconds(work, device) for _ in range(4 if first < 0.5 else 1))) / size

    with torch.no_grad():
        forward = probe(output)
    return {"forward": forward, "trained": probe(trained), "probed_batch": size}
