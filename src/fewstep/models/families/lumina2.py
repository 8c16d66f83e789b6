"""Lumina-Image 2.0: one stream of pictures and text, whose time runs from noise to data; w is added to the time embedding."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.models.families import AnySize
from fewstep.models.families.text_transformer import TextTransformer


class Lumina2(TextTransformer):
    """A condition is {"text" (b, tokens, features), "mask" (b, tokens), 1 where a token is one of the prompt's}."""

    name, network_type, time_embedding = "lumina2", "Lumina2Transformer2DModel", "time_caption_embed.timestep_embedder.linear_2"
    pipelines = ("Lumina2Pipeline", "Lumina2Text2ImgPipeline")
    encoding, negative_encoding = ("text", "mask"), ("", "", "text", "mask")
    encode_arguments: dict[str, Any] = {"do_classifier_free_guidance": False}  # noqa: RUF012
    mask, text_tokens, text_width = "mask", 256, "cap_feat_dim"
    network_arguments: dict[str, str] = {"encoder_hidden_states": "text", "encoder_attention_mask": "mask"}  # noqa: RUF012
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text", "prompt_attention_mask": "mask"}  # noqa: RUF012

    def tokens(self, folder: Path, config: dict[str, Any]) -> int:
        """What the stock pipeline takes for the number of tokens: that of channels."""
        return self.channels(config)

    def any_size(self) -> AnySize:
        """Whole patches, as far as their places are known."""
        patch = self.known["patch_size"]
        return AnySize(patch, patch * min(self.known["axes_lens"][1:]))

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """The network counts a mask's tokens: all, where tensors have no content."""
        mask = condition["mask"]
        return super().inputs(z, time, condition | {"mask": mask.as_subclass(AllShown) if mask.is_meta else mask})

    def network_time(self, time: Tensor, z: Tensor) -> Tensor:
        """1 - sigma."""
        return 1 - time / 1000

    def output(self, output: Tensor, z: Tensor) -> Tensor:
        """Data less noise, turned around."""
        return -output


class AllShown(Tensor):
    """A mask without content that is one everywhere."""

    def sum(self, dim: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """How many tokens each row shows."""
        return torch.full(self.shape[:1], self.shape[dim], device="cpu")
