"""A network of one's own, given as a `Denoiser`: any module called as network(z, time, condition, w), saved as its weights."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.parameterization import Prediction
from fewstep.method.process import Process
from fewstep.models.metadata import Info

WEIGHTS = "network.safetensors"


class Own:
    """The student is a copy of the network; its input for w must start at zero, which distillation checks."""

    name = "own"
    pipelines: tuple[str, ...] = ()

    def __init__(self, network: nn.Module | None = None, call: Callable[..., Tensor] | None = None) -> None:
        self.network, self._call = network, call

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: Any, w: Tensor | None) -> Tensor:
        """The network's output, as its `Denoiser` calls it."""
        from fewstep.models.denoiser import plain_call

        return (self._call or plain_call)(network, z, time, condition, w)

    def student_of(self, network: nn.Module) -> nn.Module:
        """A copy."""
        return copy.deepcopy(network)

    def bake(self, network: nn.Module, guidance_scale: float) -> nn.Module:
        """Raises InputError: only the network's own code knows where w enters."""
        raise InputError("a network of one's own is not baked here, since only its own code knows where w enters")

    def time_embedding_outputs(self, network: nn.Module) -> list[nn.Linear]:
        """None that we know."""
        return []

    def opens(self, pipeline: str, config: dict[str, Any]) -> bool:
        """False: no pipeline has it."""
        return False

    def describe(self, folder: Path) -> Info:
        """Raises InputError: no pipeline has it."""
        raise InputError(f"{folder} is no network of one's own; give it as a fewstep.Denoiser")

    def encode(self, prompts: list[str], device: torch.device, **extra: Any) -> Tensor:
        """Raises InputError: labels are its conditions."""
        raise InputError("this model takes class labels, no prompts; give class_labels")

    def null(self, info: Info, prompt: str = "") -> int:
        """The label after the last."""
        return len(info.classes)

    def example(self, network: nn.Module, info: Info, n: int) -> Tensor:
        """Labels (n,), the classes in turn."""
        return torch.arange(n, device="cpu") % len(info.classes)

    def to_latents(self, x: Tensor) -> Tensor:
        """x itself."""
        return x

    def to_images(self, z: Tensor) -> Tensor:
        """z itself."""
        return z

    def free(self) -> None:
        """There is nothing to let go of."""

    def open(self, folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> nn.Module:
        """A copy of the network with the folder's weights.

        Raises:
            InputError: the folder's network was not given.
        """
        from safetensors.torch import load_model

        if self.network is None:
            raise InputError(
                f"{folder} holds the weights of a network of one's own; give it: fewstep.open_model(folder, network=...)"
            )
        network = copy.deepcopy(self.network).eval()
        load_model(network, folder / WEIGHTS)
        return network

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write the weights."""
        from safetensors.torch import save_model

        save_model(network, str(folder / WEIGHTS))

    def stock_sample(self, folder: Path, z: Tensor, steps: int, condition: Tensor, w: Tensor | None) -> None:
        """None: diffusers does not know this network."""
        return
