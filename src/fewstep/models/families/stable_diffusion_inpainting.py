"""Stable Diffusion inpainting: the network takes nine channels, the latents, the mask and the latents of what is to stay."""

from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition, cycle
from fewstep.models.families.masked import Masked, half_masked
from fewstep.models.families.stable_diffusion import StableDiffusion
from fewstep.models.metadata import Info


class StableDiffusionInpainting(Masked, StableDiffusion):
    """A condition is {"text", "mask" (b, 1, h, w), 1 where to paint, "masked" (b, c, h, w), latents of the masked image}."""

    name = "stable_diffusion_inpainting"
    pipelines: tuple[str, ...] = ("StableDiffusionInpaintPipeline",)

    def opens(self, pipeline: str, config: dict[str, Any]) -> bool:
        """A network that takes a mask and masked latents besides."""
        return pipeline in self.pipelines and config.get("in_channels") == 2 * config.get("out_channels", 0) + 1

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,)."""
        return super().call(network, torch.cat([z, condition["mask"], condition["masked"]], 1), time, condition, w)

    @torch.no_grad()
    def encode(self, prompts: list[str], device: torch.device, image: Any = None, mask: Any = None, **extra: Any) -> Condition:
        """The condition of prompts, one image, and one mask (white is painted), as PIL images.

        Raises:
            InputError: no image or no mask.
        """
        if image is None or mask is None:
            raise InputError("an inpainting model needs image= and mask= (white is painted)")
        assert self.folder is not None
        pipeline, side = self.parts("vae"), self.shape(self.folder, self.network_config())[2]
        pixels = pipeline.image_processor.preprocess(image, height=side, width=side).to(device, torch.float32)
        painted = pipeline.mask_processor.preprocess(mask, height=side, width=side).to(device, torch.float32)
        beside = cycle(self.with_mask({}, pixels, painted), len(prompts))
        text = super().encode(prompts, device, **extra)
        assert isinstance(beside, dict) and isinstance(text, dict)
        return {**text, **beside}

    def example(self, network: Any, info: Info, n: int) -> dict[str, Tensor]:
        """Random text, the left half to be painted, random latents to stay in the right one."""
        return super().example(network, info, n) | half_masked(info, n)

    def stock_arguments(self, condition: Any, pipeline: Any) -> dict[str, Any]:
        """Embeddings, latents that stay, and the mask as the image that scales down to ours."""
        mask = condition["mask"].repeat_interleave(pipeline.vae_scale_factor, 2).repeat_interleave(pipeline.vae_scale_factor, 3)
        image = torch.zeros_like(mask).expand(-1, 3, -1, -1)
        masked = {"mask_image": mask, "masked_image_latents": condition["masked"], "image": image, "strength": 1.0}
        return super().stock_arguments(condition, pipeline) | masked
