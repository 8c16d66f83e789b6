"""Z-Image (base): one stream of pictures and text, whose time runs from noise to data; w is added to the time embedding.

Its stock pipeline counts its own guidance_scale from 0: it is w, one less than ours, and a baked student is run with 0.
"""

from typing import Any

import torch
from torch import Tensor

from fewstep.models.families import AnySize
from fewstep.models.families.flow_latents import TEXT_TOKENS, ChosenSize
from fewstep.models.families.text_transformer import TextTransformer


class ZImage(ChosenSize, TextTransformer):
    """A condition is {"text" (b, tokens, features), "mask" (b, tokens), 1 where a token is one of the prompt's}."""

    name, network_type, time_embedding = "z_image", "ZImageTransformer2DModel", "t_embedder.mlp.2"
    pipelines = ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline")
    unguided, mask, text_tokens, text_width = 0.0, "mask", TEXT_TOKENS, "cap_feat_dim"
    encode_arguments: dict[str, Any] = {"do_classifier_free_guidance": False, "max_sequence_length": TEXT_TOKENS}  # noqa: RUF012

    def tokens(self, folder: Any, config: dict[str, Any]) -> int:
        """One for each patch."""
        h, w = self.sides(folder, config)
        return h * w // 4

    def any_size(self) -> AnySize:
        """Whole patches, as far as their places are known."""
        return AnySize(self.patches[-1], self.patches[-1] * min(self.known["axes_lens"][1:]))

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """Lists, since texts have different lengths."""
        return {"x": list(z[:, :, None]), "t": (1000 - time) / 1000, "cap_feats": texts(condition)}

    def output(self, output: list[Tensor], z: Tensor) -> Tensor:
        """Data less noise, turned around."""
        return -torch.stack(output)[:, :, 0]

    def stock_arguments(self, condition: Any, pipeline: Any) -> dict[str, Any]:
        """The texts."""
        return {"prompt_embeds": texts(condition)}


def texts(condition: dict[str, Tensor]) -> list[Tensor]:
    """Each prompt's tokens (tokens, features); all of them where tensors have no content."""
    text, mask = condition["text"], condition["mask"]
    return list(text) if mask.is_meta else [row[shown.bool()] for row, shown in zip(text, mask, strict=True)]
