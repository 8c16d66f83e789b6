"""A network of one's own, given as a `Denoiser`: any module called as network(z, time, condition, w), saved as its weights."""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.parameterization import Prediction
from fewstep.method.process import Process
from fewstep.models.denoiser import Call, plain_call
from fewstep.models.families import Family

WEIGHTS = "network.safetensors"


class Own(Family):
    """The student is a copy of the network; its input for w must start at zero, which distillation checks."""

    name = "own"

    def __init__(self, network: nn.Module | None = None, call: Call | None = None) -> None:
        self.network, self._call = network, call or plain_call

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: Any, w: Tensor | None) -> Tensor:
        """The network's output, as its `Denoiser` calls it."""
        return self._call(network, z, time, condition, w)

    def student_of(self, network: nn.Module) -> nn.Module:
        """A copy."""
        return copy.deepcopy(network)

    def bake(self, network: nn.Module, guidance_scale: float) -> nn.Module:
        """Raises InputError: only the network's own code knows where w enters."""
        raise InputError("a network of one's own is not baked here, since only its own code knows where w enters")

    def open(self, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A copy of the network, in its own dtype, with the folder's weights.

        Raises:
            InputError: the folder's network was not given.
        """
        if self.network is None:
            raise InputError(
                f"{folder} holds the weights of a network of one's own; give it: fewstep.open_model(folder, network=...)"
            )
        network = copy.deepcopy(self.network).eval()
        load_model(network, folder / WEIGHTS)
        return network

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write the weights."""
        save_model(network, str(folder / WEIGHTS))
