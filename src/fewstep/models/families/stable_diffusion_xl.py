"""Stable Diffusion XL: text through two CLIP encoders, a pooled text and the sizes of the picture beside it, w through `time_cond_proj_dim`."""

from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.families.added_embedding import check_fit, check_guided
from fewstep.models.families.stable_diffusion import StableDiffusion, warn_of_cuts
from fewstep.models.families.stable_diffusion_inpainting import StableDiffusionInpainting
from fewstep.models.families.stock import config_of, index_of, network_config, quiet
from fewstep.models.families.unet import check_teacher, embedded_w
from fewstep.models.metadata import Info

SIZES = (
    "original_size",
    "crops_coords_top_left",
    "target_size",
)  # what `sizes` holds, two numbers each, as the stock pipelines call it


class StableDiffusionXL(StableDiffusion):
    """A condition is {"text" (b, tokens, features), "pooled" (b, features), "sizes" (b, 6): original, top left of the crop, target}."""

    name = "stable_diffusion_xl"
    pipelines: tuple[str, ...] = (
        "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline",
    )  # fmt: skip
    encoders: tuple[str, ...] = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, a refiner, or a text encoder or VAE of another model."""
        check_teacher(config, folder)
        check_guided(folder)
        if index_of(folder).get("requires_aesthetics_score"):
            raise InputError(f"{folder} is a refiner, which only ends what another model began; name the base model as teacher")
        one, two, vae = (config_of(folder, part) for part in ("text_encoder", "text_encoder_2", "vae"))
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        for what, given, taken in (
            ("the text encoders' features", one["hidden_size"] + two["hidden_size"], config["cross_attention_dim"]),
            ("the pooled text's features", two["projection_dim"], pooled),
            ("the channels of the VAE's latents", vae["latent_channels"], config["out_channels"]),
        ):
            check_fit(folder, what, given, taken)
        if vae.get("latents_mean") is not None:
            raise InputError(
                f"{folder}: a VAE with latents_mean is not known here; name a model with Stable Diffusion XL's own VAE"
            )

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,)."""
        added = {"text_embeds": condition["pooled"], "time_ids": condition["sizes"]}
        text, embedded = condition["text"], embedded_w(w, z)
        return network(z, time, text, timestep_cond=embedded, added_cond_kwargs=added, return_dict=False)[0]

    def encode(self, prompts: list[str], device: torch.device, **extra: Any) -> Condition:
        """The condition of prompts; `extra` may be the stock pipelines' `original_size`, `crops_coords_top_left`, `target_size`.

        Raises:
            InputError: something is given that this family does not take.
        """
        sizes = {name: extra.pop(name) for name in SIZES if name in extra}
        text = super().encode(prompts, device, **extra)
        assert isinstance(text, dict) and self.folder is not None
        side = self.shape(self.folder, network_config(self.folder, self))[2]
        usual = dict(zip(SIZES, ((side, side), (0, 0), (side, side)), strict=True))
        numbers = [number for pair in (usual | sizes).values() for number in pair]
        return {**text, "sizes": torch.tensor([numbers] * len(prompts), device=device, dtype=text["text"].dtype)}

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str], device: torch.device) -> Condition:
        """{"text", "pooled"} of prompts."""
        pipeline = self.encoders_on(device)
        warn_of_cuts(pipeline.tokenizer, prompts)
        with quiet():  # it would tell of the cuts again
            text, _, pooled, _ = pipeline.encode_prompt(prompts, None, device, 1, False)
        return {"text": text, "pooled": pooled}

    def null(self, info: Info, prompt: str = "") -> Any:
        """A function that gives what the stock pipeline guides away from: zeros or the empty prompt, as the folder says, or a negative one."""

        @cache
        @torch.no_grad()
        def encoded() -> Condition:
            device = torch.device("cpu")
            with quiet():
                _, text, _, pooled = self.encoders_on(device).encode_prompt("", None, device, 1, True, prompt or None)
            return {"text": text, "pooled": pooled}

        return encoded

    def example(self, network: nn.Module, info: Info, n: int) -> Condition:
        """Random text, the sizes of a picture cropped more and more."""
        text = super().example(network, info, n)
        assert isinstance(text, dict)
        config, side = cast(Any, network).config, info.image_size or info.size
        features = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        generator = torch.Generator(device="cpu").manual_seed(2)
        sizes = torch.tensor([[2 * side, side, i, 0, side, side] for i in range(n)], device="cpu").float()
        return {**text, "pooled": torch.randn(n, features, generator=generator, device="cpu"), "sizes": sizes}

    def stock_arguments(self, condition: Condition, pipeline: Any) -> dict[str, Any]:
        """Embeddings, and the sizes under their names."""
        assert isinstance(condition, dict)
        pairs = condition["sizes"][0].reshape(3, 2).int().tolist()
        sizes = {name: tuple(pair) for name, pair in zip(SIZES, pairs, strict=True)}
        return {"prompt_embeds": condition["text"], "pooled_prompt_embeds": condition["pooled"], **sizes}


class StableDiffusionXLInpainting(StableDiffusionInpainting, StableDiffusionXL):
    """The network of nine channels: the condition of Stable Diffusion XL, and "mask" and "masked" as in `StableDiffusionInpainting`."""

    name = "stable_diffusion_xl_inpainting"
    pipelines: tuple[str, ...] = ("StableDiffusionXLInpaintPipeline",)

    def stock_arguments(self, condition: Condition, pipeline: Any) -> dict[str, Any]:
        """Both families' own."""
        return super().stock_arguments(condition, pipeline) | StableDiffusionXL.stock_arguments(self, condition, pipeline)
