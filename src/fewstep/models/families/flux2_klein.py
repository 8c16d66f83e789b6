"""FLUX.2 klein (base): latents in patches, brought to mean 0 and deviation 1; its time embedding has no bias, so that w scales the last layer's inputs.

FLUX.2 dev takes guidance (`guidance_embeds`): it is guidance-distilled, and refused; so are the klein models that are distilled.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from fewstep.errors import InputError
from fewstep.models.families.flow_latents import TEXT_TOKENS, ChosenSize
from fewstep.models.families.pipeline_folder import config_of, index_of
from fewstep.models.families.text_transformer import TextTransformer

USUAL_STEPS = 50  # the stock pipeline's default: the shift of its times depends on it


class Flux2Klein(ChosenSize, TextTransformer):
    """A condition is {"text" (b, tokens, features)}, of three layers of the text encoder, which hides no token that fills it up."""

    name, network_type, time_embedding = "flux2_klein", "Flux2Transformer2DModel", "time_guidance_embed.timestep_embedder.linear_2"
    pipelines, text_tokens, patches = ("Flux2KleinPipeline",), TEXT_TOKENS, (1, 1)
    stock_reads_autoencoder = True  # by whose statistics it normalizes

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, or a text encoder or VAE of another model."""
        super().check(folder, config)
        if index_of(folder).get("is_distilled"):
            raise InputError(f"{folder} is guidance-distilled already (is_distilled is set); name a FLUX.2 klein base")

    def text_features(self, folder: Path) -> Any:
        """Those of three layers."""
        return 3 * super().text_features(folder)

    def latent_channels(self, folder: Path) -> int:
        """Those of patches of 2x2."""
        return 4 * super().latent_channels(folder)

    def tokens(self, folder: Path, config: dict[str, Any]) -> int:
        """One for each latent."""
        return math.prod(self.sides(folder, config))

    def scheduler_config(self, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        """With the shift of the usual number of steps."""
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        mu = compute_empirical_mu(self.tokens(folder, config), USUAL_STEPS)
        return config_of(folder, "scheduler") | {"use_dynamic_shifting": False, "shift": math.exp(mu)}

    def pixels_of_latent(self, folder: Path) -> int:
        """How many pixels a patch of latents stands for, along a side."""
        return 2 * super().pixels_of_latent(folder)

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """Tokens and their places in four axes: (0, y, x, 0) of the picture, (0, 0, 0, n) of the text."""
        n = torch.arange(condition["text"].shape[1], device=z.device)
        y, x = (torch.arange(side, device=z.device) for side in z.shape[2:])
        zero = torch.zeros(1, dtype=n.dtype, device=z.device)
        places = {"img_ids": torch.cartesian_prod(zero, y, x, zero), "txt_ids": torch.cartesian_prod(zero, zero, zero, n)}
        return super().inputs(z, time, condition) | {"guidance": None} | places

    def packed(self, z: Tensor) -> Tensor:
        """Tokens (b, h w, c)."""
        return z.flatten(2).transpose(1, 2)

    def output(self, output: Tensor, z: Tensor) -> Tensor:
        """Latents shaped as z of tokens."""
        return output.transpose(1, 2).reshape(z.shape)

    def network_time(self, time: Tensor, z: Tensor) -> Tensor:
        """sigma."""
        return time.to(z.dtype) / 1000

    def stock_call(self, pipeline: Any, z: Tensor, condition: Any, settings: dict[str, Any]) -> Tensor:
        """Samples shaped as z: the pipeline gives latents of the VAE."""
        return normalized(pipeline.vae, super().stock_call(pipeline, z, condition, settings))

    @torch.no_grad()
    def to_latents(self, x: Tensor) -> Tensor:
        """Patches (n, 4 c, h/2, w/2) of latents of pictures x (n, 3, ...) in [-1, 1]."""
        vae = self.autoencoder_on(x.device)
        return normalized(vae, vae.encode(x.to(vae.dtype)).latent_dist.mode()).to(x.dtype)

    @torch.no_grad()
    def to_images(self, z: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) of latents."""
        vae = self.autoencoder_on(z.device)
        mean, deviation = statistics(vae)
        return vae.decode(pixel_shuffle(z * deviation + mean, 2).to(vae.dtype), return_dict=False)[0].to(z.dtype)


def normalized(vae: Any, latents: Tensor) -> Tensor:
    """Patches (n, 4 c, h/2, w/2), each channel brought to mean 0 and deviation 1, of a VAE's latents (n, c, h, w)."""
    mean, deviation = statistics(vae)
    return (pixel_unshuffle(latents, 2) - mean) / deviation


def statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """(mean, deviation) of the VAE's patches, (1, 4 c, 1, 1)."""
    mean, variance = vae.bn.running_mean, vae.bn.running_var
    return mean[None, :, None, None], (variance + vae.config.batch_norm_eps).sqrt()[None, :, None, None]
