"""Networks of diffusers that have no input for w: an embedding of w is added to what their time embedders give.

A family whose network knows nothing of w subclasses `AddedEmbedding` (for one that takes a text: `text_transformer.TextTransformer`), names
the linear layer that ends its time embedder, `time_embedding`, and calls the network with `**given(w)`.

The student is an instance of the stock class with its state dict and one layer more, `w_embedding.weight`, zero at first. Since w
is added to the output of a linear layer, a scale is baked into that layer's bias, exactly (where the layer has none, w scales its inputs, and is
baked into its weights). A student's folder has its network in
`student/` in place of `transformer/`, with the layer for w in a file of its own, so that no stock pipeline runs it by mistake without w.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.guidance import embed_w, weight_of
from fewstep.method.parameterization import Prediction
from fewstep.method.process import Process
from fewstep.models.families.added_layer import AddedLayer, bake_into, detached
from fewstep.models.families.diffusers_family import STUDENT, DiffusersFamily

EMBEDDING_SIZE = 256  # of w, as in a UNet's students
WEIGHTS = "w_embedding.safetensors"  # in a student's network folder: the layer for w


def given(w: Tensor | None) -> dict[str, Tensor]:
    """The argument by which a student's network takes w (b,): none for a teacher, whose network does not know it."""
    return {} if w is None else {"w": w}


class WEmbedding(AddedLayer):
    """The layer of the embedded w."""

    argument, member = "w", "w_embedding"

    def embedded(self, value: Tensor) -> Tensor:
        """Of w (b,), what the UNets' students take."""
        return embed_w(value, EMBEDDING_SIZE)

    def of(self, guidance_scale: float) -> Tensor:
        """What is added at one scale, float64 (features,)."""
        return self.constant(torch.tensor([weight_of(float(guidance_scale))]))


class AddedEmbedding(DiffusersFamily):
    """The part of `Family` that follows from `time_embedding`."""

    component = "transformer"

    def channels(self, config: dict[str, Any]) -> int:
        """Those of the input: a learned sigma in the output is no part of a sample."""
        return int(config["in_channels"])

    def takes_w(self, network: nn.Module) -> bool:
        """Whether the network has the layer for w."""
        return hasattr(network, WEmbedding.member)

    def student_of(self, network: nn.Module) -> nn.Module:
        """A copy with an input for w that is zero.

        Raises:
            InputError: the network takes w already: it is a student.
        """
        if self.takes_w(network):
            raise InputError("this model takes a guidance weight already (w_embedding): it is a student; name its teacher")
        return self._with_w(copy.deepcopy(network))

    def bake(self, network: nn.Module, guidance_scale: float) -> nn.Module:
        """A plain copy of the student `network`, of one scale."""
        layer, made = network.get_submodule(WEmbedding.member), copy.deepcopy(self.stock_network(network))
        assert isinstance(layer, WEmbedding)
        bake_into(self.time_embedding_outputs(made), layer.of(guidance_scale))
        return made

    def open(self, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The network of a folder, in evaluation mode, with its layer for w if it is a student's."""
        network = super().open(folder, dtype)
        if self.network_folder(folder) != STUDENT:
            return network
        self._with_w(network).get_submodule(WEmbedding.member).load_state_dict(load_file(folder / STUDENT / WEIGHTS))
        return network

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write the whole pipeline, with a student's layer for w."""
        super().write(network, process, prediction, folder)
        if self.takes_w(network):
            added = {name: value.contiguous() for name, value in network.get_submodule(WEmbedding.member).state_dict().items()}
            save_file(added, folder / STUDENT / WEIGHTS, {"format": "pt"})

    def stock_network(self, network: nn.Module) -> nn.Module:
        """The network without a student's layer for w; it shares all weights with the student."""
        return detached(network, WEmbedding.member) if self.takes_w(network) else network

    def _with_w(self, network: nn.Module) -> nn.Module:
        outputs = self.time_embedding_outputs(network.eval())
        WEmbedding(EMBEDDING_SIZE, outputs).attach(network, outputs)
        return network
