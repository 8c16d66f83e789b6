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

    def __init__(self, in_features: int, outputs: list[nn.Linear]) -> None:
        layer = outputs[0]
        features = layer.in_features if layer.bias is None else layer.out_features
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)  # it is trained, whatever frozen weights are kept in
        super().__init__(in_features, features, bias=False, device=layer.weight.device, dtype=dtype)
        nn.init.zeros_(self.weight)
        self.value: Tensor | None = None  # of the argument
        self.hooks: list[Any] = []

    def attach(self, network: nn.Module, outputs: Iterable[nn.Linear]) -> None:
        """Make it a member of the network, which takes the argument (b, ...); it is added to the output of each layer in `outputs`.

        Of a layer without bias it scales the inputs instead, by 1 and what it gives, since only that can be baked into the layer.
        """
        network.add_module(self.member, self)
        taking = network.register_forward_pre_hook(self.take, with_kwargs=True)
        self.hooks = [taking]
        for layer in outputs:
            self.hooks.append(
                layer.register_forward_pre_hook(self.scale) if layer.bias is None else layer.register_forward_hook(self.add)
            )

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
        return output if self.value is None else output + self.given(output)

    def scale(self, layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """Before a layer without bias: its inputs (b, ..., features), scaled."""
        return inputs if self.value is None else (inputs[0] * (1 + self.given(inputs[0])),)

    def given(self, like: Tensor) -> Tensor:
        """The output for the argument that was taken, (b, 1, ..., features) to go with `like`."""
        assert self.value is not None
        made = self(self.embedded(self.value).to(self.weight.dtype)).to(like.dtype)
        return made.reshape(len(made), *[1] * (like.ndim - 2), -1)

    def embedded(self, value: Tensor) -> Tensor:
        """The layer's input (b, n) for values of the argument."""
        return value

    @torch.no_grad()
    def constant(self, value: Tensor) -> Tensor:
        """What is added for one value (1, ...) of the argument, float64 (features,)."""
        return to_float64(self.weight) @ to_float64(self.embedded(value.to(self.weight.device))[0])


class WithArgument:
    """A network whose calls have one argument more, `name`."""

    def __init__(self, network: nn.Module, name: str, value: Tensor) -> None:
        self.network, self.name, self.value = network, name, value

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self.network(*inputs, **named, **{self.name: self.value})

    def __getattr__(self, member: str) -> Any:
        return getattr(self.network, member)


def detached(network: nn.Module, member: str) -> Any:
    """The network without its added layers of this name; it shares all weights with the one given."""
    made = copy.deepcopy(network, {id(kept): kept for kept in chain(network.parameters(), network.buffers())})
    for module in list(made.modules()):
        if isinstance(layer := getattr(module, member, None), AddedLayer):
            layer.detach_from(module)
    return made


@torch.no_grad()
def bake_into(layers: Iterable[nn.Linear], value: Tensor) -> None:
    """Put what an added layer gives for one value (features,), float64, into the layers: their biases, or weights where there are none."""
    for layer in layers:
        weight, bias = layer.weight, layer.bias
        if bias is None:
            layer.weight = nn.Parameter((to_float64(weight) * (1 + value)).to(weight.dtype), weight.requires_grad)
        else:
            layer.bias = nn.Parameter((to_float64(bias) + value).to(bias.dtype), bias.requires_grad)
