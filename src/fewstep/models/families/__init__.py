"""All that is peculiar to one kind of network, one file a family. To add one: docs/families.md.

`Family` is all that the rest of the library asks of one. `diffusers_family.DiffusersFamily` answers most of it for a pipeline folder; `prompts`,
`labelled`, `masked`, `unet`, `added_embedding`, `text_transformer`, `flow_latents`, `flow_grid` and `learned_variance` hold what several share.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NoReturn

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
    "kolors": "fewstep.models.families.kolors:Kolors",
    "deepfloyd_if": "fewstep.models.families.deepfloyd:DeepFloyd",
    "deepfloyd_if_super_resolution": "fewstep.models.families.deepfloyd:DeepFloydSuperResolution",
    "dit": "fewstep.models.families.dit:DiT",
    "pixart": "fewstep.models.families.pixart:PixArt",
    "stable_diffusion_3": "fewstep.models.families.stable_diffusion_3:StableDiffusion3",
    "flux": "fewstep.models.families.flux:Flux",
    "qwen_image": "fewstep.models.families.qwen_image:QwenImage",
    "wan": "fewstep.models.families.wan:Wan",
    "wan_two": "fewstep.models.families.wan_two:WanTwo",
    "chroma": "fewstep.models.families.chroma:Chroma",
    "z_image": "fewstep.models.families.z_image:ZImage",
    "sana": "fewstep.models.families.sana:Sana",
    "lumina2": "fewstep.models.families.lumina2:Lumina2",
    "aura_flow": "fewstep.models.families.aura_flow:AuraFlow",
    "longcat_image": "fewstep.models.families.longcat_image:LongCatImage",
    "flux2_klein": "fewstep.models.families.flux2_klein:Flux2Klein",
    "krea2": "fewstep.models.families.krea2:Krea2",
    "hunyuan_dit": "fewstep.models.families.hunyuan_dit:HunyuanDiT",
    "prx": "fewstep.models.families.prx:PRX",
    "cogview4": "fewstep.models.families.cogview4:CogView4",
    "hunyuan_video": "fewstep.models.families.hunyuan_video:HunyuanVideo",
    "ltx": "fewstep.models.families.ltx:LTX",
    "cogvideox": "fewstep.models.families.cogvideox:CogVideoX",
    "stable_audio": "fewstep.models.families.stable_audio:StableAudio",
    "kandinsky": "fewstep.models.families.kandinsky:Kandinsky",
    "kandinsky_prior": "fewstep.models.families.kandinsky:KandinskyPrior",
    "own": "fewstep.models.families.own:Own",
}


@dataclass(frozen=True)
class AnySize:
    """The heights and widths, in latents (pixels where there are none), that a network takes beside its own."""

    step: int = 1  # both are multiples of it
    largest: int | None = None


class Family:
    """What the rest of the library asks of a kind of network. An instance belongs to one model, whose folder has the other parts.

    What is answered here holds for pixels with class labels (b,) as conditions, where the label after the last class stands for none.
    """

    name: str
    pipelines: tuple[str, ...] = ()  # the pipeline classes whose folders it opens; the first is what students are saved as
    component = "unet"  # the network's name in the pipeline, and its folder's
    condition: Literal["class", "text"] = "class"
    oblong = False  # whether the size in the network's config may be of a height and width that differ
    takes_mask = False  # whether a condition holds a mask and the picture that it leaves: `with_mask`
    time_embedding = ""  # names (fnmatch) of the linear layers that end the time embedders; "": they are not known
    folder: Path | None = None  # of the model's other parts
    max_shard_size = "10GB"  # of a file of the network's weights, as diffusers takes it
    force = False  # whether a folder that looks distilled already is taken as a teacher

    def opens(self, pipeline: str, config: dict[str, Any]) -> bool:
        """Whether it opens folders of this pipeline class, the network having this config."""
        return pipeline in self.pipelines

    def describe(self, folder: Path) -> Info:
        """The facts of a teacher in a diffusers folder that `fewstep` did not write.

        Raises:
            InputError: the folder is no teacher: distilled already, no process that we know, parts that do not fit together.
        """
        self._lacks("describes no folder", "give its network as a fewstep.Denoiser")

    def network_class(self) -> Any:
        """The diffusers class of the network."""
        self._lacks("does not say the class of its network", "plan it with its weights")

    def network_of(self, config: dict[str, Any]) -> nn.Module:
        """The network of a config, its weights not those of any model."""
        return self.network_class().from_config(config)

    def pipeline_class(self) -> Any:
        """The diffusers class of the pipeline that students are saved as."""
        self._lacks("has no pipeline", "use the model with fewstep")

    def check_info(self, info: Info) -> None:
        """Raises InputError where the metadata in the model's folder do not fit the network there."""

    def network_config(self) -> dict[str, Any]:
        """The network's config in the model's folder, that of a teacher or of a student."""
        self._lacks("has no folder of diffusers", "use the model with fewstep")

    def open(self, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The network of a folder, its weights in a dtype, in evaluation mode."""
        raise NotImplementedError

    def stored_dtype(self, folder: Path | None = None) -> torch.dtype:
        """The dtype in which a folder, or the model's own, has the network's weights; float32 where there is none."""
        return torch.float32

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: Any, w: Tensor | None) -> Tensor:
        """The network's output (b, ...): how it takes its time (b,), its condition and its guidance weight w (b,)."""
        raise NotImplementedError

    def student_of(self, network: nn.Module) -> nn.Module:
        """A copy with an input for w whose new weights are zero: its outputs are exactly those of `network`.

        Raises:
            InputError: the network has such an input: it is a student.
        """
        raise NotImplementedError

    def new_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """By name, the weights with which a student begins where they are neither its teacher's (given here by name) nor zero."""
        return {}

    def networks(self, network: nn.Module) -> list[Any]:
        """The networks with time embedders of their own that this one is made of: itself, if it is one."""
        return [network]

    def time_embedding_outputs(self, network: nn.Module) -> list[nn.Linear]:
        """The linear layers that end the network's time embedders, all of one width: where a layer of ours is added."""
        from fnmatch import fnmatchcase

        return [layer for name, layer in network.named_modules() if fnmatchcase(name, self.time_embedding)]  # pyright: ignore[reportReturnType]

    def bake(self, network: nn.Module, guidance_scale: float) -> nn.Module:
        """A plain copy without the input for w whose outputs are those of the student `network` at this scale.

        Raises:
            InputError: it is not known where w enters.
        """
        self._lacks("does not say how a scale is baked in", "sample the student with its guidance_scale")

    def any_size(self) -> AnySize | None:
        """What other heights and widths the network takes; None: its own alone."""
        return None

    def size_arguments(self, info: Info) -> dict[str, Any]:
        """What `encode` takes for pictures of the model's height and width, of a family that tells its network the size."""
        return {}

    def with_sizes(self, condition: Condition, original: Tensor, top_left: Tensor, target: Tensor) -> Condition:
        """The condition (n, ...) of pictures of `original` (height, width), (n, 2), of which a part of `target` size was cut out at `top_left`.

        Of a family that tells its network so; others give the condition as it is.
        """
        return condition

    def longest_sound(self) -> float:
        """The seconds that the latents of a family of sounds stand for."""
        self._lacks("makes no sounds", "leave out seconds")

    def with_lengths(self, condition: Condition, uniform: Tensor) -> Condition:
        """The condition (n, ...) of sounds of different lengths, drawn by numbers (n,) in [0, 1).

        Of a family that tells its network so; others give the condition as it is.
        """
        return condition

    def encode(self, prompts: list[str], device: torch.device, **extra: Any) -> Condition:
        """The condition (n, ...) of n prompts; `extra` is what else the family takes (image, mask).

        Raises:
            InputError: something is given that the family does not take.
        """
        raise InputError("this model takes class labels, no prompts; give class_labels (--class-label)")

    def encode_prompts(self, prompts: list[str], device: torch.device) -> Condition:
        """The part of the condition (n, ...) that n prompts determine."""
        return self.encode(prompts, device)

    def with_mask(self, condition: Condition, x: Tensor, masks: Tensor) -> Condition:
        """The whole condition (n, ...) of labels or encoded prompts, pictures x (n, c, h, w) in [-1, 1], and masks (n, 1, h, w), 1 to paint."""
        self._lacks("takes no mask", "leave it out")

    def null(self, info: Info, prompt: str = "") -> Null:
        """The condition that stands for none, or for a negative prompt; or a function that gives it when first needed."""
        return len(info.classes)

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Some condition (n, ...) of the right shape, always the same, made without any other part."""
        return torch.arange(n, device="cpu") % len(info.classes)

    def to_latents(self, x: Tensor) -> Tensor:
        """What the network denoises, of pictures x (n, c, h, w) in [-1, 1]."""
        return x

    def to_images(self, z: Tensor) -> Tensor:
        """Pictures (n, c, h, w) in about [-1, 1], of what the network denoises."""
        return z

    def free(self) -> None:
        """Let go of text encoder and VAE; they are loaded again when needed."""

    def load_shapes(self) -> int:
        """Have an autoencoder of shapes alone, on the meta device, until `free`; the bytes of its weights, 0 where there is none."""
        return 0

    def bare(self) -> "Family":
        """The same family with nothing loaded, and parts of its own."""
        made = copy.copy(self)
        made.free()
        return made

    def scheduler(self, process: Process, prediction: Prediction) -> Any:
        """The diffusers scheduler with which the pipeline visits the times of our samplers."""
        self._lacks("has no scheduler", "use the model with fewstep")

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write all but `fewstep.json`, which is there, into a folder, safetensors only."""
        raise NotImplementedError

    def stock_sample(self, folder: Path, z: Tensor, steps: int, condition: Any, w: Tensor | None) -> Tensor | None:
        """Samples from noise z (b, ...) by diffusers alone, from what the folder holds; None where diffusers does not know the network."""
        return None

    def _lacks(self, what: str, remedy: str) -> NoReturn:
        raise InputError(f"the family {self.name} {what}; {remedy}")


def family_of(name: str, network: Any = None, folder: Path | None = None, variant: str | None = None) -> Family:
    """The family with this name, its other parts in `folder`; a network of one's own comes with the module or its `Denoiser`.

    Raises:
        InputError: there is none.
    """
    if name not in FAMILIES:
        raise InputError(f"family {name!r} is not known; {nearest(name, FAMILIES)}")
    module, _, kind = FAMILIES[name].partition(":")
    made: Callable[..., Family] = getattr(import_module(module), kind)
    if name == "own":
        return made(getattr(network, "network", network), getattr(network, "call", None))
    return made(folder, variant)


def family_for(folder: Path, variant: str | None = None, force: bool = False) -> Family:
    """The family that opens a diffusers pipeline folder; with `force` also one that looks distilled already.

    Raises:
        InputError: no family does.
    """
    from fewstep.models.families.pipeline_folder import config_of, index_of

    pipeline = index_of(folder)["_class_name"]
    known = [family_of(name, folder=folder, variant=variant) for name in FAMILIES if name != "own"]
    for family in known:
        if pipeline in family.pipelines and family.opens(pipeline, config_of(folder, family.component)):
            family.force = force
            return family
    names = ", ".join(dict.fromkeys(name for family in known for name in family.pipelines))
    raise InputError(
        f"{folder} is a {pipeline}, of no family that is known ({names}); "
        "pass its network directly: fewstep.Denoiser(network, prediction=..., process=..., null=..., call=...)"
    )
