"""Negative prompts of students: a layer of what is to be kept away from, added to the time embedding as w is.

A student has one branch. With `student.negative_prompts` it is told, in training, the prompt that its teacher was guided away from: its
condition has one leaf more, "negative" (b, features), the summary of the negative prompt's encoding less that of no prompt, and a linear
layer of it, zero at first, is added to the output of the network's time embedder. So without a negative prompt it is a student like any
other, to the bit, in the stock pipeline too, which does not know the layer; and a negative prompt is baked into a bias, exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewstep.condition import Condition
from fewstep.denoiser import Call
from fewstep.errors import InputError
from fewstep.families import Family
from fewstep.families.added_layer import AddedLayer, add_to_bias, detached
from fewstep.info import Info

if TYPE_CHECKING:
    from fewstep.model import Model

LEAF = "negative"  # of a condition
WEIGHTS = "negative_embedding.safetensors"  # in a student's folder: the layer


class NegativeEmbedding(AddedLayer):
    """The layer of the summary of a negative prompt."""

    argument, member = LEAF, "negative_embedding"


@dataclass(frozen=True)
class NegativeCall:
    """A family's call of a network with a `NegativeEmbedding`, which is told the condition's leaf, or `chosen` (1, features) for all."""

    call: Call
    chosen: Tensor | None = None

    def __call__(self, network: nn.Module, z: Tensor, time: Tensor, condition: Any, w: Tensor | None) -> Tensor:
        """The output (b, ...)."""
        told = condition.get(LEAF)
        if told is None and self.chosen is not None:
            told = self.chosen.to(z).expand(len(z), -1)
        return self.call(network if told is None else Told(network, told), z, time, condition, w)  # pyright: ignore[reportArgumentType]


class Told:
    """A network whose calls have the summaries (b, features) as one argument more."""

    def __init__(self, network: nn.Module, told: Tensor) -> None:
        self.network, self.told = network, told

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """What the network says."""
        return self.network(*inputs, **named, **{LEAF: self.told})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


def summary(encoding: Condition) -> Tensor:
    """(b, features) of an encoded prompt: its pooled leaves (b, n) as they are, the mean over the tokens that are shown of others."""
    assert isinstance(encoding, dict)
    masks = [leaf for leaf in encoding.values() if not leaf.is_floating_point()]
    parts = []
    for leaf in encoding.values():
        if not leaf.is_floating_point():
            continue
        if leaf.ndim == 3:
            shown = next((mask for mask in masks if mask.shape == leaf.shape[:2]), torch.ones(leaf.shape[:2], device=leaf.device))
            leaf = (leaf * shown[:, :, None]).sum(1) / shown.sum(1, keepdim=True).clamp(min=1)
        parts.append(leaf.float())
    return torch.cat(parts, 1)


def encodings(family: Family, info: Info, prompts: Sequence[str]) -> Condition:
    """What a teacher's second branch is given (1 + n, ...): of no prompt, then of each negative one.

    Raises:
        InputError: a model of classes, or of a family without an encoding of prompts.
    """
    if info.condition != "text":
        raise InputError(
            "negative prompts are for teachers that take prompts; this one takes class labels: set student.negative_prompts to false"
        )
    made: list[Any] = [null() if callable(null) else null for null in (family.null(info, prompt) for prompt in ("", *prompts))]
    if not all(isinstance(tree, dict) for tree in made) or not hasattr(family, "entrances"):
        raise InputError(f"negative prompts are not known for the family {info.family}; set student.negative_prompts to false")
    return {name: torch.cat([tree[name] for tree in made]) for name in made[0]}


def told_of(encoded: Condition) -> Tensor:
    """What students are told (1 + n, features) of `encodings`: zero for no prompt."""
    summaries = summary(encoded)
    return summaries - summaries[:1]


def attach(network: nn.Module, family: Any, features: int) -> NegativeEmbedding:
    """Give a student's network its layer, zero."""
    entrances = [layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer for layer in family.entrances(network)]
    weight = entrances[0].weight
    made = NegativeEmbedding(features, entrances[0].out_features, device=weight.device, dtype=weight.dtype)
    made.attach(network, entrances)
    return made


def open_network(family: Family, folder: Path) -> nn.Module:
    """The network of a folder that `fewstep` wrote, with the layer where it has one."""
    from safetensors.torch import load_file

    network = family.open(folder)
    if (folder / WEIGHTS).is_file():
        weights = load_file(folder / WEIGHTS)
        attach(network, family, weights["weight"].shape[1]).load_state_dict(weights)
    return network


def write_layer(network: nn.Module, folder: Path) -> None:
    """Write the layer into a student's folder; nothing of a network without."""
    from safetensors.torch import save_file

    layer = getattr(network, NegativeEmbedding.member, None)
    if layer is not None:
        save_file({"weight": layer.weight.detach().cpu().contiguous()}, folder / WEIGHTS, {"format": "pt"})


def stripped(network: nn.Module) -> nn.Module:
    """The network as its family knows it; it shares all weights with the one given."""
    return detached(network, NegativeEmbedding.member) if hasattr(network, NegativeEmbedding.member) else network


def keeping_from(model: "Model", negative_prompt: str) -> "Model":
    """The teacher guided away from a prompt, or the student told this negative prompt for every example.

    Raises:
        InputError: a student that did not learn it, or a model without text.
    """
    call, info = model.denoiser.call, model.info
    if info.kind == "teacher" and info.condition == "text":
        return replace(model, denoiser=replace(model.denoiser, null=model.family.null(info, negative_prompt)))
    if info.condition != "text":
        raise InputError("this model takes class labels, and a negative prompt is for models of text; leave it out")
    if not isinstance(call, NegativeCall):
        raise InputError(
            "a negative prompt needs the second branch that a distilled student has not; leave it out, sample the teacher, or distil with "
            "student.negative_prompts = true"
        )
    told = told_of(encodings(model.family, info, [negative_prompt]))[1:]
    return replace(model, denoiser=replace(model.denoiser, call=replace(call, chosen=told)))


def settled(model: "Model", plain: bool = False) -> "Model":
    """The model with the negative prompt that was chosen for it in a bias, which makes a student like any other, with the same samples.

    Where none was chosen it is the model itself or, to be `plain`, that without the layer.
    """
    call, family = model.denoiser.call, model.family
    if not isinstance(call, NegativeCall) or (call.chosen is None and not plain):
        return model
    network: Any = stripped(model.denoiser.network)
    if call.chosen is not None:
        added = model.denoiser.network.get_submodule(NegativeEmbedding.member).constant(call.chosen)  # pyright: ignore[reportCallIssue]
        add_to_bias(family.entrances(network), added)  # pyright: ignore[reportAttributeAccessIssue]
    info = model.info.model_copy(update={"negative_prompts": False})
    return replace(model, denoiser=replace(model.denoiser, network=network, call=call.call), info=info)
