"""Autoencoders of videos that pictures are given to as videos of one frame (Qwen-Image, Krea 2)."""

from pathlib import Path

from torch import Tensor

from fewstep.models.families.diffusers_family import DiffusersFamily
from fewstep.models.families.pipeline_folder import config_of
from fewstep.models.families.vae import decoded_video, encoded_video


class OneFrame(DiffusersFamily):
    """The part of `Family` that follows from such an autoencoder."""

    def pixels_of_latent(self, folder: Path) -> int:
        """How many pixels a latent stands for, along a side."""
        return 2 ** len(config_of(folder, "vae")["temperal_downsample"])

    def to_latents(self, x: Tensor) -> Tensor:
        """Latents of pictures x (n, 3, h, w) in [-1, 1], as videos of one frame."""
        return encoded_video(self.autoencoder_on(x.device), x[:, :, None])[:, :, 0]

    def to_images(self, z: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) of latents."""
        return decoded_video(self.autoencoder_on(z.device), z[:, :, None])[:, :, 0]
