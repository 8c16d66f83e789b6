"""LoRA students: adapters and the layer for w, trained on the teacher's own frozen weights, of which memory holds one copy.

A teacher, its student and the student of the next rung are modules of their own around the very same parameters; each student has
adapters and a layer for w besides. So nothing is switched on and off between two evaluations, and a rung's teacher is the last
rung's adapters on the teacher's weights. A student is saved with its adapters merged, and the adapters in a file beside.
"""

import copy
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.compat import kept_in_float32
from fewstep.errors import InputError, as_input_error, nearest
from fewstep.models.families import Family
from fewstep.models.half_weights import HALF
from fewstep.models.model import Model

ADAPTERS = "adapters.safetensors"  # in a student's folder, beside its merged weights
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
UNET = (  # what LoRAs for few steps adapt, and the time embedding, through which w comes in
    "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv",
    "time_emb_proj", "time_embedding.linear_1", "time_embedding.linear_2",
)  # fmt: skip
ENDS = ("conv_in", "conv_out")  # of a UNet without attention besides
INPUTS = (  # layers for w, those of Flux, and for negative prompts
    "time_embedding.cond_proj.weight", "w_embedding.weight",
    *(f"time_text_embed.guidance_embedder.{name}" for name in ("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias")),
    "negative_embedding.weight",
)  # fmt: skip


def is_input(name: str) -> bool:
    """Whether a weight of this name is of a layer for w or for negative prompts, of one network or of several in one."""
    return f".{name}".endswith(tuple(f".{known}" for known in INPUTS))


def inputs_of(network: nn.Module) -> set[str]:
    """The names of the weights of a student's layers for w and for negative prompts.

    A guidance embedder is such a layer of Flux; where w has one of its own, it is the teacher's (HunyuanVideo).
    """
    found = {name for name, _ in network.named_parameters() if is_input(name)}
    embedded = any(name.endswith("w_embedding.weight") for name in found)
    return {name for name in found if not (embedded and "guidance_embedder" in name)}


def lora_student(
    teacher: nn.Module,
    family: Family,
    seed: int,
    *,
    rank: int,
    alpha: float,
    targets: tuple[str, ...] | None,
    base: str | None = None,
) -> nn.Module:
    """A student around the teacher's own parameters, frozen; its adapters and its layer for w change nothing yet.

    The adapters count alpha / rank; their first weights are a function of the seed. `targets` are ends of layers' names (None: what
    suits the network). `base` is what the adapters' file names as the model they belong to.

    Raises:
        InputError: a network of one's own, whose input for w is not known, or targets that are not there.
    """
    from peft import LoraConfig, inject_adapter_in_model

    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in teacher.parameters()}
    with torch.device("meta"):  # the family makes its student without memory; the weights come from the teacher
        student = family.student_of(copy.deepcopy(teacher, empty | {id(b): b for b in teacher.buffers()}))
    new = _tie(student, teacher, family.new_weights(dict(teacher.named_parameters())))
    if not new or not all(map(is_input, new)):
        raise InputError(f"student.lora is not known for the family {family.name}; leave it out, to train the whole network")
    names: Any = _layers(student, targets)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, base_model_name_or_path=base)  # pyright: ignore[reportArgumentType]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, student)
    student.requires_grad_(False)
    for p in added(student).values():
        p.data = p.data.float() if p.dtype in HALF else p.data  # frozen weights may be in half precision, not what is trained
    return _train_added(student).eval()


def _tie(student: nn.Module, teacher: nn.Module, begin: dict[str, Tensor]) -> list[str]:
    """Put the teacher's parameters and buffers into the student, and copies of `begin`, else zeros, into what it has besides: its names."""
    shared = dict(teacher.named_parameters(remove_duplicate=False)) | dict(teacher.named_buffers(remove_duplicate=False))
    like, new = next(teacher.parameters()), []
    for name, p in list(student.named_parameters(remove_duplicate=False)):
        if name not in shared:
            new.append(name)
            first = begin[name].detach().clone() if name in begin else torch.zeros(p.shape, dtype=like.dtype, device=like.device)
            shared[name] = nn.Parameter(first.float() if like.dtype in HALF else first)
    for name, value in shared.items():
        module, _, leaf = name.rpartition(".")
        setattr(student.get_submodule(module), leaf, value)
    return new


def _layers(network: nn.Module, targets: tuple[str, ...] | None) -> list[str]:
    """The full names of the layers to adapt: those whose names end in one of `targets`, or the defaults for this network.

    Raises:
        InputError: a target that no linear or convolution layer ends in, or nothing to adapt.
    """
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d)]
    inputs = inputs_of(network)  # those are trained whole
    layers = [name for name in layers if f"{name}.weight" not in inputs]

    def ending(*ends: str) -> list[str]:
        return [name for name in layers if f".{name}".endswith(tuple(f".{end}" for end in ends))]

    for target in targets or ():
        if not ending(target):
            known = sorted({name.rpartition(".")[2] for name in layers})
            raise InputError(f"student.lora.targets: no linear or convolution layer is called '{target}'; {nearest(target, known)}")
    found = ending(*(targets or ATTENTION))
    if not targets and hasattr(network, "conv_in") and hasattr(network, "time_embedding"):
        found = ending(*ATTENTION, *UNET, *(() if found else ENDS))
    if not found:
        raise InputError("student.lora finds no layer that it knows in this network; name some in student.lora.targets")
    return found


def name_of(teacher: Path | str | None) -> str | None:
    """What an adapters' file calls the model that they belong to: a hub id, or a folder's name, not where it is on this machine."""
    return Path(teacher).resolve().name if teacher and Path(teacher).exists() else teacher and str(teacher)


def has_adapters(network: nn.Module) -> bool:
    """Whether this is a student of ours with adapters that are not merged."""
    return hasattr(network, "peft_config")


def added(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a student has besides its teacher's: adapters and the layer for w."""
    inputs = inputs_of(network)
    return {name: p for name, p in network.named_parameters() if ".lora_" in name or name in inputs}


def next_lora_student(network: nn.Module) -> nn.Module:
    """A copy with adapters and a layer for w of its own, to be trained, around the same frozen weights."""
    return _train_added(_sharing(network, {id(p) for p in added(network).values()}))


def _train_added(network: nn.Module) -> nn.Module:
    for p in added(network).values():
        p.requires_grad_(True)
    return network


def _sharing(network: nn.Module, copied: Collection[int] = ()) -> Any:
    """A copy of the modules around the same parameters, all but those `copied` by their id, and the same buffers."""
    kept = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in kept if id(tensor) not in copied})


@torch.no_grad()
def merged(network: nn.Module, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> nn.Module:
    """The stock network of a student in a dtype (None: the layer's own), adapters added to the weights; it shares all that stays as it is.

    A network without adapters, in the dtype that it has, is itself. What a class of diffusers keeps in float32 stays so. What changes is
    put on `device`, where one is given: a GPU that trains has no room for it.
    """
    wide = kept_in_float32(network) if dtype in HALF else ()

    def cast(name: str, value: Tensor) -> Tensor:
        to = torch.float32 if any(word in name.split(".") for word in wide) else dtype
        return value if to is None or not value.is_floating_point() else value.to(to)

    if not has_adapters(network) and all(cast(name, value).dtype == value.dtype for name, value in network.state_dict().items()):
        return network
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted: dict[str, Any] = {name: layer for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)}
    deltas = {id(layer.get_base_layer().weight): layer for layer in adapted.values()}
    memo: dict[int, Any] = {id(buffer): cast(name, buffer) for name, buffer in network.named_buffers()}
    for name, p in network.named_parameters():
        value, layer = p, deltas.get(id(p))
        if layer is not None:
            value = (p.float() if p.dtype in HALF else p) + layer.get_delta_weight("default")
        value = value if ".lora_" in name else cast(name, value)
        memo[id(p)] = p if value is p else nn.Parameter(value.to(device or value.device), requires_grad=False)
    made: Any = copy.deepcopy(network, memo)
    for name in adapted:
        made.set_submodule(name, made.get_submodule(name).get_base_layer())
    if adapted:
        del made.peft_config
    return made


def save_adapters(model: Model, folder: Path) -> None:
    """Write what a LoRA student has besides its teacher's weights into its folder; nothing for another model."""
    from safetensors.torch import save_file

    if model.info.takes_w and (found := adapters_of(model)):
        save_file(found[0], folder / ADAPTERS, {"format": "pt", "fewstep": json.dumps(found[1])})


def adapters_of(model: Model) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors by name, {"rank", "alpha", "base"}) of a LoRA student, from its network or its folder; None for another model."""
    from safetensors import safe_open

    network: Any = model.denoiser.network
    if has_adapters(network):
        config = network.peft_config["default"]
        known = {"rank": config.r, "alpha": config.lora_alpha, "base": config.base_model_name_or_path}
        return {name: p.detach().cpu().contiguous() for name, p in added(network).items()}, known
    if model.family.folder is None or not (file := model.family.folder / ADAPTERS).is_file():
        return None
    with safe_open(file, framework="pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, json.loads(opened.metadata()["fewstep"])  # noqa: SIM118 - not a dict


@torch.no_grad()
def load_adapters(network: nn.Module, folder: Path) -> None:
    """Put the adapters of a student's folder into a student of the same teacher.

    Raises:
        InputError: they are missing, or others than this student has.
    """
    from safetensors.torch import load_file

    file, mine = folder / ADAPTERS, added(network)
    with as_input_error(f"{file} cannot be used", f"remove {folder} to train that stage again"):
        tensors = load_file(file)
        if {name: p.shape for name, p in mine.items()} != {name: value.shape for name, value in tensors.items()}:
            raise ValueError("it is of another student")
        for name, p in mine.items():
            p.copy_(tensors[name])
