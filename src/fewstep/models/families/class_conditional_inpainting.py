"""Class-conditional inpainting: the network takes 2 c + 1 channels, z, the mask, and the picture (or its latents) that is to stay."""

from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.families.class_conditional import ClassConditional, ClassConditionalPipeline, to_pil
from fewstep.models.families.masked import Masked, half_masked
from fewstep.models.families.vae import encoded
from fewstep.models.metadata import Info


class ClassConditionalInpainting(Masked, ClassConditional):
    """A condition is {"labels" (b,), "mask", "masked"}, or labels (b,) alone, where all is to be painted."""

    name = "class_conditional_inpainting"
    pipelines: tuple[str, ...] = ("ClassConditionalInpaintPipeline",)

    def pipeline_class(self) -> Any:
        """Ours, of a stock network, a stock scheduler and a stock VAE."""
        return ClassConditionalInpaintPipeline

    def inputs(self, channels: int) -> int:
        """Of z, the mask, and what is to stay."""
        return 2 * channels + 1

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: Condition, w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,)."""
        labels, beside = self.loop_inputs(condition, z)
        return super().call(network, torch.cat([z, beside], 1), time, labels, w)

    def loop_inputs(self, condition: Condition, z: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (b,), and what the network takes beside z (b, c, h, w): the mask and what is to stay, (b, 1 + c, h, w)."""
        if isinstance(condition, dict):
            return condition["labels"], torch.cat([condition["mask"], condition["masked"]], 1)
        return condition, torch.cat([torch.ones_like(z[:, :1]), torch.zeros_like(z)], 1)

    def encode(self, prompts: list[str], device: torch.device, **extra: Any) -> Condition:
        """Raises InputError: labels are its conditions, and pictures come with them through `inpaint`."""
        if extra:
            raise InputError("this model takes class labels; give pictures and masks to model.inpaint(image, mask, labels)")
        return super().encode(prompts, device)

    def null(self, info: Info, prompt: str = "") -> dict[str, Tensor]:
        """The label after the last; mask and picture stay."""
        return {"labels": torch.tensor([len(info.classes)], device="cpu")}

    def example(self, network: Any, info: Info, n: int) -> dict[str, Any]:
        """The classes in turn, the left half to be painted, random values to stay in the right one."""
        return {"labels": super().example(network, info, n), **half_masked(info, n)}


class ClassConditionalInpaintPipeline(ClassConditionalPipeline):
    """The pipeline of such a folder: `ClassConditionalInpaintPipeline.from_pretrained(folder)([3], image=..., mask_image=...)`."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] - it takes more
        self,
        class_labels: list[int],
        image: Any,
        mask_image: Any,
        num_inference_steps: int = 4,
        guidance_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[Any]:
        """PIL images, one a label, of one picture filled in where the mask is white; elsewhere they are the picture's own pixels."""
        x, painted = self.preprocessed(image, mask_image)
        masked = x * (painted < 0.5)
        masked = masked if self.vae is None else encoded(self.vae, masked)
        beside = torch.cat([interpolate(painted, size=masked.shape[-2:]), masked], 1).expand(len(class_labels), -1, -1, -1)
        drawn = self.drawn(class_labels, num_inference_steps, guidance_scale, generator, beside.to(self.unet.dtype))
        return to_pil(torch.where(painted > 0.5, drawn, x.to(drawn)))

    def preprocessed(self, image: Any, mask_image: Any) -> tuple[Tensor, Tensor]:
        """The picture (1, c, h, w) in [-1, 1] and the mask (1, 1, h, w), 1 where it is white, at the model's size."""
        config, scale = self.unet.config, 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)
        channels, side = config["out_channels"] if self.vae is None else self.vae.config.in_channels, config["sample_size"] * scale
        pictures = VaeImageProcessor(vae_scale_factor=scale, do_convert_rgb=channels == 3, do_convert_grayscale=channels == 1)
        masks = VaeImageProcessor(vae_scale_factor=scale, do_normalize=False, do_binarize=True, do_convert_grayscale=True)
        x, painted = pictures.preprocess(image, height=side, width=side), masks.preprocess(mask_image, height=side, width=side)
        return x.to(self.device), painted.to(self.device)
