"""Class-conditional networks, of pixels or of a VAE's latents: UNet2DConditionModel without text, the last label being the null one."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

from fewstep.errors import InputError, first_line
from fewstep.method.guidance import weight_of
from fewstep.method.parameterization import Prediction
from fewstep.method.process import Process
from fewstep.models.families import AnySize
from fewstep.models.families.labelled import Labelled
from fewstep.models.families.pipeline_folder import index_of, quiet
from fewstep.models.families.unchanged_parts import write_part
from fewstep.models.families.unet import UNet, evaluate
from fewstep.models.families.vae import decoded
from fewstep.models.half_weights import InFloat32


class ClassConditional(Labelled, UNet):
    """A condition is labels (b,); `num_class_embeds = classes + 1`; w enters through `time_cond_proj_dim`."""

    name = "class_conditional"
    pipelines: tuple[str, ...] = ("ClassConditionalPipeline",)
    oblong = True

    def any_size(self) -> AnySize:
        """Any."""
        return AnySize()

    def pipeline_class(self) -> Any:
        """Ours, of a stock network, a stock scheduler and a stock VAE."""
        return ClassConditionalPipeline

    def build(
        self,
        *,
        classes: int,
        size: int,
        channels: int,
        num_class_embeds: int | None = None,
        down_block_types: tuple[str, ...] | None = None,
        **settings: Any,
    ) -> UNet2DConditionModel:
        """A new teacher network; `settings` are config keys of UNet2DConditionModel, whose way up mirrors its way down.

        Raises:
            InputError: the size is not divisible by the network's total downscaling, the classes are not as many as `num_class_embeds`
                says, or diffusers refuses the config.
        """
        blocks = len(settings["block_out_channels"])
        if num_class_embeds not in (None, classes + 1):
            raise InputError(
                f"network.num_class_embeds is {num_class_embeds}, and the data has {classes} classes; set it to {classes + 1}, or leave it out"
            )
        down = down_block_types or ("DownBlock2D",) * blocks
        if size % 2 ** (blocks - 1):
            raise InputError(
                f"data.size {size} is not divisible by {2 ** (blocks - 1)}, as {blocks} levels of network.block_out_channels need"
            )
        try:
            return UNet2DConditionModel(
                sample_size=size,
                in_channels=self.inputs(channels),
                out_channels=channels,
                down_block_types=down,
                up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(down)),
                num_class_embeds=classes + 1,
                cross_attention_dim=8,  # nothing attends to text here; the config wants a number
                **settings,
            )
        except (ValueError, TypeError, ZeroDivisionError) as error:
            raise InputError(f"[network] makes no UNet2DConditionModel: {first_line(error)}") from error

    def inputs(self, channels: int) -> int:
        """How many channels the network takes, where what it denoises has so many."""
        return channels

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: Any, w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,), for labels (b,) and w (b,) or None."""
        return evaluate(network, z, time, None, w, class_labels=condition)

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write `unet/`, `scheduler/`, `model_index.json`, and the VAE where there is one."""
        with quiet():
            pipeline = self.pipeline_class()(network, self.scheduler(process, prediction))
            pipeline.save_pretrained(folder, max_shard_size=self.max_shard_size)
        if self.latent and self.folder is not None:
            write_part(self.folder, folder, "vae", self.variant)
            known = index_of(folder) | {"vae": index_of(self.folder)["vae"]}
            (folder / "model_index.json").write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")

    def stock_sample(self, folder: Path, z: Tensor, steps: int, condition: Any, w: Tensor | None) -> Tensor:
        """The stock network and the stock DDIMScheduler, loaded from the folder, in the loop that every stock pipeline has."""
        scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
        labels, beside = self.loop_inputs(condition, z)
        network = self.open(folder, self.stored_dtype(folder)).to(z.device)
        with InFloat32():
            return stock_loop(network, scheduler, z, steps, labels, w, beside)

    def loop_inputs(self, condition: Any, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """(labels, `beside`) for `stock_loop`."""
        return condition, None


@torch.no_grad()
def stock_loop(
    network: nn.Module, scheduler: Any, z: Tensor, steps: int, labels: Tensor, w: Tensor | None, beside: Tensor | None = None
) -> Tensor:
    """Samples (b, c, h, w) from noise z by a network and a scheduler of diffusers, as its pipelines call them.

    `beside` (b, k, h, w) are channels that the network takes after those of z.
    """
    scheduler.set_timesteps(steps, device=z.device)
    for timestep in scheduler.timesteps:
        taken = z if beside is None else torch.cat([z, beside], 1)
        z = scheduler.step(evaluate(network, taken, timestep, None, w, class_labels=labels), timestep, z, return_dict=False)[0]
    return z


class ClassConditionalPipeline(DiffusionPipeline):
    """The pipeline of a class-conditional folder: `ClassConditionalPipeline.from_pretrained(folder)(class_labels=[3], ...)`."""

    unet: UNet2DConditionModel
    scheduler: DDIMScheduler
    vae: Any
    _optional_components = ["vae"]  # noqa: RUF012 - the name and form that diffusers reads

    def __init__(self, unet: UNet2DConditionModel, scheduler: DDIMScheduler, vae: Any = None) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae)

    def __call__(
        self,
        class_labels: list[int],
        num_inference_steps: int = 4,
        guidance_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[Any]:
        """PIL images, one a label; a teacher's folder takes `guidance_scale` 1 alone, since this loop has one branch."""
        return to_pil(self.drawn(class_labels, num_inference_steps, guidance_scale, generator))

    def drawn(
        self, labels: list[int], steps: int, guidance_scale: float, generator: torch.Generator | None, beside: Tensor | None = None
    ) -> Tensor:
        """Pictures (n, c, h, w), one a label, in about [-1, 1]; `beside` as for `stock_loop`."""
        config, n = self.unet.config, len(labels)
        takes_w = config["time_cond_proj_dim"] is not None
        if not takes_w and guidance_scale != 1:
            raise InputError(
                f"guidance_scale {guidance_scale}: this folder is a teacher, whose pipeline takes 1; use fewstep sample to guide it"
            )
        size = config["sample_size"]
        shape = (n, config["out_channels"], *((size, size) if isinstance(size, int) else size))
        z = torch.randn(shape, generator=generator).to(self.device, self.unet.dtype)
        w = torch.full((n,), float(weight_of(guidance_scale)), device=self.device) if takes_w else None
        x = stock_loop(self.unet, self.scheduler, z, steps, torch.tensor(labels, device=self.device), w, beside)
        return x if self.vae is None else decoded(self.vae, x)


def to_pil(x: Tensor) -> list[Any]:
    """PIL images of pictures x (n, c, h, w) in about [-1, 1]."""
    return list(VaeImageProcessor(vae_scale_factor=1).postprocess(x, output_type="pil"))  # pyright: ignore[reportArgumentType]
