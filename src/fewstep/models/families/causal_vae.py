"""VAEs of video, as Wan and Qwen-Image have them: latents (b, c, f, h, w), each channel brought to mean 0 and deviation 1."""

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def encoded_video(vae: Any, x: Tensor) -> Tensor:
    """Latents (b, c, f, h, w), the mode of the VAE's distribution, of videos x (b, 3, frames, height, width) in [-1, 1]."""
    mean, deviation = _measures(vae, x)
    return ((vae.encode(x.to(vae.dtype)).latent_dist.mode() - mean) / deviation).to(x.dtype)


@torch.no_grad()
def decoded_video(vae: Any, z: Tensor) -> Tensor:
    """Videos (b, 3, frames, height, width) in about [-1, 1] of latents z (b, c, f, h, w)."""
    mean, deviation = _measures(vae, z)
    return vae.decode((z * deviation + mean).to(vae.dtype), return_dict=False)[0].to(z.dtype)


def _measures(vae: Any, like: Tensor) -> list[Tensor]:
    values = vae.config["latents_mean"], vae.config["latents_std"]
    return [torch.tensor(v, device=like.device, dtype=like.dtype).reshape(1, -1, 1, 1, 1) for v in values]
