"""HunyuanVideo: text to video through a Llama and CLIP, guided by `true_cfg_scale`; w is added to the time embedding.

The network has an input for guidance besides, which it was distilled with. Teacher and student are given what the stock pipeline gives by default there, 6,
so that a baked student runs with the pipeline's defaults.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.families.flow_latents import VideoLatents, check_video
from fewstep.models.families.pipeline_folder import check_fit, config_of
from fewstep.models.families.prompts import random_text
from fewstep.models.families.text_transformer import TextTransformer
from fewstep.models.metadata import Info

VIDEO, GUIDANCE = (129, 720, 1280), 6.0  # frames, height and width; the network's input: the stock pipeline's defaults


class HunyuanVideo(VideoLatents, TextTransformer):
    """A condition is {"text" (b, tokens, features), "mask" (b, tokens), "pooled" (b, features)}: of the Llama, and of CLIP."""

    name, network_type, pipelines = "hunyuan_video", "HunyuanVideoTransformer3DModel", ("HunyuanVideoPipeline",)
    time_embedding, video, unguided = "time_text_embed.timestep_embedder.linear_2", VIDEO, GUIDANCE
    encoders = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    encoding, mask, text_tokens, text_width = ("text", "pooled", "mask"), "mask", 256, "text_embed_dim"
    network_arguments: dict[str, str] = {  # noqa: RUF012
        "encoder_hidden_states": "text", "encoder_attention_mask": "mask", "pooled_projections": "pooled"
    }  # fmt: skip
    pipeline_arguments: dict[str, str] = {  # noqa: RUF012
        "prompt_embeds": "text", "prompt_attention_mask": "mask", "pooled_prompt_embeds": "pooled"
    }  # fmt: skip

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for one that takes a picture, or text encoders or a VAE of another model."""
        if config.get("image_condition_type"):
            raise InputError(f"{folder} begins from a picture; name a HunyuanVideo of text to video")
        super().check(folder, config | {"guidance_embeds": False})
        features = config_of(folder, "text_encoder_2").get("hidden_size")
        check_fit(folder, "the second text encoder's features", features, config["pooled_projection_dim"])

    def ratios(self, folder: Path) -> tuple[int, int]:
        """How many frames, and how many pixels along a side, a latent stands for."""
        vae = config_of(folder, "vae")
        return vae.get("temporal_compression_ratio", 4), vae.get("spatial_compression_ratio", 8)

    def patch(self, config: dict[str, Any]) -> tuple[int, ...]:
        """As the network's config has it: frames, height, width."""
        return config["patch_size_t"], config["patch_size"], config["patch_size"]

    def tokens(self, folder: Path, config: dict[str, Any]) -> int:
        """One for each patch."""
        return math.prod(side // step for side, step in zip(self.sides(folder, config), self.patch(config), strict=True))

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """With the guidance that the stock pipeline gives by default."""
        return super().inputs(z, time, condition) | {
            "guidance": torch.full((len(z),), GUIDANCE, dtype=z.dtype, device=z.device) * 1000
        }

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Random text of different lengths."""
        made = super().example(network, info, n)
        assert isinstance(made, dict)
        return made | {"pooled": random_text(n, network.config["pooled_projection_dim"], seed=1)}

    def to_latents(self, x: Tensor) -> Tensor:
        """Latents of videos x (n, 3, frames, h, w) in [-1, 1]; InputError for pictures."""
        return super().to_latents(check_video(x))
