"""All that is peculiar to one kind of network, one file a family. To add one, write a file with the methods of `Family`."""

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from fewstep.errors import InputError, nearest
from fewstep.prediction import Prediction
from fewstep.process import Process


class Family(Protocol):
    """What the library must be told about a kind of network."""

    name: str

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: Any, w: Tensor | None) -> Tensor:
        """The network's output (b, ...): how it takes its time (b,), its condition and its guidance weight w (b,)."""
        ...

    def student_of(self, network: nn.Module) -> nn.Module:
        """A copy with an input for w whose new weights are zero: it says exactly what `network` says."""
        ...

    def open(self, folder: Path) -> nn.Module:
        """The network of a model folder."""
        ...

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write the pipeline's parts into an empty folder, safetensors only."""
        ...

    def stock_sample(self, folder: Path, z: Tensor, steps: int, condition: Tensor, w: Tensor | None) -> Tensor | None:
        """Samples from noise z (b, ...) by diffusers alone, from what the folder holds; None where no stock parts exist."""
        ...


def family_of(name: str, network: Any = None) -> Family:
    """The family with this name; a network of one's own comes with the module, or with the `Denoiser` around it.

    Raises:
        InputError: there is none.
    """
    from fewstep.families.class_conditional import ClassConditional
    from fewstep.families.own import Own

    own = Own(getattr(network, "network", network), getattr(network, "call", None))
    families: dict[str, Family] = {f.name: f for f in (ClassConditional(), own)}
    if name not in families:
        raise InputError(f"family {name!r} is not known; {nearest(name, families)}")
    return families[name]
