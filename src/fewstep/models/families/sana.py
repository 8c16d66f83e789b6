"""Sana: linear attention over latents of a 32x autoencoder, a flow; w is added to the time embedding."""

import inspect
from pathlib import Path
from typing import Any

from fewstep.errors import InputError
from fewstep.models.families import AnySize
from fewstep.models.families.flow_grid import FlowGrid
from fewstep.models.families.pipeline_folder import config_of
from fewstep.models.families.text_transformer import TextTransformer


class Sana(FlowGrid, TextTransformer):
    """A condition is {"text" (b, tokens, features), "mask" (b, tokens), 1 where a token is one of the prompt's}."""

    name, network_type, time_embedding = "sana", "SanaTransformer2DModel", "time_embed.emb.timestep_embedder.linear_2"
    pipelines = ("SanaPipeline",)
    encoding, negative_encoding = ("text", "mask"), ("", "", "text", "mask")
    mask, text_tokens, text_width = "mask", 300, "caption_channels"
    network_arguments: dict[str, str] = {"encoder_hidden_states": "text", "encoder_attention_mask": "mask"}  # noqa: RUF012
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text", "prompt_attention_mask": "mask"}  # noqa: RUF012

    @property
    def encode_arguments(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """With what the stock pipeline writes before each prompt."""
        before = inspect.signature(self.pipeline_class().__call__).parameters["complex_human_instruction"].default
        return {"do_classifier_free_guidance": False, "complex_human_instruction": before}

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, one of other times, or a text encoder or VAE of another model."""
        super().check(folder, config)
        if config.get("timestep_scale", 1.0) != 1.0:
            raise InputError(
                f"{folder}: timestep_scale is {config['timestep_scale']}, of SANA-Sprint, which is distilled; name a Sana"
            )

    def pixels_of_latent(self, folder: Path) -> int:
        """How many pixels a latent stands for, along a side."""
        return 2 ** (len(config_of(folder, "vae")["encoder_block_out_channels"]) - 1)

    def any_size(self) -> AnySize:
        """Whole patches."""
        return AnySize(self.known["patch_size"])

    def stock_arguments(self, condition: Any, pipeline: Any) -> dict[str, Any]:
        """The text and its mask; sizes that the pipeline does not know are taken as they are."""
        return super().stock_arguments(condition, pipeline) | {"use_resolution_binning": False}
