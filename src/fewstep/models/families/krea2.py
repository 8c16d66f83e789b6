"""Krea 2: text as several layers of its encoder, which the network blends itself; w is added to the time embedding.

Its stock pipeline counts its own guidance_scale from 0: it is w, one less than ours, and a baked student is run with 0.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.families.flow_latents import TEXT_TOKENS, Packed
from fewstep.models.families.one_frame import OneFrame
from fewstep.models.families.pipeline_folder import check_fit, index_of
from fewstep.models.families.prompts import random_text
from fewstep.models.families.text_transformer import TextTransformer
from fewstep.models.metadata import Info


class Krea2(OneFrame, Packed, TextTransformer):
    """A condition is {"text" (b, tokens, layers times features), "mask" (b, tokens), 1 where a token is one of the prompt's}."""

    name, network_type, time_embedding, pipelines = "krea2", "Krea2Transformer2DModel", "time_embed.linear_2", ("Krea2Pipeline",)
    unguided, mask, text_tokens, text_width = 0.0, "mask", TEXT_TOKENS, "text_hidden_dim"
    encoding, low_cpu_mem_usage = ("text", "mask"), True

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, or a text encoder or VAE of another model."""
        super().check(folder, config)
        if index_of(folder).get("is_distilled"):
            raise InputError(f"{folder} is guidance-distilled already (is_distilled is set); name a Krea 2 base")
        if layers := index_of(folder).get("text_encoder_select_layers"):
            check_fit(folder, "the selected layers of the text encoder", len(layers), config["num_text_layers"])

    def encoded(self, *given: Any) -> Condition:
        """The layers in one row."""
        made = super().encoded(*given)
        assert isinstance(made, dict)
        return made | {"text": made["text"].flatten(2)}

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Random text of different lengths, of all layers."""
        made, features = super().example(network, info, n), network.config["num_text_layers"] * network.config["text_hidden_dim"]
        assert isinstance(made, dict) and self.text_tokens is not None
        return made | {"text": random_text(n, self.text_tokens, features)}

    def network_time(self, time: Tensor, z: Tensor) -> Tensor:
        """sigma."""
        return (time / 1000).to(z.dtype)

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """Tokens, their places, and the text's layers with what is seen of it."""
        tokens, sides = condition["text"].shape[1], (side // 2 for side in z.shape[2:])
        places = self.pipeline_class().prepare_position_ids(tokens, *sides, z.device)
        return super().inputs(z, time, condition) | {"position_ids": places} | self.layers(condition, "encoder_attention_mask")

    def layers(self, condition: dict[str, Tensor], mask: str, text: str = "encoder_hidden_states") -> dict[str, Tensor]:
        """Arguments for the text (b, tokens, layers, features) and its mask."""
        features = self.known["text_hidden_dim"]
        return {text: condition["text"].unflatten(2, (-1, features)), mask: condition["mask"].bool()}

    def stock_arguments(self, condition: Any, pipeline: Any) -> dict[str, Any]:
        """The layers of the text, and its mask."""
        return self.layers(condition, "prompt_embeds_mask", "prompt_embeds")
