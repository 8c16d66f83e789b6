"""Autoencoders: pictures (n, c, h, w) or videos (n, c, frames, h, w) in [-1, 1] to the latents that a network denoises, and back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def latent_scaling(config: Mapping[str, Any]) -> tuple[float, float]:
    """(shift, scale) by the config of a VAE: latents are (the encoder's output - shift) * scale."""
    return float(config.get("shift_factor") or 0.0), float(config.get("scaling_factor") or 1.0)


@torch.no_grad()
def encoded(vae: Any, x: Tensor) -> Tensor:
    """Scaled latents of pictures x (n, c, h, w), the mode of the VAE's distribution, in its dtype."""
    shift, scale = latent_scaling(vae.config)
    output = vae.encode(x.to(vae.dtype))
    if hasattr(output, "latent_dist"):
        return (output.latent_dist.mode() - shift) * scale
    return ((output.latents if hasattr(output, "latents") else output.latent) - shift) * scale


@torch.no_grad()
def decoded(vae: Any, z: Tensor) -> Tensor:
    """Pictures (n, c, h, w) of scaled latents z, in z's dtype."""
    shift, scale = latent_scaling(vae.config)
    return vae.decode((z / scale + shift).to(vae.dtype), return_dict=False)[0].to(z.dtype)


@torch.no_grad()
def encoded_video(vae: Any, x: Tensor) -> Tensor:
    """Latents (n, c, f, h, w) of videos x, the mode of the VAE's distribution, each channel brought to mean 0 and deviation 1."""
    mean, deviation = _statistics(vae, x)
    return ((vae.encode(x.to(vae.dtype)).latent_dist.mode() - mean) / deviation).to(x.dtype)


@torch.no_grad()
def decoded_video(vae: Any, z: Tensor) -> Tensor:
    """Videos (n, 3, frames, height, width) of latents z (n, c, f, h, w)."""
    mean, deviation = _statistics(vae, z)
    return vae.decode((z * deviation + mean).to(vae.dtype), return_dict=False)[0].to(z.dtype)


def _statistics(vae: Any, like: Tensor) -> list[Tensor]:
    values = vae.config["latents_mean"], vae.config["latents_std"]
    return [torch.tensor(v, device=like.device, dtype=like.dtype).reshape(1, -1, 1, 1, 1) for v in values]
