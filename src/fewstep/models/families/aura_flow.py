"""AuraFlow: text through a T5, a flow on latents of a VAE; w is added to the time embedding."""

import math
from typing import Any

from torch import Tensor

from fewstep.models.families import AnySize
from fewstep.models.families.flow_grid import FlowGrid
from fewstep.models.families.text_transformer import TextTransformer


class AuraFlow(FlowGrid, TextTransformer):
    """A condition is {"text" (b, tokens, features)}, zero after the prompt's tokens."""

    name, network_type, time_embedding = "aura_flow", "AuraFlowTransformer2DModel", "time_step_proj.linear_2"
    pipelines, text_tokens = ("AuraFlowPipeline",), 256
    encode_arguments: dict[str, Any] = {"do_classifier_free_guidance": False}  # noqa: RUF012

    def any_size(self) -> AnySize:
        """Whole patches, as far as their places are known."""
        patch = self.known["patch_size"]
        return AnySize(patch, patch * math.isqrt(self.known["pos_embed_max_size"]))

    def network_time(self, time: Tensor, z: Tensor) -> Tensor:
        """sigma."""
        return (time / 1000).to(z.dtype)

    def stock_arguments(self, condition: Any, pipeline: Any) -> dict[str, Any]:
        """The text, and a mask that the pipeline asks for and does not use."""
        text = condition["text"]
        return {"prompt_embeds": text, "prompt_attention_mask": text.new_ones(text.shape[:2])}
