"""Negative prompts of students: a layer of what is to be kept away from, added to the time embedding as w is.

A student has one branch. With `student.negative_prompts` it takes, in training, the prompt that its teacher was guided away from: its
condition has one leaf more, "negative" (b, features), the summary of the negative prompt's encoding less that of no prompt, and a linear
layer of it, zero at first, is added to the output of the network's time embedder. So without a negative prompt it is a student like any
other, to the bit, in the stock pipeline too, which does not know the layer; and a negative prompt is baked into a bias, exactly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition, expand, take, to
from fewstep.models.denoiser import Call, Denoiser
from fewstep.models.families import Family
from fewstep.models.families.added_layer import AddedLayer, WithArgument, bake_into, detached
from fewstep.models.metadata import Info

LEAF = "negative"  # of a condition
WEIGHTS = "negative_embedding.safetensors"  # in a student's folder: the layer


class NegativeEmbedding(AddedLayer):
    """The layer of the summary of a negative prompt."""

    argument, member = LEAF, "negative_embedding"


@dataclass(frozen=True)
class NegativeCall:
    """A family's call of a network with a `NegativeEmbedding`, which takes the condition's leaf, or `chosen` (1, features) for all."""

    call: Call
    chosen: Tensor | None = None

    def __call__(self, network: nn.Module, z: Tensor, time: Tensor, condition: Any, w: Tensor | None) -> Tensor:
        negative = condition.get(LEAF)
        if negative is None and self.chosen is not None:
            negative = self.chosen.to(z).expand(len(z), -1)
        called: Any = network if negative is None else WithArgument(network, LEAF, negative)
        return self.call(called, z, time, condition, w)


def summary(encoding: Condition) -> Tensor:
    """(b, features) of an encoded prompt: its pooled leaves (b, n) as they are, the mean over the tokens that are shown of others."""
    assert isinstance(encoding, dict)
    masks = [leaf for leaf in encoding.values() if not leaf.is_floating_point()]
    parts = []
    for leaf in filter(torch.is_floating_point, encoding.values()):
        if leaf.ndim == 3:
            shown = next((mask for mask in masks if mask.shape == leaf.shape[:2]), torch.ones(leaf.shape[:2], device=leaf.device))
            leaf = (leaf * shown[:, :, None]).sum(1) / shown.sum(1, keepdim=True).clamp(min=1)
        parts.append(leaf.float())
    return torch.cat(parts, 1)


def attach_embedding(network: nn.Module, family: Family, features: int) -> list[NegativeEmbedding]:
    """Give a student's network its layer, zero, or each of its networks one."""
    layers = []
    for part in family.networks(network):
        outputs: list[Any] = family.time_embedding_outputs(part)
        outputs = [
            layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer for layer in outputs
        ]  # under a LoRA's adapter
        layers.append(made := NegativeEmbedding(features, outputs))
        made.attach(part, outputs)
    return layers


def open_network(family: Family, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network of a folder that `fewstep` wrote, its weights in a dtype, with the layer where it has one."""
    from safetensors.torch import load_file

    network = family.open(folder, dtype)
    if (folder / WEIGHTS).is_file():
        weights = load_file(folder / WEIGHTS)
        for layer, name in zip(attach_embedding(network, family, weights["weight"].shape[1]), weight_names(), strict=False):
            layer.load_state_dict({"weight": weights[name]})
    return network


def weight_names() -> Iterator[str]:
    """The names of the layers' weights in their file: "weight", "weight_2", ..., one for each network."""
    return (f"weight_{number}" if number > 1 else "weight" for number in count(1))


def embeddings(network: nn.Module) -> list[NegativeEmbedding]:
    """The layers that a network has."""
    return [module for module in network.modules() if isinstance(module, NegativeEmbedding)]


def save_embedding(network: nn.Module, folder: Path) -> None:
    """Write the layers into a student's folder; nothing of a network without."""
    from safetensors.torch import save_file

    weights = {
        name: layer.weight.detach().cpu().contiguous() for name, layer in zip(weight_names(), embeddings(network), strict=False)
    }
    if weights:
        save_file(weights, folder / WEIGHTS, {"format": "pt"})


def remove_embedding(network: nn.Module) -> nn.Module:
    """The network as its family knows it; it shares all weights with the one given."""
    return detached(network, NegativeEmbedding.member) if embeddings(network) else network


@dataclass(frozen=True)
class NegativePrompts:
    """Rows of encoded negative prompts that stage one draws from, the first being that of none."""

    encoded: Condition  # (1 + n, ...), for the teacher's second branch
    summaries: Tensor  # (1 + n, features), for the student; zero for none
    share: float  # of the examples that are drawn one

    @classmethod
    def encode(cls, family: Family, info: Info, prompts: Sequence[str], share: float = 1.0) -> "NegativePrompts":
        """The rows of a list of prompts, encoded by the teacher's own encoders.

        Raises:
            InputError: a model of classes, or of a family without an encoding of prompts.
        """
        if info.condition != "text":
            raise InputError(
                "negative prompts are for teachers that take prompts; this one takes class labels: set student.negative_prompts to false"
            )
        if not family.time_embedding:
            raise InputError(f"negative prompts are not known for the family {info.family}; set student.negative_prompts to false")
        nulls: list[Any] = [family.null(info, prompt) for prompt in ("", *prompts)]
        rows: list[Any] = [null() if callable(null) else null for null in nulls]
        encoded: Condition = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        summaries = summary(encoded)
        return cls(encoded, summaries - summaries[:1], share)

    def to(self, device: torch.device) -> "NegativePrompts":
        """The same rows on a device."""
        return replace(self, encoded=to(self.encoded, device), summaries=self.summaries.to(device))

    def draw(self, which: Tensor, place: Tensor) -> Tensor:
        """A row for each example, int64 (b,), from two sets of uniform numbers: a prompt of the list for a share of them, else none."""
        drawn = 1 + (place * (len(self.summaries) - 1)).long().clamp(max=len(self.summaries) - 2)
        return torch.where(which < self.share, drawn, 0)

    def null(self, index: Tensor) -> Any:
        """The teacher's null condition, a function of a condition of as many examples as there are rows (b,) in the index."""
        index = index.to(self.summaries.device)
        return lambda condition: expand(take(self.encoded, index), condition)

    def add_to(self, condition: Condition, index: Tensor) -> Condition:
        """The student's condition: with the summaries of the rows (b,)."""
        assert isinstance(condition, dict)
        return {**condition, LEAF: self.summaries[index.to(self.summaries.device)]}


def fold_negative_prompt(denoiser: Denoiser, family: Family, plain: bool = False) -> Denoiser:
    """The denoiser with the negative prompt that was chosen for it in a bias, which makes a student like any other, with the same samples.

    Where none was chosen it is the denoiser itself or, to be `plain`, that without the layer.
    """
    call = denoiser.call
    if not isinstance(call, NegativeCall) or (call.chosen is None and not plain):
        return denoiser
    network: Any = remove_embedding(denoiser.network)
    if call.chosen is not None:
        for part, layer in zip(family.networks(network), embeddings(denoiser.network), strict=True):
            bake_into(family.time_embedding_outputs(part), layer.constant(call.chosen))
    return replace(denoiser, network=network, call=call.call)
