"""Chroma: Flux without an input for guidance or pooled text, guided with two evaluations; w is added where its time embedding begins."""

from typing import Any

import torch
from torch import Tensor

from fewstep.models.families.flow_latents import TEXT_TOKENS, Packed
from fewstep.models.families.flux import position_ids
from fewstep.models.families.text_transformer import TextTransformer


class Chroma(Packed, TextTransformer):
    """A condition is {"text" (b, tokens, features), "mask" (b, tokens), 1 where a token is one of the prompt's or the first after it}."""

    name, network_type, time_embedding = "chroma", "ChromaTransformer2DModel", "distilled_guidance_layer.in_proj"
    pipelines = ("ChromaPipeline", "ChromaImg2ImgPipeline", "ChromaInpaintPipeline")
    encoding, mask, text_tokens = ("text", "", "mask"), "mask", TEXT_TOKENS
    encode_arguments: dict[str, Any] = {"do_classifier_free_guidance": False, "max_sequence_length": TEXT_TOKENS}  # noqa: RUF012
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text", "prompt_attention_mask": "mask"}  # noqa: RUF012

    def network_time(self, time: Tensor, z: Tensor) -> Tensor:
        """sigma."""
        return time.to(z.dtype) / 1000

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """Tokens, their places, and which of all are seen, as numbers: the stock pipeline's way."""
        given = super().inputs(z, time, condition)
        mask = condition["mask"].to(z.dtype)
        seen = torch.cat([mask, mask.new_ones(len(z), given["hidden_states"].shape[1])], 1)
        return given | position_ids(z, condition["text"].shape[1]) | {"attention_mask": seen}

    def stock_arguments(self, condition: Any, pipeline: Any) -> dict[str, Any]:
        """The text, and its mask as numbers."""
        return super().stock_arguments(condition | {"mask": condition["mask"].to(condition["text"].dtype)}, pipeline)
