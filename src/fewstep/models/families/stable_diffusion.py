"""Stable Diffusion 1.x and 2.x, eps and v: text through a CLIP encoder, latents of a VAE, w through `time_cond_proj_dim`."""

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.families.added_embedding import check_guided
from fewstep.models.families.stock import Stock, config_of, quiet
from fewstep.models.families.unet import baked_unet, check_teacher, embedded_w, student_unet
from fewstep.models.metadata import Info

TOKENS = 77  # of a prompt, where the text encoder does not say


class StableDiffusion(Stock):
    """A condition is {"text": hidden states (b, tokens, features)}."""

    name = "stable_diffusion"
    pipelines: tuple[str, ...] = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")

    def opens(self, pipeline: str, config: dict[str, Any]) -> bool:
        """A network that takes nothing but latents."""
        return pipeline in self.pipelines and config.get("in_channels") == config.get("out_channels")

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, or a text encoder or VAE of another model."""
        check_teacher(config, folder)
        check_guided(folder)
        text, latent = config_of(folder, "text_encoder").get("hidden_size"), config_of(folder, "vae").get("latent_channels")
        if text != config["cross_attention_dim"]:
            raise InputError(
                f"{folder}: the text encoder gives {text} features, the network takes {config['cross_attention_dim']}; they do not belong together"
            )
        if latent != config["out_channels"]:
            raise InputError(
                f"{folder}: the VAE's latents have {latent} channels, the network's {config['out_channels']}; they do not belong together"
            )

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,)."""
        return network(z, time, condition["text"], timestep_cond=embedded_w(w, z), return_dict=False)[0]

    def student_of(self, network: nn.Module) -> nn.Module:
        """The same network with an input for w that is zero."""
        return student_unet(network)

    def bake(self, network: nn.Module, guidance_scale: float) -> nn.Module:
        """A plain network of one scale."""
        return baked_unet(network, guidance_scale)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str], device: torch.device) -> Condition:
        """{"text"} of prompts."""
        pipeline = self.encoders_on(device)
        warn_of_cuts(pipeline.tokenizer, prompts)
        with quiet():  # it would tell of the cuts again
            return {"text": pipeline.encode_prompt(prompts, device, 1, False)[0]}

    def example(self, network: nn.Module, info: Info, n: int) -> Condition:
        """Random text (n, tokens, features), always the same."""
        tokens = config_of(self.folder, "text_encoder").get("max_position_embeddings", TOKENS) if self.folder else TOKENS
        shape = (n, tokens, cast(Any, network).config["cross_attention_dim"])
        return {"text": torch.randn(shape, generator=torch.Generator(device="cpu").manual_seed(0), device="cpu")}

    def stock_arguments(self, condition: Condition, pipeline: Any) -> dict[str, Any]:
        """The pipeline's `prompt_embeds`."""
        assert isinstance(condition, dict)
        return {"prompt_embeds": condition["text"]}


def warn_of_cuts(tokenizer: Any, prompts: list[str], limit: int | None = None) -> None:
    """A warning for each prompt that is longer than the encoder takes (or than `limit` tokens), with what is cut off."""
    limit = limit or int(tokenizer.model_max_length)
    for prompt in prompts:
        words = tokenizer(prompt, truncation=False, verbose=False).input_ids
        if len(words) > limit:
            lost = tokenizer.decode(words[limit - 1 : -1])
            warnings.warn(f"a prompt of {len(words)} tokens is cut to {limit}; not read: '{lost.strip()}'", stacklevel=5)
