"""CogVideoX (2B and 5B): text to video, frames before channels in its latents; w is added to the time embedding."""

from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.errors import InputError
from fewstep.models.families.flow_latents import check_video
from fewstep.models.families.pipeline_folder import config_of
from fewstep.models.families.text_transformer import TextTransformer


class CogVideoX(TextTransformer):
    """A condition is {"text" (b, tokens, features)}, filled up to one length, of which the network sees all."""

    name, network_type, pipelines = "cogvideox", "CogVideoXTransformer3DModel", ("CogVideoXPipeline",)
    time_embedding, text_tokens, text_width = "time_embedding.linear_2", 226, "text_embed_dim"
    encode_arguments: dict[str, Any] = {"do_classifier_free_guidance": False}  # noqa: RUF012

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a CogVideoX 1.5, one that takes a picture, or a text encoder or VAE of another model."""
        if config.get("patch_size_t") or config.get("ofs_embed_dim"):
            raise InputError(
                f"{folder} is a CogVideoX 1.5 (patch_size_t is set), which is not known here; name a CogVideoX 2B or 5B"
            )
        if config["in_channels"] != config["out_channels"]:
            raise InputError(f"{folder} begins from a picture; name a CogVideoX of text to video")
        super().check(folder, config)

    def sides(self, folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
        """(frames, h, w) of the latents."""
        frames = (config["sample_frames"] - 1) // config_of(folder, "vae")["temporal_compression_ratio"] + 1
        return frames, config["sample_height"], config["sample_width"]

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """Frames first, with their places where the network does not know them by itself."""
        from diffusers.models.embeddings import get_3d_rotary_pos_embed

        config, given, places = self.known, super().inputs(z, time, condition), None
        if config["use_rotary_positional_embeddings"]:
            grid = z.shape[3] // config["patch_size"], z.shape[4] // config["patch_size"]
            places = get_3d_rotary_pos_embed(config["attention_head_dim"], ((0, 0), grid), grid, z.shape[2], device=z.device)
        return given | {"image_rotary_emb": places}

    def packed(self, z: Tensor) -> Tensor:
        """(b, frames, c, h, w)."""
        return z.transpose(1, 2)

    def output(self, output: Tensor, z: Tensor) -> Tensor:
        """(b, c, frames, h, w)."""
        return output.transpose(1, 2)

    def stock_call(self, pipeline: Any, z: Tensor, condition: Any, settings: dict[str, Any]) -> Tensor:
        """Samples shaped as z."""
        return self.output(super().stock_call(pipeline, self.packed(z), condition, settings), z)

    def to_latents(self, x: Tensor) -> Tensor:
        """Latents of videos x (n, 3, frames, h, w) in [-1, 1]; InputError for pictures."""
        return super().to_latents(check_video(x))
