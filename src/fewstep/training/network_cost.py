"""What one evaluation of a network costs: FLOPs and memory, counted on shapes alone, and seconds, by a short probe."""

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from fewstep import compat
from fewstep.devices import seconds
from fewstep.method.conditioning import cast, to
from fewstep.models.half_weights import InFloat32, holds_half, widened
from fewstep.models.lora import has_adapters
from fewstep.models.model import Model
from fewstep.training.trainer import checkpoint_blocks

SCRATCH = (
    1.5  # what a decoding takes on a CPU of what its tensors hold (measured with Stable Diffusion's VAE): convolutions have buffers
)
PROBE_FLOPS = 2e11  # of a probe's forward and backward pass, about


def evaluate(model: Model, batch_size: int) -> Tensor:
    """The output of the network for a batch of its inputs."""
    info, network, parameter = model.info, model.denoiser.network, next(model.denoiser.network.parameters())
    dtype, half = torch.promote_types(parameter.dtype, torch.float32), holds_half(network)
    z = torch.zeros(batch_size, *info.shape, device=parameter.device, dtype=dtype)
    t = torch.ones(batch_size, device=parameter.device)
    condition = cast(to(model.example(batch_size), parameter.device), dtype)
    with InFloat32() if half else nullcontext():
        return model.denoiser.call(network, z, t, condition, t if info.takes_w else None)


def count(model: Model, batch_size: int, checkpointing: bool = False) -> dict[str, Any]:
    """Parameters, bytes, FLOPs of an evaluation, and the bytes that a pass over `batch_size` keeps for its gradient.

    With `checkpointing` the blocks of the network are computed again for it. "evaluation" are bytes that a pass over two examples
    takes without a gradient, at most.
    """
    network = model.denoiser.network
    if not has_adapters(network):
        network.requires_grad_(True)
    weights = bytes_of(network.parameters())
    if network_is_of_shapes(network):
        widened(network)  # as it is computed with
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: backward_flops}) as counter:
        output = evaluate(model, 1)
        forward = counter.get_total_flops()
        output.sum().backward()
    own = [p for p in network.parameters() if p.requires_grad]
    return {
        "parameters": sum(p.numel() for p in network.parameters()), "trained_parameters": sum(p.numel() for p in own),
        "bytes": weights, "trained_bytes": bytes_of(own),
        "flops": {"forward": forward, "trained": counter.get_total_flops() + (forward if checkpointing else 0)},
        "activations": (kept := activation_bytes(model, batch_size, checkpointing)), "evaluation": min(kept, 2 * kept // batch_size),
    }  # fmt: skip


def network_is_of_shapes(network: nn.Module) -> bool:
    """Whether a network is on the meta device."""
    return next(network.parameters()).device.type == "meta"


def backward_flops(
    output: Any,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    *rest: Any,
    **named: Any,
) -> int:
    """Of a convolution's gradient, from shapes: the forward pass's for each of input and weight; torch's own count leaves groups out."""
    _, _, needed = rest[:3]
    return sum(needed[:2]) * conv_flop_count(list(x), list(weight), list(output), transposed=transposed)


def bytes_of(tensors: Any) -> int:
    """Bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def activation_bytes(model: Model, batch_size: int, checkpointing: bool = False) -> int:
    """The bytes that a pass over `batch_size` keeps for its gradient; with checkpointing, what enters each block, and one block's own."""
    network: Any = model.denoiser.network
    weights, largest = {compat.storage_key(p) for p in network.parameters()}, 0
    kept: dict[int, Any] = {}  # each storage once

    def keep(storages: dict[int, Any], tensor: Tensor) -> Tensor:
        if (key := compat.storage_key(tensor)) not in weights:
            storages[key] = tensor.untyped_storage()
        return tensor

    def keeping(storages: dict[int, Any]) -> saved_tensors_hooks:
        return saved_tensors_hooks(partial(keep, storages), lambda tensor: tensor)

    def block(module: Callable[..., Any], *given: Any, **named: Any) -> Any:
        nonlocal largest
        for value in compat.leaves((given, named)):
            if isinstance(value, Tensor):
                keep(kept, value)
        with keeping(inside := {}):
            output = module(*given, **named)
        largest = max(largest, sum(storage.nbytes() for storage in inside.values()))
        return output

    if checkpointing:
        checkpoint_blocks(network)
        network.enable_gradient_checkpointing(block)
    with keeping(kept), _FusedAttention():
        evaluate(model, batch_size)
    return sum(storage.nbytes() for storage in kept.values()) + largest


def decoding_bytes(model: Model) -> int:
    """Bytes that the autoencoder takes to decode the latents of one picture, its weights among them; 0 of a model of pixels.

    Counted on shapes, `SCRATCH` times what tensors hold at most.
    """
    family = model.family.bare()
    weights = family.load_shapes()
    if not weights:
        return 0
    with torch.no_grad(), _Held() as held:
        family.to_images(torch.zeros(1, *model.info.shape, device="meta"))
    return weights + round(SCRATCH * held.most)


class _Held(compat.DispatchMode):
    """Counts the bytes that tensors made within it hold, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.storages: dict[int, list[int]] = {}  # [tensors, bytes] of each storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in compat.leaves(output):
            if isinstance(tensor, Tensor):
                key = compat.storage_key(tensor)
                if key not in self.storages:
                    self.storages[key] = [0, tensor.untyped_storage().nbytes()]
                    self.now += self.storages[key][1]
                self.storages[key][0] += 1
                weakref.finalize(tensor, self.let_go, key)
        self.most = max(self.most, self.now)
        return output

    def let_go(self, key: int) -> None:
        """One tensor of a storage is gone."""
        entry = self.storages[key]
        entry[0] -= 1
        if not entry[0]:
            self.now -= self.storages.pop(key)[1]


class _FusedAttention(TorchFunctionMode):
    """Attention that keeps no matrix of weights, as on a CPU and on GPUs: by itself the meta device takes the plain one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | (kwargs or {})
        if func is not nn.functional.scaled_dot_product_attention or named["query"].ndim != 4:
            return func(*args, **(kwargs or {}))
        return compat.attention_without_weights(named["query"], named["key"], named["value"], mask=named.get("attn_mask"))


def measure(model: Model, device: torch.device, flops: float, batch_size: int, precision: str = "no") -> dict[str, Any]:
    """Seconds an example of an evaluation ("forward"), and of one with its gradient ("trained"), in a batch of PROBE_FLOPS."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    size = max(1, min(batch_size, int(PROBE_FLOPS / max(flops, 1))))
    network = model.denoiser.network.to(device)
    if not has_adapters(network):
        network.requires_grad_(True)

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
