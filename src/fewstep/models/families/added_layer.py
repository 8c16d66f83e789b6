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

    def __init__(self, in_features: int, out_features: int, **where: Any) -> None:
        super().__init__(in_features, out_features, bias=False, **where)
        nn.init.zeros_(self.weight)
        self.value: Tensor | None = None  # of the argument
        self.hooks: list[Any] = []

    def attach(self, network: nn.Module, outputs: Iterable[nn.Module]) -> None:
        """Make it a member of the network, which takes the argument (b, ...); it is added to the output of each layer in `outputs`."""
        network.add_module(self.member, self)
        taking = network.register_forward_pre_hook(self.take, with_kwargs=True)
        self.hooks = [taking, *(layer.register_forward_hook(self.add) for layer in outputs)]

    def detach_from(self, network: nn.Module) -> None:
        """Leave the stock network behind."""
        for hook in self.hooks:
            hook.remove()
        delattr(network, self.member)

    def take(self, network: nn.Module, inputs: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Before the network: keep the argument, which its own code does not know."""
        self.value = named.pop(self.argument, None)
        return inputs, named

    def add(self, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """After a layer: its output (b, ..., features) with this one's in it."""
        if self.value is None:
            return output
        added = self(self.embedded(self.value).to(self.weight.dtype)).to(output.dtype)
        return output + added.reshape(len(added), *[1] * (output.ndim - 2), -1)

    def embedded(self, value: Tensor) -> Tensor:
        """The layer's input (b, n) for values of the argument."""
        return value

    @torch.no_grad()
    def constant(self, value: Tensor) -> Tensor:
        """What is added for one value (1, ...) of the argument, float64 (features,)."""
        return to_float64(self.weight) @ to_float64(self.embedded(value.to(self.weight.device))[0])


def detached(network: nn.Module, member: str) -> Any:
    """The network without an added layer; it shares all weights with the one given."""
    made = copy.deepcopy(network, {id(kept): kept for kept in chain(network.parameters(), network.buffers())})
    layer = made.get_submodule(member)
    assert isinstance(layer, AddedLayer)
    layer.detach_from(made)
    return made


@torch.no_grad()
def add_to_bias(layers: Iterable[nn.Linear], added: Tensor) -> None:
    """Put what is added to the layers' outputs (features,), float64, into their biases, which are made anew."""
    for layer in layers:
        layer.bias = nn.Parameter((to_float64(layer.bias) + added).to(layer.bias.dtype), layer.bias.requires_grad)
