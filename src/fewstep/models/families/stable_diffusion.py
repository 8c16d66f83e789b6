"""Stable Diffusion 1.x and 2.x, eps and v: text through a CLIP encoder, latents of a VAE, w through `time_cond_proj_dim`."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fewstep.models.families import AnySize
from fewstep.models.families.pipeline_folder import check_fit, config_of
from fewstep.models.families.prompts import Prompts, random_text
from fewstep.models.families.unet import UNet, evaluate
from fewstep.models.metadata import Info


class StableDiffusion(UNet, Prompts):
    """A condition is {"text": hidden states (b, tokens, features)}."""

    name = "stable_diffusion"
    pipelines: tuple[str, ...] = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")
    oblong = True
    encode_arguments: dict[str, Any] = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}  # noqa: RUF012
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text"}  # noqa: RUF012

    def any_size(self) -> AnySize:
        """Any."""
        return AnySize()

    def opens(self, pipeline: str, config: dict[str, Any]) -> bool:
        """A network that takes nothing but latents."""
        return pipeline in self.pipelines and config.get("in_channels") == config.get("out_channels")

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, or a text encoder or VAE of another model."""
        super().check(folder, config)
        features, channels = config_of(folder, "text_encoder").get("hidden_size"), config_of(folder, "vae").get("latent_channels")
        check_fit(folder, "the text encoder's features", features, config["cross_attention_dim"])
        check_fit(folder, "the channels of the VAE's latents", channels, config["out_channels"])

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,)."""
        return evaluate(network, z, time, condition["text"], w)

    def example(self, network: Any, info: Info, n: int) -> dict[str, Tensor]:
        """Random text (n, tokens, features), always the same."""
        return {"text": random_text(n, self.clip_tokens(), network.config["cross_attention_dim"])}
