"""Names of libraries that their authors may change without notice, each used nowhere else. tests/models/test_compat.py fails when one goes.

Seen in torch 2.13, accelerate 1.15 and diffusers 0.42; pyproject.toml holds diffusers below 0.43 for what is here of it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode as DispatchMode  # noqa: F401 - sees each operation with its tensors


def reset_accelerator() -> None:
    """Let the next `Accelerator` choose its device and precision; accelerate keeps those of the first of a process otherwise."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def skip_where(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """Let the next step of a fused optimizer change nothing where `bad` () is 1, as gradient scalers do; the device is not waited for."""
    optimizer.found_inf = bad  # pyright: ignore[reportAttributeAccessIssue]


def storage_key(tensor: Tensor) -> int:
    """The same number for tensors of one storage; on the meta device, where `data_ptr` is 0, torch has no public one."""
    return tensor.untyped_storage()._cdata


def attention_without_weights(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention (b, heads, tokens, features) that keeps no matrix of weights, on the meta device too, which has no public choice of kernel."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=mask)[0]


def leaves(tree: Any) -> list[Any]:
    """What is in nested dictionaries, lists and tuples, in torch's order."""
    from torch.utils._pytree import tree_leaves

    return tree_leaves(tree)


def can_checkpoint(network: Any) -> bool:
    """Whether a network of diffusers can compute its blocks again for the gradient; `enable_gradient_checkpointing` is there in any case."""
    return getattr(network, "_supports_gradient_checkpointing", False)


def kept_in_float32(network: Any) -> tuple[str, ...]:
    """The parts of names of what a network of diffusers keeps in float32 whatever its dtype is; `from_pretrained` alone heeds it."""
    return tuple(getattr(network, "_keep_in_fp32_modules", None) or ())


def optional_components(pipeline_class: Any) -> list[str]:
    """The components that a pipeline class of diffusers may be without; `from_pretrained` has to be given None for others."""
    return list(pipeline_class._optional_components)


def checkpoint_kind(file: Path) -> str:
    """What diffusers calls a single-file checkpoint, "v1", "xl_base", "sd3", ...; `from_single_file` needs its pipeline class named."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint

    return infer_diffusers_model_type(load_single_file_checkpoint(str(file)))
