"""CogView4: one stream of pictures and text, a flow whose network is given the time before the shift; w is added to the time embedding.

Its stock pipeline gives the scheduler a grid of its own (1000 to 1 in N times); a student is run with `timesteps`, 1000 k / N, which it takes as they are.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from fewstep.method.process import RectifiedFlow, time_grid, to_float64
from fewstep.models.families import AnySize
from fewstep.models.families.pipeline_folder import config_of
from fewstep.models.families.schedulers import process_of_scheduler
from fewstep.models.families.text_transformer import TextTransformer

TEXT_TOKENS = 512  # of a prompt; the stock pipeline reads up to 1024


class CogView4(TextTransformer):
    """A condition is {"text" (b, tokens, features), "mask" (b, tokens), 1 where a token is one that the stock pipeline has}."""

    name, network_type, time_embedding = "cogview4", "CogView4Transformer2DModel", "time_condition_embed.timestep_embedder.linear_2"
    pipelines, stock_size_factor, text_width = ("CogView4Pipeline",), "vae_scale_factor", "text_embed_dim"
    mask, text_tokens = "mask", TEXT_TOKENS
    encode_arguments: dict[str, Any] = {"do_classifier_free_guidance": False, "max_sequence_length": TEXT_TOKENS}  # noqa: RUF012
    network_arguments: dict[str, str] = {"encoder_hidden_states": "text", "attention_mask": "mask"}  # noqa: RUF012

    def tokens(self, folder: Path, config: dict[str, Any]) -> int:
        """One for each patch."""
        h, w = self.sides(folder, config)
        return h * w // config["patch_size"] ** 2

    def any_size(self) -> AnySize:
        """Whole patches."""
        return AnySize(self.known["patch_size"])

    def scheduler_config(self, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        """With the shift of the picture's size, which the stock pipeline decides in a way of its own."""
        from diffusers.pipelines.cogview4.pipeline_cogview4 import calculate_shift

        known = config_of(folder, "scheduler")
        if not known.get("use_dynamic_shifting"):
            return known
        given = (known.get(key, usual) for key, usual in (("base_image_seq_len", 256), ("base_shift", 0.25), ("max_shift", 0.75)))
        return known | {"use_dynamic_shifting": False, "shift": calculate_shift(self.tokens(folder, config), *given)}

    @cached_property
    def process(self) -> RectifiedFlow:
        """That of the model's folder."""
        assert self.folder is not None
        made, _ = process_of_scheduler(self.scheduler_config(self.folder, self.known), None)
        assert isinstance(made, RectifiedFlow)
        return made

    def network_time(self, time: Tensor, z: Tensor) -> Tensor:
        """1000 t, where `time` is 1000 sigma."""
        sigma, shift = to_float64(time) / 1000, self.process.shift
        return (1000 * sigma / (shift - (shift - 1) * sigma)).float()

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """With the size of the picture, which is not cropped."""
        assert self.folder is not None
        sides = [side * self.pixels_of_latent(self.folder) for side in z.shape[2:]]
        size = torch.tensor([sides], dtype=z.dtype, device=z.device).expand(len(z), -1)
        sizes = {"original_size": size, "target_size": size, "crop_coords": torch.zeros_like(size)}
        return super().inputs(z, time, condition) | sizes

    def encoded(self, pipeline: Any, prompts: list[str], device: torch.device, negative: bool) -> Any:
        """Each prompt's tokens as the stock pipeline has them of that prompt alone: its encoder sees what fills up the shorter ones of several."""
        given = {"device": device} | self.encode_arguments
        return {"text": [pipeline.encode_prompt(prompt, **given)[0][0] for prompt in prompts]}

    def open_part(self, folder: Path, part: str, dtype: torch.dtype) -> Any:
        """The network in one part of a folder, in evaluation mode, which hides tokens."""
        return hiding(super().open_part(folder, part, dtype))

    def network_of(self, config: dict[str, Any]) -> nn.Module:
        """The network of a config, its weights not those of any model."""
        return hiding(super().network_of(config))

    def step_arguments(self, steps: int) -> dict[str, Any]:
        """Our times, as the pipeline rounds them: exact where N divides 1000."""
        return {"num_inference_steps": steps, "timesteps": (1000 * time_grid(steps)[:-1]).int().tolist()}

    def stock_arguments(self, condition: Any, pipeline: Any) -> dict[str, Any]:
        """The text, whose tokens the pipeline hides none of."""
        return {"prompt_embeds": condition["text"][:, condition["mask"][0].bool()]}


class HiddenTokens:
    """Attention of text and picture as the stock processor has it, which instead of hiding tokens adds 1 to the others' logits."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """(picture, text) after attention to the tokens that `attention_mask` (b, tokens of text) shows, and to the picture."""
        from diffusers.models.embeddings import apply_rotary_emb

        both, tokens = torch.cat([encoder_hidden_states, hidden_states], 1), encoder_hidden_states.shape[1]
        query, key, value = (
            layer(both).unflatten(2, (attn.heads, -1)).transpose(1, 2) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = (norm(x).to(both.dtype) for norm, x in ((attn.norm_q, query), (attn.norm_k, key)))
        for x in (query, key):
            x[:, :, tokens:] = apply_rotary_emb(x[:, :, tokens:], image_rotary_emb, use_real_unbind_dim=-2)  # pyright: ignore[reportArgumentType]
        shown = (
            None if attention_mask is None else pad(attention_mask.bool(), (0, hidden_states.shape[1]), value=True)[:, None, None]
        )
        made = scaled_dot_product_attention(query, key, value, attn_mask=shown).transpose(1, 2).flatten(2)
        made = attn.to_out[1](attn.to_out[0](made.to(both.dtype)))
        return made[:, tokens:], made[:, :tokens]


def hiding(network: Any) -> Any:
    """The same network, whose attention hides tokens."""
    for block in network.transformer_blocks:
        block.attn1.set_processor(HiddenTokens())
    return network
