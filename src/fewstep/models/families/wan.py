"""Wan: text to video, a flow over latents (b, c, frames, h, w); w is added to the time embedding.

Its stock pipeline gives its scheduler no sigmas, so a student's folder has a scheduler for its number of steps (`flow_grid`).
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.errors import InputError
from fewstep.models.families.flow_grid import FlowGrid
from fewstep.models.families.flow_latents import TEXT_TOKENS, ChosenSize, check_video
from fewstep.models.families.pipeline_folder import config_of, has_part
from fewstep.models.families.text_transformer import TextTransformer
from fewstep.models.families.vae import decoded_video, encoded_video

SECOND = "transformer_2"  # the network for the late times of those that have two (`wan_two`)
VIDEO = (81, 480, 832)  # frames, height and width: the stock pipeline's default


class Wan(FlowGrid, ChosenSize, TextTransformer):
    """A condition is {"text" (b, tokens, features)}."""

    name, network_type, pipelines = "wan", "WanTransformer3DModel", ("WanPipeline",)
    time_embedding = "condition_embedder.time_embedder.linear_2"
    encode_arguments: dict[str, Any] = {"do_classifier_free_guidance": False, "max_sequence_length": TEXT_TOKENS}  # noqa: RUF012
    text_tokens, text_width = TEXT_TOKENS, "text_dim"

    def opens(self, pipeline: str, config: dict[str, Any]) -> bool:
        """Whether it opens the folder: one with one network."""
        return super().opens(pipeline, config) and not has_part(self.folder, SECOND)

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for one that takes a picture, or a text encoder or VAE of another model."""
        if config.get("image_dim") or config["in_channels"] != config["out_channels"]:
            raise InputError(f"{folder} begins from a picture; name a Wan of text to video")
        super().check(folder, config)

    def usual_sides(self, folder: Path) -> tuple[int, ...]:
        """(frames, h, w) of the stock pipeline's default video."""
        (frames, height, width), space = VIDEO, self.pixels_of_latent(folder)
        return (frames - 1) // self.frames_of_latent(folder) + 1, height // space, width // space

    def frames_of_latent(self, folder: Path) -> int:
        """How many frames a latent stands for."""
        return config_of(folder, "vae").get("scale_factor_temporal", 4)

    def patch(self, config: dict[str, Any]) -> tuple[int, ...]:
        """As the network's config has it: frames, height, width."""
        return tuple(config["patch_size"])

    def pixels_of_latent(self, folder: Path) -> int:
        """How many pixels a latent stands for, along a side."""
        return config_of(folder, "vae").get("scale_factor_spatial", 8)

    def to_latents(self, x: Tensor) -> Tensor:
        """Latents of videos x (n, 3, frames, h, w) in [-1, 1].

        Raises:
            InputError: pictures.
        """
        return encoded_video(self.autoencoder_on(check_video(x).device), x)

    def to_images(self, z: Tensor) -> Tensor:
        """Videos (n, 3, frames, h, w) of latents."""
        return decoded_video(self.autoencoder_on(z.device), z)
