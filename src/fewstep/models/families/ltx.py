"""LTX-Video: text to video, a flow over tokens of one latent each; w is added to the time embedding."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.models.families.flow_latents import VideoLatents, check_video
from fewstep.models.families.pipeline_folder import config_of
from fewstep.models.families.text_transformer import TextTransformer

VIDEO, RATE = (161, 512, 704), 25  # frames, height and width, and frames a second: the stock pipeline's defaults


class LTX(VideoLatents, TextTransformer):
    """A condition is {"text" (b, tokens, features), "mask" (b, tokens), 1 where a token is one of the prompt's}."""

    name, network_type, time_embedding = "ltx", "LTXVideoTransformer3DModel", "time_embed.emb.timestep_embedder.linear_2"
    pipelines, video, patches, encoding = ("LTXPipeline",), VIDEO, (1, 1, 1), ("text", "mask")
    mask, text_tokens, text_width = "mask", 128, "caption_channels"
    encode_arguments: dict[str, Any] = {"do_classifier_free_guidance": False, "max_sequence_length": 128}  # noqa: RUF012
    network_arguments: dict[str, str] = {"encoder_hidden_states": "text", "encoder_attention_mask": "mask"}  # noqa: RUF012
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text", "prompt_attention_mask": "mask"}  # noqa: RUF012

    def ratios(self, folder: Path) -> tuple[int, int]:
        """How many frames, and how many pixels along a side, a latent stands for."""
        vae = config_of(folder, "vae")
        halved = 2 ** sum(vae["spatio_temporal_scaling"])
        frames, pixels = vae.get("temporal_compression_ratio"), vae.get("spatial_compression_ratio")
        return frames or vae["patch_size_t"] * halved, pixels or vae["patch_size"] * halved

    def tokens(self, folder: Path, config: dict[str, Any]) -> int:
        """One for each latent."""
        return math.prod(self.sides(folder, config))

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """Tokens with their video's size, in latents, and what a latent is in seconds and pixels."""
        assert self.folder is not None
        (frames, height, width), (times, space) = z.shape[2:], self.ratios(self.folder)
        size = {"num_frames": frames, "height": height, "width": width, "rope_interpolation_scale": (times / RATE, space, space)}
        return super().inputs(z, time, condition) | size

    def packed(self, z: Tensor) -> Tensor:
        """Tokens (b, frames h w, c)."""
        return z.flatten(2).transpose(1, 2)

    def output(self, output: Tensor, z: Tensor) -> Tensor:
        """Latents shaped as z of tokens."""
        return output.transpose(1, 2).reshape(z.shape)

    def stock_call(self, pipeline: Any, z: Tensor, condition: Any, settings: dict[str, Any]) -> Tensor:
        """Samples shaped as z: the pipeline takes tokens, and the size of the video."""
        assert self.folder is not None
        (frames, height, width), (times, space) = z.shape[2:], self.ratios(self.folder)
        size = {"num_frames": (frames - 1) * times + 1, "height": height * space, "width": width * space}
        return self.output(super().stock_call(pipeline, self.packed(z), condition, settings | size), z)

    @torch.no_grad()
    def to_latents(self, x: Tensor) -> Tensor:
        """Latents of videos x (n, 3, frames, h, w) in [-1, 1]; InputError for pictures."""
        vae = self.autoencoder_on(check_video(x).device)
        mean, deviation = (value[None, :, None, None, None] for value in (vae.latents_mean, vae.latents_std))
        return ((vae.encode(x.to(vae.dtype)).latent_dist.mode() - mean) * vae.config.scaling_factor / deviation).to(x.dtype)

    @torch.no_grad()
    def to_images(self, z: Tensor) -> Tensor:
        """Videos (n, 3, frames, h, w) of latents, without the noise that the stock pipeline may add to them."""
        vae = self.autoencoder_on(z.device)
        mean, deviation = (value[None, :, None, None, None] for value in (vae.latents_mean, vae.latents_std))
        time = torch.zeros(len(z), device=z.device) if vae.config.timestep_conditioning else None
        return vae.decode((z * deviation / vae.config.scaling_factor + mean).to(vae.dtype), time, return_dict=False)[0].to(z.dtype)
