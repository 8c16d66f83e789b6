"""Kandinsky 2.2, unCLIP's living form: a decoder from the embedding of a picture to its latents. Its prior is refused, and says why."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.denoiser import Null
from fewstep.models.families.diffusers_family import DiffusersFamily
from fewstep.models.families.learned_variance import LearnedVariance, first_half
from fewstep.models.families.pipeline_folder import check_fit, config_of, has_part, index_of, quiet
from fewstep.models.families.prompts import random_text, warn_of_cuts
from fewstep.models.metadata import Info

DECODER, WHOLE = "KandinskyV22Pipeline", "KandinskyV22CombinedPipeline"  # without its prior, and with it
PRIOR = ("prior", "image_encoder", "text_encoder", "tokenizer", "scheduler", "image_processor")  # a prior's parts


class Kandinsky(LearnedVariance):
    """A condition is {"image": embeddings of pictures (b, features)}, which the prior makes of prompts; none is that of a black picture."""

    name, stock_size_factor = "kandinsky", "movq_scale_factor"
    pipelines = (DECODER, "KandinskyV22Img2ImgPipeline", WHOLE, "KandinskyV22Img2ImgCombinedPipeline")
    autoencoder = "movq"

    def pipeline_class(self) -> Any:
        """The decoder with its prior, or alone, as the folder has it."""
        import diffusers

        whole = self.folder is not None and "Combined" in index_of(self.folder)["_class_name"]
        return getattr(diffusers, WHOLE if whole else DECODER)

    def sampling_class(self) -> Any:
        """The decoder alone."""
        import diffusers

        return getattr(diffusers, DECODER)

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, one of another kind, or the prior or VQ model of another model."""
        super().check(folder, config)
        if (config.get("encoder_hid_dim_type"), config.get("addition_embed_type")) != ("image_proj", "image"):
            raise InputError(f"{folder}: the network does not take the embedding of a picture alone; name a Kandinsky 2.2 decoder")
        movq = config_of(folder, "movq")
        channels = movq.get("vq_embed_dim") or movq["latent_channels"]
        check_fit(folder, "the channels of movq's latents", channels, self.channels(config))
        if has_part(folder, "prior_image_encoder"):
            given = config_of(folder, "prior_image_encoder")["projection_dim"]
            check_fit(folder, "the features of the prior's embeddings", given, config["encoder_hid_dim"])

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,)."""
        return first_half(network, z, time, None, w, added_cond_kwargs={"image_embeds": condition["image"]})

    @torch.no_grad()
    def encode(
        self,
        prompts: list[str],
        device: torch.device,
        generator: torch.Generator | None = None,
        prior_num_inference_steps: int = 25,
        prior_guidance_scale: float = 4.0,
        **extra: Any,
    ) -> Condition:
        """{"image"} of prompts, drawn by the stock prior, which is random: from `generator`, or always the same.

        Raises:
            InputError: a decoder without its prior, or something that this family does not take.
        """
        if extra:
            return super().encode(prompts, device, **extra)  # which refuses it
        prior, generator = self._prior(device), generator or torch.Generator().manual_seed(0)
        warn_of_cuts(prior.tokenizer, prompts)
        settings = {"num_inference_steps": prior_num_inference_steps, "guidance_scale": prior_guidance_scale}
        with quiet():  # diffusers would warn of the cuts again
            return {"image": prior(prompts, generator=generator, **settings).image_embeds}

    def encode_prompts(self, prompts: list[str], device: torch.device) -> Condition:
        """{"image"} of prompts."""
        return self.encode(prompts, device)

    def _prior(self, device: torch.device) -> Any:
        if not all(has_part(self.folder, f"prior_{name}") for name in PRIOR):
            raise InputError(
                "this decoder's folder has no prior, which makes embeddings of prompts, and of a black picture to guide it away from; save "
                "both in one: AutoPipelineForText2Image.from_pretrained('kandinsky-community/kandinsky-2-2-decoder').save_pretrained(folder)"
            )
        prior = self.parts(*(f"prior_{name}" for name in PRIOR), "movq").prior_pipe.to(device)
        prior.set_progress_bar_config(disable=True)
        return prior

    def null(self, info: Info, prompt: str = "") -> Null:
        """A function that gives the embedding of a black picture, or of a negative prompt, made once."""

        @cache
        @torch.no_grad()
        def encoded() -> Condition:
            device = torch.device("cpu")
            if prompt:
                return self.encode([prompt], device, prior_guidance_scale=1.0)
            return {"image": self._prior(device).get_zero_embed()}

        return encoded

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Random embeddings (n, features), always the same."""
        return {"image": random_text(n, network.config["encoder_hid_dim"])}

    @torch.no_grad()
    def to_latents(self, x: Tensor) -> Tensor:
        """Latents of pictures x (n, c, h, w) in [-1, 1], neither scaled nor quantized, as the stock pipelines take them."""
        movq = self.autoencoder_on(x.device)
        return movq.encode(x.to(movq.dtype)).latents

    @torch.no_grad()
    def to_images(self, z: Tensor) -> Tensor:
        """Pictures (n, c, h, w) in about [-1, 1] of latents, in z's dtype."""
        movq = self.autoencoder_on(z.device)
        return movq.decode(z.to(movq.dtype), force_not_quantize=True).sample.to(z.dtype)

    def stock_arguments(self, condition: Any, pipeline: Any) -> dict[str, Any]:
        """The embedding, twice, since the pipeline asks for the negative one, which it does not read."""
        return {"image_embeds": condition["image"], "negative_image_embeds": condition["image"]}


class KandinskyPrior(DiffusersFamily):
    """Refused: the stock prior pipeline works with UnCLIPScheduler alone, which draws noise in every step and takes two or more."""

    name, component = "kandinsky_prior", "prior"
    pipelines = ("KandinskyV22PriorPipeline", "KandinskyV22PriorEmb2EmbPipeline")

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError, with what to distil instead."""
        raise InputError(
            f"{folder} is a prior: its stock pipeline works with UnCLIPScheduler alone, which draws noise in every step, so it cannot "
            "run a student of few steps; distil the decoder, with this prior beside it (KandinskyV22CombinedPipeline)"
        )
