"""Weights that are kept in half precision and computed with in float32: half the memory, and to the bit what float32 weights give.

Each operation makes a float32 copy of the weights that it takes, and lets go of it. So frozen networks may stay in the dtype in which
their folder has them, on any device, whatever it can compute in.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

HALF = (torch.float16, torch.bfloat16)
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}  # of weights, by the names that settings have
_f = nn.functional
TAKE_WEIGHTS = {
    _f.linear, _f.bilinear, _f.conv1d, _f.conv2d, _f.conv3d, _f.conv_transpose1d, _f.conv_transpose2d, _f.conv_transpose3d, _f.embedding,
    _f.group_norm, _f.layer_norm, _f.rms_norm, _f.batch_norm, _f.instance_norm, _f.prelu, _f.scaled_dot_product_attention,
    torch.matmul, torch.bmm, torch.baddbmm, torch.addmm, torch.einsum, Tensor.matmul, Tensor.__matmul__, Tensor.bmm,
}  # fmt: skip


def holds_half(network: nn.Module) -> bool:
    """Whether some of a network's weights are in half precision."""
    return any(p.dtype in HALF for p in network.parameters())


def widened(network: nn.Module) -> nn.Module:
    """The network itself, what it has in half precision made float32."""
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.dtype in HALF:
            tensor.data = tensor.data.float()
    return network


class InFloat32(TorchFunctionMode):
    """Within it, operations that take weights take them, and all else that is in half precision, as float32.

    With `keep_half` a gradient's graph keeps frozen weights in half precision too. A network that computes its blocks again for the
    gradient needs no such thing, and must not have it.
    """

    def __init__(self, keep_half: bool = False) -> None:
        super().__init__()
        self.keep_half = keep_half

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func not in TAKE_WEIGHTS:
            return func(*args, **named)
        made: dict[int, Tensor] = {}  # where a float32 copy is -> the weights that it is of

        def wide(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.dtype not in HALF:
                return value
            copied = value.float()
            if not value.requires_grad:
                made[copied.data_ptr()] = value
            return copied

        args, named = tuple(map(wide, args)), {key: wide(value) for key, value in named.items()}
        if not (self.keep_half and made and torch.is_grad_enabled()):
            return func(*args, **named)

        def pack(tensor: Tensor) -> tuple[Tensor, bool]:
            weights = made.get(tensor.data_ptr())
            return (tensor, False) if weights is None or weights.shape != tensor.shape else (weights, True)

        with saved_tensors_hooks(pack, lambda packed: packed[0].float() if packed[1] else packed[0]):
            return func(*args, **named)
