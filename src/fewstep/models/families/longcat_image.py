"""LongCat-Image: Flux's transformer without an input for guidance or pooled text; w is added to the time embedding."""

from typing import Any

import torch
from torch import Tensor

from fewstep.method.conditioning import Condition
from fewstep.models.families.flow_latents import TEXT_TOKENS, Packed
from fewstep.models.families.text_transformer import TextTransformer


class LongCatImage(Packed, TextTransformer):
    """A condition is {"text" (b, tokens, features)}, filled up to one length by the stock pipeline, which hides no token."""

    name, network_type, time_embedding = "longcat_image", "LongCatImageTransformer2DModel", "time_embed.timestep_embedder.linear_2"
    pipelines, text_tokens = ("LongCatImagePipeline",), TEXT_TOKENS

    def network_time(self, time: Tensor, z: Tensor) -> Tensor:
        """sigma."""
        return time.to(z.dtype) / 1000

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """Tokens and their places: those of text on a diagonal, the picture after them."""
        (h, w), tokens = (side // 2 for side in z.shape[2:]), condition["text"].shape[1]
        places = {
            "img_ids": places_of("image", start=(TEXT_TOKENS, TEXT_TOKENS), height=h, width=w),
            "txt_ids": text_places(tokens),
        }
        return super().inputs(z, time, condition) | {name: ids.to(z) for name, ids in places.items()}

    def encoded(self, pipeline: Any, prompts: list[str], device: torch.device, negative: bool) -> Condition:
        """As the stock pipeline encodes prompts, which knows the device by itself."""
        return {"text": pipeline.encode_prompt(prompt=prompts)[0]}

    def stock_call(self, pipeline: Any, z: Tensor, condition: Any, settings: dict[str, Any]) -> Tensor:
        """Samples; the pipeline's own `encode_prompt` fails on a text that is encoded already, and no model may write a longer prompt."""
        text = condition["text"]
        pipeline.encode_prompt = lambda **_: (text, text_places(text.shape[1]).to(text))
        return super().stock_call(pipeline, z, condition, settings | {"enable_prompt_rewrite": False})


def places_of(kind: str, **settings: Any) -> Tensor:
    """The places of a picture's or a text's tokens (tokens, 3), as the stock pipeline counts them."""
    from diffusers.pipelines.longcat_image.pipeline_longcat_image import prepare_pos_ids

    return prepare_pos_ids(modality_id=int(kind == "image"), type=kind, **settings)


def text_places(tokens: int) -> Tensor:
    """Those of so many tokens of text."""
    return places_of("text", num_token=tokens)
