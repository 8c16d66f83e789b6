"""AuraFlow: text through a T5, a flow on latents of a VAE; w is added to the time embedding."""

from typing import Any

from torch import Tensor

from fewstep.models.families.flow_grid import FlowGrid
from fewstep.models.families.text_transformer import TextTransformer


class AuraFlow(FlowGrid, TextTransformer):
    """A condition is {"text" (b, tokens, features)}, zero after the prompt's tokens."""

    name, network_type, time_embedding = "aura_flow", "AuraFlowTransformer2DModel", "time_step_proj.linear_2"
    pipelines, text_tokens = ("AuraFlowPipeline",), 256
    encode_arguments: dict[str, Any] = {"do_classifier_free_guidance": False}  # noqa: RUF012

    def network_time(self, time: Tensor, z: Tensor) -> Tensor:
        """sigma."""
        return (time / 1000).to(z.dtype)

    def stock_arguments(self, condition: Any, pipeline: Any) -> dict[str, Any]:
        """The text, and a mask that the pipeline asks for and does not use."""
        text = condition["text"]
        return {"prompt_embeds": text, "prompt_attention_mask": text.new_ones(text.shape[:2])}
