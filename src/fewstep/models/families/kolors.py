"""Kolors: the UNet of Stable Diffusion XL with text of a ChatGLM, whose last token is the pooled text; w through `time_cond_proj_dim`.

Its tokenizer needs sentencepiece, an extra: `pip install 'fewstep[kolors]'`.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.errors import InputError
from fewstep.models.families.pipeline_folder import check_fit, config_of
from fewstep.models.families.prompts import random_text
from fewstep.models.families.stable_diffusion_xl import StableDiffusionXL, pooled_features
from fewstep.models.families.unet import UNet
from fewstep.models.metadata import Info

TOKENS = 256  # of a prompt: the stock pipeline's default


class Kolors(StableDiffusionXL):
    """A condition is {"text" (b, tokens, features), "pooled" (b, features), "sizes" (b, 6)}, as Stable Diffusion XL's."""

    name, pipelines = "kolors", ("KolorsPipeline", "KolorsImg2ImgPipeline")
    encoders, longest, text_tokens = ("text_encoder", "tokenizer"), "tokenizer", TOKENS
    encode_arguments: dict[str, Any] = {"max_sequence_length": TOKENS}  # noqa: RUF012

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, parts of another model, or where sentencepiece is not installed."""
        UNet.check(self, folder, config)
        if find_spec("sentencepiece") is None:
            raise InputError(f"{folder} is a Kolors, whose tokenizer needs its package: pip install 'fewstep[kolors]'")
        text = config_of(folder, "text_encoder").get("hidden_size")
        check_fit(folder, "the text encoder's features", text, config["encoder_hid_dim"])
        check_fit(folder, "the pooled text's features", text, pooled_features(config))
        check_fit(folder, "the channels of the VAE's latents", config_of(folder, "vae")["latent_channels"], config["out_channels"])

    def example(self, network: Any, info: Info, n: int) -> dict[str, Tensor]:
        """Random text, the sizes of a picture cropped more and more."""
        return super().example(network, info, n) | {"text": random_text(n, TOKENS, network.config["encoder_hid_dim"])}
