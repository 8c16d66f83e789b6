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
        return all(hasattr(part, WEmbedding.member) for part in self.networks(network))

    def student_of(self, network: nn.Module) -> nn.Module:
        """A copy with an input for w that is zero.

        Raises:
            InputError: the network takes w already: it is a student.
        """
        if self.takes_w(network):
            raise InputError("this model takes a guidance weight already (w_embedding): it is a student; name its teacher")
        made = copy.deepcopy(network)
        for part in self.networks(made):
            self._add_w(part)
        return made

    def bake(self, network: nn.Module, guidance_scale: float) -> nn.Module:
        """A plain copy of the student `network`, of one scale."""
        made = copy.deepcopy(self.stock_network(network))
        for plain, part in zip(self.networks(made), self.networks(network), strict=True):
            bake_into(self.time_embedding_outputs(plain), part.w_embedding.of(guidance_scale))
        return made

    def open_part(self, folder: Path, part: str, dtype: torch.dtype) -> Any:
        """The network in one part of a folder, in evaluation mode, with its layer for w if it is a student's."""
        network = super().open_part(folder, part, dtype)
        if self.network_folder(folder) != STUDENT:
            return network
        self._add_w(network).w_embedding.load_state_dict(load_file(folder / part / WEIGHTS))
        return network

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write the whole pipeline, with a student's layer for w."""
        super().write(network, process, prediction, folder)
        if self.takes_w(network):
            for name, part in zip(self.stock_parts(network), self.networks(network), strict=True):
                added = {key: value.contiguous() for key, value in part.w_embedding.state_dict().items()}
                save_file(added, folder / (STUDENT + name.removeprefix(self.component)) / WEIGHTS, {"format": "pt"})

    def stock_network(self, network: nn.Module) -> nn.Module:
        """The network without a student's layer for w; it shares all weights with the student."""
        return detached(network, WEmbedding.member) if self.takes_w(network) else network

    def _add_w(self, network: nn.Module) -> Any:
        outputs = self.time_embedding_outputs(network.eval())
        WEmbedding(EMBEDDING_SIZE, outputs).attach(network, outputs)
        return network
