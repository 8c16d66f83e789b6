"""Wan: text to video, a flow over latents (b, c, frames, h, w); w is added to the time embedding.

Its stock pipeline gives its scheduler no sigmas, so a student's folder has a scheduler for its number of steps (`flow_grid`).
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.families.added_embedding import AddedEmbedding, given
from fewstep.models.families.flow_grid import FlowGrid
from fewstep.models.families.flow_latents import TEXT_TOKENS, ChosenSize
from fewstep.models.families.pipeline_folder import check_fit, config_of, has_part
from fewstep.models.families.prompts import Prompts, random_text
from fewstep.models.families.vae import decoded_video, encoded_video
from fewstep.models.metadata import Info

VIDEO = (81, 480, 832)  # frames, height and width: the stock pipeline's default


class Wan(AddedEmbedding, FlowGrid, ChosenSize, Prompts):
    """A condition is {"text" (b, tokens, features)}."""

    name, network_type, pipelines = "wan", "WanTransformer3DModel", ("WanPipeline",)
    time_embedding = "condition_embedder.time_embedder.linear_2"
    encode_arguments: dict[str, Any] = {"do_classifier_free_guidance": False, "max_sequence_length": TEXT_TOKENS}  # noqa: RUF012
    text_tokens = TEXT_TOKENS
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text"}  # noqa: RUF012

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for two networks, one that takes a picture, or a text encoder or VAE of another model."""
        super().check(folder, config)
        if has_part(folder, "transformer_2"):
            raise InputError(
                f"{folder} has a second network for the late times (Wan 2.2 A14B), which is not known here; name one with one"
            )
        if config.get("image_dim") or config["in_channels"] != config["out_channels"]:
            raise InputError(f"{folder} begins from a picture; name a Wan of text to video")
        check_fit(folder, "the text encoder's features", config_of(folder, "text_encoder").get("d_model"), config["text_dim"])
        check_fit(folder, "the VAE's channels", config_of(folder, "vae")["z_dim"], config["in_channels"])

    def usual_sides(self, folder: Path) -> tuple[int, ...]:
        """(frames, h, w) of the stock pipeline's default video."""
        (frames, height, width), space = VIDEO, self.pixels_of_latent(folder)
        return (frames - 1) // config_of(folder, "vae").get("scale_factor_temporal", 4) + 1, height // space, width // space

    def patch(self, config: dict[str, Any]) -> tuple[int, ...]:
        """As the network's config has it: frames, height, width."""
        return tuple(config["patch_size"])

    def pixels_of_latent(self, folder: Path) -> int:
        """How many pixels a latent stands for, along a side."""
        return config_of(folder, "vae").get("scale_factor_spatial", 8)

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, frames, h, w) at timesteps `time` (b,)."""
        return network(z, time, condition["text"], return_dict=False, **given(w))[0]

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Random text."""
        return {"text": random_text(n, TEXT_TOKENS, network.config["text_dim"])}

    def to_latents(self, x: Tensor) -> Tensor:
        """Latents of videos x (n, 3, frames, h, w) in [-1, 1].

        Raises:
            InputError: pictures.
        """
        if x.ndim != 5:
            raise InputError(
                "this model makes videos (n, 3, frames, height, width), not pictures; give data whose batches hold latents of videos"
            )
        return encoded_video(self.autoencoder_on(x.device), x)

    def to_images(self, z: Tensor) -> Tensor:
        """Videos (n, 3, frames, h, w) of latents."""
        return decoded_video(self.autoencoder_on(z.device), z)
