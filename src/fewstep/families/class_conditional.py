"""Class-conditional networks in pixel space: diffusers' UNet2DConditionModel without text, the last label being the null one."""

from pathlib import Path
from typing import Any, Literal, cast

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.guidance import embed_w, weight_of
from fewstep.prediction import Prediction
from fewstep.process import Process, betas_of

EMBEDDING_SIZE = 256  # of w: what latent-consistency models use, so that their tools read it


class ClassConditional:
    """UNet2DConditionModel with `num_class_embeds = classes + 1`; w enters through `time_cond_proj_dim`."""

    name = "class_conditional"

    def build(self, *, classes: int, size: int, channels: int, **settings: Any) -> UNet2DConditionModel:
        """A new teacher network; `settings` are config keys of UNet2DConditionModel.

        Raises:
            InputError: the size is not divisible by the network's total downscaling, or diffusers refuses the config.
        """
        blocks = len(settings["block_out_channels"])
        if size % 2 ** (blocks - 1):
            raise InputError(
                f"data.size {size} is not divisible by {2 ** (blocks - 1)}, as {blocks} levels of network.block_out_channels need"
            )
        try:
            return UNet2DConditionModel(
                sample_size=size,
                in_channels=channels,
                out_channels=channels,
                down_block_types=("DownBlock2D",) * blocks,
                up_block_types=("UpBlock2D",) * blocks,
                num_class_embeds=classes + 1,
                cross_attention_dim=8,  # nothing attends to text here; the config wants a number
                **settings,
            )
        except (ValueError, TypeError, ZeroDivisionError) as error:
            raise InputError(f"[network] makes no UNet2DConditionModel: {str(error).splitlines()[0]}") from error

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: Tensor, w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,), for labels (b,) and w (b,) or None."""
        embedded = None if w is None else embed_w(w, EMBEDDING_SIZE).to(z.dtype)
        return network(z, time, None, class_labels=condition, timestep_cond=embedded, return_dict=False)[0]

    def student_of(self, network: nn.Module) -> UNet2DConditionModel:
        """The same network and weights with an input for w, its layer zero.

        Raises:
            InputError: the network takes w already: it is a student.
        """
        assert isinstance(network, UNet2DConditionModel)
        if network.config["time_cond_proj_dim"] is not None:
            raise InputError(
                "this model takes a guidance weight already (time_cond_proj_dim is set): it is a student; name its teacher"
            )
        student = UNet2DConditionModel.from_config(network.config, time_cond_proj_dim=EMBEDDING_SIZE)
        assert isinstance(student, UNet2DConditionModel)
        missing, unexpected = student.load_state_dict(network.state_dict(), strict=False)
        assert missing == ["time_embedding.cond_proj.weight"], missing
        assert not unexpected, unexpected
        nn.init.zeros_(student.get_parameter("time_embedding.cond_proj.weight"))
        parameter = next(network.parameters())
        nn.Module.to(student.eval(), parameter.device, parameter.dtype)  # a student is trained without dropout
        return student

    def open(self, folder: Path) -> UNet2DConditionModel:
        """The network in `folder/unet`, float32, in evaluation mode."""
        return UNet2DConditionModel.from_pretrained(folder, subfolder="unet", use_safetensors=True, low_cpu_mem_usage=False).eval()

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write `unet/`, `scheduler/` and `model_index.json`."""
        assert isinstance(network, UNet2DConditionModel)
        ClassConditionalPipeline(network, scheduler_of(process, prediction)).save_pretrained(folder, safe_serialization=True)

    def stock_sample(self, folder: Path, z: Tensor, steps: int, condition: Tensor, w: Tensor | None) -> Tensor:
        """The stock network and the stock DDIMScheduler, loaded from the folder, in the loop that every stock pipeline has."""
        network = nn.Module.to(self.open(folder), z.device)
        scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
        return stock_loop(network, scheduler, z, steps, condition, w)


def scheduler_of(process: Process, prediction: Prediction) -> DDIMScheduler:
    """The stock scheduler with the process's alphas at every t = n / T and the grid of our samplers, everything written out."""
    return DDIMScheduler(
        num_train_timesteps=process.train_timesteps,
        trained_betas=betas_of(process),
        prediction_type=cast(Literal["epsilon", "sample", "v_prediction"], prediction.diffusers_name),
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
        thresholding=False,
        steps_offset=1,
        rescale_betas_zero_snr=False,  # the betas are the process's own, terminal one included
    )


@torch.no_grad()
def stock_loop(network: nn.Module, scheduler: Any, z: Tensor, steps: int, labels: Tensor, w: Tensor | None) -> Tensor:
    """Samples (b, c, h, w) from noise z by a network and a scheduler of diffusers, as its pipelines call them."""
    embedded = None if w is None else embed_w(w, EMBEDDING_SIZE).to(z)
    scheduler.set_timesteps(steps, device=z.device)
    for timestep in scheduler.timesteps:
        output = network(z, timestep, None, class_labels=labels, timestep_cond=embedded, return_dict=False)[0]
        z = scheduler.step(output, timestep, z, return_dict=False)[0]
    return z


class ClassConditionalPipeline(DiffusionPipeline):
    """The pipeline of a class-conditional folder: `ClassConditionalPipeline.from_pretrained(folder)(class_labels=[3], ...)`."""

    unet: UNet2DConditionModel
    scheduler: DDIMScheduler

    def __init__(self, unet: UNet2DConditionModel, scheduler: DDIMScheduler) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def __call__(
        self,
        class_labels: list[int],
        num_inference_steps: int = 4,
        guidance_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[Any]:
        """PIL images, one a label; a teacher's folder takes `guidance_scale` 1 alone, since this loop has one branch."""
        from diffusers.image_processor import VaeImageProcessor

        labels = torch.tensor(class_labels, device=self.device)
        config = self.unet.config
        shape = (len(class_labels), config["in_channels"], config["sample_size"], config["sample_size"])
        z = torch.randn(shape, generator=generator).to(self.device, self.unet.dtype)
        takes_w = config["time_cond_proj_dim"] is not None
        if not takes_w and guidance_scale != 1:
            raise InputError(
                f"guidance_scale {guidance_scale}: this folder is a teacher, whose pipeline takes 1; use fewstep sample to guide it"
            )
        w = torch.full((len(class_labels),), float(weight_of(guidance_scale)), device=self.device) if takes_w else None
        x = stock_loop(self.unet, self.scheduler, z, num_inference_steps, labels, w)
        return list(VaeImageProcessor(vae_scale_factor=1).postprocess(x, output_type="pil"))  # pyright: ignore[reportArgumentType]
