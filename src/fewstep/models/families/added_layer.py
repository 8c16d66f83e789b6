"""A layer that stock networks do not have: its output is added to that of some of theirs, for as long as it is attached."""

import copy
from collections.abc import Iterable
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fewstep.method.process import to_float64


class AddedLayer(nn.Linear):
    """A linear layer without bias, zero at first, of an argument that the network itself does not know.

    All by hooks that are methods of this module, so that a deep copy of the network has its own. The argument stays here after an
    evaluation, since gradient checkpointing runs parts of it again.
    """

    argument: ClassVar[str]  # its name
    member: ClassVar[str]  # the name of this layer in the network

    def __init__(self, taken: int, given: int, **where: Any) -> None:
        super().__init__(taken, given, bias=False, **where)
        nn.init.zeros_(self.weight)
        self.told: Tensor | None = None
        self.hooks: list[Any] = []

    def attach(self, network: nn.Module, time_embedding_outputs: Iterable[nn.Module]) -> None:
        """Make it a member of the network, which takes the argument (b, ...); the output of each entrance has it added."""
        network.add_module(self.member, self)
        taking = network.register_forward_pre_hook(self.take, with_kwargs=True)
        self.hooks = [taking, *(entrance.register_forward_hook(self.add) for entrance in time_embedding_outputs)]

    def detach_from(self, network: nn.Module) -> None:
        """Leave the stock network behind."""
        for hook in self.hooks:
            hook.remove()
        delattr(network, self.member)

    def take(self, network: nn.Module, inputs: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Before the network: keep the argument, which its own code does not know."""
        self.told = named.pop(self.argument, None)
        return inputs, named

    def add(self, entrance: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """After an entrance: its output (b, features) with this layer's in it."""
        return output if self.told is None else output + self(self.embedded(self.told).to(self.weight.dtype)).to(output.dtype)

    def embedded(self, told: Tensor) -> Tensor:
        """What the layer takes (b, n) of the argument."""
        return told

    @torch.no_grad()
    def constant(self, told: Tensor) -> Tensor:
        """What is added for one value (1, ...) of the argument, float64 (features,)."""
        return to_float64(self.weight) @ to_float64(self.embedded(told.to(self.weight.device))[0])


def sharing(network: nn.Module) -> Any:
    """A copy of the modules around the same parameters and buffers."""
    return copy.deepcopy(network, {id(kept): kept for kept in chain(network.parameters(), network.buffers())})


def detached(network: nn.Module, member: str) -> Any:
    """The network without an added layer; it shares all weights with the one given."""
    made = sharing(network)
    layer = made.get_submodule(member)
    assert isinstance(layer, AddedLayer)
    layer.detach_from(made)
    return made


@torch.no_grad()
def add_to_bias(time_embedding_outputs: Iterable[nn.Linear], added: Tensor) -> None:
    """Put what a layer adds (features,), float64, into the entrances' biases, which are made anew."""
    for entrance in time_embedding_outputs:
        entrance.bias = nn.Parameter((to_float64(entrance.bias) + added).to(entrance.bias.dtype), entrance.bias.requires_grad)
