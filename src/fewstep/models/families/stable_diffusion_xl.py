"""Stable Diffusion XL: text through two CLIP encoders, a pooled text and the sizes of the picture beside it, w through `time_cond_proj_dim`."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.denoiser import Null
from fewstep.models.families.pipeline_folder import check_fit, config_of, index_of, quiet
from fewstep.models.families.prompts import random_text
from fewstep.models.families.stable_diffusion import StableDiffusion
from fewstep.models.families.stable_diffusion_inpainting import StableDiffusionInpainting
from fewstep.models.families.unet import UNet, evaluate
from fewstep.models.metadata import Info

SIZES = (
    "original_size",
    "crops_coords_top_left",
    "target_size",
)  # what `sizes` holds, two numbers each, as the stock pipelines call it


class StableDiffusionXL(StableDiffusion):
    """A condition is {"text" (b, tokens, features), "pooled" (b, features), "sizes" (b, 6): original, top left of the crop, target}."""

    name, stock_size_factor = "stable_diffusion_xl", "vae_scale_factor"
    pipelines: tuple[str, ...] = (
        "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline",
    )  # fmt: skip
    encoders: tuple[str, ...] = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    encoding = ("text", "", "pooled", "")
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text", "pooled_prompt_embeds": "pooled"}  # noqa: RUF012

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, a refiner, or a text encoder or VAE of another model."""
        UNet.check(self, folder, config)
        if index_of(folder).get("requires_aesthetics_score"):
            raise InputError(f"{folder} is a refiner, which only ends what another model began; name the base model as teacher")
        one, two, vae = (config_of(folder, part) for part in ("text_encoder", "text_encoder_2", "vae"))
        check_fit(folder, "the text encoders' features", one["hidden_size"] + two["hidden_size"], config["cross_attention_dim"])
        check_fit(folder, "the pooled text's features", two["projection_dim"], pooled_features(config))
        check_fit(folder, "the channels of the VAE's latents", vae["latent_channels"], config["out_channels"])
        if vae.get("latents_mean") is not None:
            raise InputError(
                f"{folder}: a VAE with latents_mean is not known here; name a model with Stable Diffusion XL's own VAE"
            )

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,)."""
        added = {"text_embeds": condition["pooled"], "time_ids": condition["sizes"]}
        return evaluate(network, z, time, condition["text"], w, added_cond_kwargs=added)

    def size_arguments(self, info: Info) -> dict[str, Any]:
        """The original and the target size, as the stock pipelines give them for a height and width."""
        return dict.fromkeys(("original_size", "target_size"), info.picture_shape[1:])

    def with_sizes(self, condition: Condition, original: Tensor, top_left: Tensor, target: Tensor) -> Condition:
        """The condition (n, ...) with these sizes, (n, 2) each."""
        assert isinstance(condition, dict)
        return {**condition, "sizes": torch.cat([original, top_left, target], 1).to(condition["text"].device, torch.float32)}

    def encode(self, prompts: list[str], device: torch.device, **extra: Any) -> Condition:
        """The condition of prompts; `extra` may be the stock pipelines' `original_size`, `crops_coords_top_left`, `target_size`.

        Raises:
            InputError: something is given that this family does not take.
        """
        sizes = {name: extra.pop(name) for name in SIZES if name in extra}
        text = super().encode(prompts, device, **extra)
        assert isinstance(text, dict) and self.folder is not None
        size = tuple(side * self.pixels_of_latent(self.folder) for side in self.sides(self.folder, self.network_config()))
        usual = dict(zip(SIZES, (size, (0, 0), size), strict=True))
        numbers = [number for pair in (usual | sizes).values() for number in pair]
        return {**text, "sizes": torch.tensor([numbers] * len(prompts), device=device, dtype=text["text"].dtype)}

    def null(self, info: Info, prompt: str = "") -> Null:
        """A function that gives what the stock pipeline guides away from: zeros or the empty prompt, as the folder says, or a negative one."""

        @cache
        @torch.no_grad()
        def encoded() -> Condition:
            arguments = self.encode_arguments | {"do_classifier_free_guidance": True, "negative_prompt": prompt or None}
            device = torch.device("cpu")
            with quiet():
                _, text, _, pooled = self.encoders_on(device).encode_prompt(prompt="", device=device, **arguments)
            return {"text": text, "pooled": pooled}

        return encoded

    def example(self, network: Any, info: Info, n: int) -> dict[str, Tensor]:
        """Random text, the sizes of a picture cropped more and more."""
        side = info.image_size or info.size
        sizes = torch.tensor([[2 * side, side, i, 0, side, side] for i in range(n)], device="cpu").float()
        pooled = random_text(n, pooled_features(network.config), seed=2)
        return super().example(network, info, n) | {"pooled": pooled, "sizes": sizes}

    def stock_arguments(self, condition: Any, pipeline: Any) -> dict[str, Any]:
        """Embeddings, and the sizes under their names."""
        pairs = condition["sizes"][0].reshape(3, 2).int().tolist()
        sizes = {name: tuple(pair) for name, pair in zip(SIZES, pairs, strict=True)}
        return super().stock_arguments(condition, pipeline) | sizes


class StableDiffusionXLInpainting(StableDiffusionInpainting, StableDiffusionXL):
    """The network of nine channels: the condition of Stable Diffusion XL, and "mask" and "masked" as in `StableDiffusionInpainting`."""

    name = "stable_diffusion_xl_inpainting"
    pipelines: tuple[str, ...] = ("StableDiffusionXLInpaintPipeline",)


def pooled_features(config: Any) -> int:
    """How many features of the pooled text a network takes."""
    return config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
