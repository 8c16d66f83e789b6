"""DeepFloyd IF, a living Imagen: pixels, text through a T5 encoder; its base network and the one that makes a small picture larger."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.families.learned_variance import LearnedVariance, first_half
from fewstep.models.families.pipeline_folder import check_fit, config_of, has_part
from fewstep.models.families.prompts import random_text
from fewstep.models.metadata import Info

TOKENS = 77  # of a prompt: what the stock pipelines cut it to


class DeepFloyd(LearnedVariance):
    """A condition is {"text": hidden states (b, 77, features)}, of prompts cleaned as the stock pipelines clean them."""

    name = "deepfloyd_if"
    pipelines: tuple[str, ...] = ("IFPipeline", "IFImg2ImgPipeline", "IFInpaintingPipeline")
    encode_arguments: dict[str, Any] = {  # noqa: RUF012
        "do_classifier_free_guidance": False, "num_images_per_prompt": 1, "clean_caption": True,
    }  # fmt: skip
    text_tokens = TOKENS
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text"}  # noqa: RUF012

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, one without a variance, or the text encoder of another model."""
        super().check(folder, config)
        if has_part(folder, "text_encoder"):
            check_fit(folder, "the text encoder's features", config_of(folder, "text_encoder")["d_model"], text_features(config))

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,)."""
        return first_half(network, z, time, condition["text"], w)

    def example(self, network: Any, info: Info, n: int) -> dict[str, Tensor]:
        """Random text (n, 77, features), always the same."""
        return {"text": random_text(n, TOKENS, text_features(network.config))}

    def stock_call(self, pipeline: Any, z: Tensor, condition: Any, settings: dict[str, Any]) -> Tensor:
        """Samples; the pipeline draws its noise itself, and here z takes its place."""
        pipeline.prepare_intermediate_images = lambda *_: z
        arguments = self.stock_arguments(condition, pipeline) | {"output_type": "pt", "return_dict": False} | settings
        return pipeline(**arguments)[0]


class DeepFloydSuperResolution(DeepFloyd):
    """Also "low" (b, c, h, w), the small picture made large and noised, and "level" (b,), the timestep of that noise."""

    name = "deepfloyd_if_super_resolution"
    pipelines: tuple[str, ...] = (
        "IFSuperResolutionPipeline", "IFImg2ImgSuperResolutionPipeline", "IFInpaintingSuperResolutionPipeline",
    )  # fmt: skip
    inputs = 2

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,)."""
        both = torch.cat([z, condition["low"]], 1)
        return first_half(network, both, time, condition["text"], w, class_labels=condition["level"])

    @torch.no_grad()
    def encode(
        self,
        prompts: list[str],
        device: torch.device,
        image: Any = None,
        noise_level: int = 250,
        noise: Tensor | None = None,
        **extra: Any,
    ) -> Condition:
        """The condition of prompts and small images, one for all or one each: PIL images, or a tensor (n, c, h, w) in [-1, 1].

        `noise` (n, c, h, w) is what is added to the images made large; without it, always the same.

        Raises:
            InputError: no image, another number of them, or a noise level that does not exist.
        """
        if image is None:
            raise InputError("a super-resolution model needs image=, the small picture to make larger")
        text, n, size = super().encode(prompts, device, **extra), len(prompts), self.network_config()["sample_size"]
        scheduler = self.parts("image_noising_scheduler").image_noising_scheduler
        known = scheduler.config["num_train_timesteps"]
        if not 0 <= noise_level < known:
            raise InputError(f"noise_level is {noise_level}; it is a timestep of the noise on the small picture, 0 to {known - 1}")
        low = torch.cat([interpolate(x, (size, size), mode="bilinear", align_corners=True) for x in pixels(image)]).to(device)
        if len(low) not in (1, n):
            raise InputError(f"{len(low)} images for {n} prompts; give one for all, or one each")
        low = low.expand(n, -1, -1, -1)
        noise = torch.randn(low.shape, generator=torch.Generator().manual_seed(0)) if noise is None else noise
        level = torch.full((n,), noise_level, device=device)
        assert isinstance(text, dict)
        return {**text, "low": scheduler.add_noise(low, noise.to(low), level), "level": level}

    def example(self, network: Any, info: Info, n: int) -> dict[str, Tensor]:
        """Random text and pictures, noised more and more."""
        low = random_text(n, info.channels, info.size, info.size, seed=1)
        return super().example(network, info, n) | {"low": low, "level": (50 + 100 * torch.arange(n, device="cpu")) % 1000}

    def stock_call(self, pipeline: Any, z: Tensor, condition: Any, settings: dict[str, Any]) -> Tensor:
        """Samples; the pipeline makes its picture large and noises it itself, and here ours takes its place."""
        pipeline.image_noising_scheduler.add_noise = lambda *_, **__: condition["low"]
        picture = {"image": condition["low"], "noise_level": int(condition["level"])}
        return super().stock_call(pipeline, z, condition, settings | picture)


def text_features(config: Any) -> int:
    """How many features of the text a network takes."""
    return config["encoder_hid_dim"] or config["cross_attention_dim"]


def pixels(image: Any) -> list[Tensor]:
    """Tensors (n, c, h, w) in [-1, 1] of a tensor like that, of a PIL image, or of several."""
    if isinstance(image, Tensor):
        return [image]
    pictures = image if isinstance(image, list | tuple) else [image]
    return [torch.from_numpy(np.array(p.convert("RGB"), dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None] for p in pictures]
