"""All that is peculiar to one kind of network, one file a family. To add one: docs/families.md.

`schedulers`, `unet`, `stock`, `added_layer` and `labelled` hold what several families share; `stock.Stock` implements most of `Family` for any pipeline
of diffusers.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fewstep.errors import InputError, nearest
from fewstep.method.conditioning import Condition
from fewstep.method.parameterization import Prediction
from fewstep.method.process import Process
from fewstep.models.denoiser import Null
from fewstep.models.metadata import Info

FAMILIES = {  # name (in fewstep.json) -> module:class, imported when needed; a family of one's own is entered here
    "class_conditional": "fewstep.models.families.class_conditional:ClassConditional",
    "class_conditional_inpainting": "fewstep.models.families.class_conditional_inpainting:ClassConditionalInpainting",
    "stable_diffusion": "fewstep.models.families.stable_diffusion:StableDiffusion",
    "stable_diffusion_inpainting": "fewstep.models.families.stable_diffusion_inpainting:StableDiffusionInpainting",
    "stable_diffusion_xl": "fewstep.models.families.stable_diffusion_xl:StableDiffusionXL",
    "stable_diffusion_xl_inpainting": "fewstep.models.families.stable_diffusion_xl:StableDiffusionXLInpainting",
    "deepfloyd_if": "fewstep.models.families.deepfloyd:DeepFloyd",
    "deepfloyd_if_super_resolution": "fewstep.models.families.deepfloyd:DeepFloydSuperResolution",
    "dit": "fewstep.models.families.dit:DiT",
    "pixart": "fewstep.models.families.pixart:PixArt",
    "stable_diffusion_3": "fewstep.models.families.stable_diffusion_3:StableDiffusion3",
    "flux": "fewstep.models.families.flux:Flux",
    "qwen_image": "fewstep.models.families.qwen_image:QwenImage",
    "wan": "fewstep.models.families.wan:Wan",
    "kandinsky": "fewstep.models.families.kandinsky:Kandinsky",
    "kandinsky_prior": "fewstep.models.families.kandinsky:KandinskyPrior",
    "own": "fewstep.models.families.own:Own",
}


class Family(Protocol):
    """What the library must be told about a kind of network. An instance belongs to one model, whose folder has the other parts."""

    name: str
    pipelines: tuple[str, ...]  # the pipeline classes whose folders it opens; the first is what students are saved as

    def opens(self, pipeline: str, config: dict[str, Any]) -> bool:
        """Whether it opens folders of this pipeline class, the network having this config."""
        ...

    def describe(self, folder: Path) -> Info:
        """The facts of a teacher in a diffusers folder that `fewstep` did not write.

        Raises:
            InputError: the folder is no teacher: distilled already, no process that we know, parts that do not fit together.
        """
        ...

    def open(self, folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> nn.Module:
        """The network of a folder, in evaluation mode."""
        ...

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: Any, w: Tensor | None) -> Tensor:
        """The network's output (b, ...): how it takes its time (b,), its condition and its guidance weight w (b,)."""
        ...

    def student_of(self, network: nn.Module) -> nn.Module:
        """A copy with an input for w whose new weights are zero: it says exactly what `network` says."""
        ...

    def time_embedding_outputs(self, network: Any) -> list[nn.Linear]:
        """The linear layers that end the network's time embedders, all of one width: where a layer of ours is added."""
        ...

    def bake(self, network: nn.Module, guidance_scale: float) -> nn.Module:
        """A plain copy without the input for w that says what the student `network` says at this scale."""
        ...

    def encode(self, prompts: list[str], device: torch.device, **extra: Any) -> Condition:
        """The condition (n, ...) of n prompts; `extra` is what else the family takes (image, mask)."""
        ...

    def null(self, info: Info, prompt: str = "") -> Null:
        """The condition that stands for none, or for a negative prompt; or a function that gives it when first needed."""
        ...

    def example(self, network: nn.Module, info: Info, n: int) -> Condition:
        """Some condition (n, ...) of the right shape, always the same, made without any other part."""
        ...

    def to_latents(self, x: Tensor) -> Tensor:
        """What the network denoises, of pictures x (n, c, h, w) in [-1, 1]."""
        ...

    def to_images(self, z: Tensor) -> Tensor:
        """Pictures in [-1, 1], of what the network denoises."""
        ...

    def free(self) -> None:
        """Let go of text encoder and VAE; they are loaded again when needed."""
        ...

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write the whole pipeline, safetensors only, into a folder that has `fewstep.json` alone."""
        ...

    def stock_sample(self, folder: Path, z: Tensor, steps: int, condition: Any, w: Tensor | None) -> Tensor | None:
        """Samples from noise z (b, ...) by diffusers alone, from what the folder holds; None where no stock parts exist."""
        ...


def family_of(name: str, network: Any = None, folder: Path | None = None, variant: str | None = None) -> Family:
    """The family with this name, its other parts in `folder`; a network of one's own comes with the module or its `Denoiser`.

    Raises:
        InputError: there is none.
    """
    if name not in FAMILIES:
        raise InputError(f"family {name!r} is not known; {nearest(name, FAMILIES)}")
    module, _, kind = FAMILIES[name].partition(":")
    made = getattr(import_module(module), kind)
    if name == "own":
        return made(getattr(network, "network", network), getattr(network, "call", None))
    return made(folder, variant)


def family_for(folder: Path, variant: str | None = None) -> Family:
    """The family that opens a diffusers pipeline folder.

    Raises:
        InputError: no family does.
    """
    from fewstep.models.families.stock import index_of, network_config

    pipeline = index_of(folder)["_class_name"]
    known = [family_of(name, folder=folder, variant=variant) for name in FAMILIES if name != "own"]
    for family in known:
        if pipeline in family.pipelines and family.opens(pipeline, network_config(folder, family)):
            return family
    names = ", ".join(dict.fromkeys(name for family in known for name in family.pipelines))
    raise InputError(
        f"{folder} is a {pipeline}, of no family that is known ({names}); "
        "pass its network directly: fewstep.Denoiser(network, prediction=..., process=..., null=..., call=...)"
    )
