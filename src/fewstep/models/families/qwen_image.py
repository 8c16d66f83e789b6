"""Qwen-Image: a flow that its stock pipeline guides with two evaluations (`true_cfg_scale`); w is added to the time embedding."""

from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.errors import InputError
from fewstep.models.families.flow_latents import TEXT_TOKENS, Packed
from fewstep.models.families.one_frame import OneFrame
from fewstep.models.families.text_transformer import TextTransformer


class QwenImage(OneFrame, Packed, TextTransformer):
    """A condition is {"text" (b, tokens, features), "shown" (b, tokens), 1 where a token is one of the prompt's}."""

    name, network_type = "qwen_image", "QwenImageTransformer2DModel"
    pipelines = ("QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline")
    time_embedding = "time_text_embed.timestep_embedder.linear_2"
    encoding, mask = ("text", "shown"), "shown"
    encode_arguments: dict[str, Any] = {"max_sequence_length": TEXT_TOKENS}  # noqa: RUF012
    text_tokens, empty_prompt = TEXT_TOKENS, " "  # as its authors guide it
    network_arguments: dict[str, str] = {"encoder_hidden_states": "text", "encoder_hidden_states_mask": "shown"}  # noqa: RUF012
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text", "prompt_embeds_mask": "shown"}  # noqa: RUF012

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, one that edits or makes layers, or a text encoder or VAE of another model."""
        super().check(folder, config)
        for key in ("zero_cond_t", "use_additional_t_cond", "use_layer3d_rope"):
            if config.get(key):
                raise InputError(f"{folder} is a Qwen-Image that edits or makes layers ({key} is set); name one of text to image")

    def network_time(self, time: Tensor, z: Tensor) -> Tensor:
        """sigma."""
        return time.to(z.dtype) / 1000

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """Tokens, their text, and the sides in patches."""
        shapes = [[(1, z.shape[2] // 2, z.shape[3] // 2)]] * len(z)
        return super().inputs(z, time, condition) | {"img_shapes": shapes}
