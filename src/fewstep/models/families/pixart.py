"""PixArt-alpha and PixArt-sigma: text through T5, latents of a VAE; w is added to the one time embedding that all blocks share."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.method.conditioning import Condition
from fewstep.models.families import AnySize
from fewstep.models.families.added_embedding import AddedEmbedding, given
from fewstep.models.families.pipeline_folder import check_fit, config_of, index_of
from fewstep.models.families.prompts import Prompts, random_text
from fewstep.models.metadata import Info


class PixArt(AddedEmbedding, Prompts):
    """A condition is {"text": hidden states (b, tokens, features), "mask": which tokens are words (b, tokens)}."""

    name, network_type, time_embedding = "pixart", "PixArtTransformer2DModel", "adaln_single.emb.timestep_embedder.linear_2"
    pipelines, stock_size_factor = ("PixArtAlphaPipeline", "PixArtSigmaPipeline"), "vae_scale_factor"
    encoding = ("text", "mask", "", "")
    encode_arguments: dict[str, Any] = {"do_classifier_free_guidance": False, "clean_caption": True}  # noqa: RUF012
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text", "prompt_attention_mask": "mask"}  # noqa: RUF012

    def __init__(self, folder: Path | None = None, variant: str | None = None) -> None:
        super().__init__(folder, variant)
        sigma = folder is not None and index_of(folder)["_class_name"] == "PixArtSigmaPipeline"
        self.pipelines = self.pipelines[::-1] if sigma else self.pipelines  # a student is saved as its teacher
        self.text_tokens = 300 if sigma else 120  # the stock pipelines' defaults

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, or a text encoder or VAE of another model."""
        super().check(folder, config)
        check_fit(folder, "the text encoder's features", config_of(folder, "text_encoder").get("d_model"), text_features(config))
        check_fit(folder, "the VAE's channels", config_of(folder, "vae").get("latent_channels"), config["in_channels"])

    def any_size(self) -> AnySize:
        """Whole patches, whose places are computed."""
        return AnySize(self.network_config()["patch_size"])

    def call(self, network: Any, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,); a learned sigma is left out. A network of 1024 pixels is given height and width."""
        sizes: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
        if getattr(network, "module", network).use_additional_conditions:  # around it may be what trains it on many devices
            factor = self.pixels_of_latent(self.folder) if self.folder else 8
            pixels = torch.tensor([[z.shape[2] * factor, z.shape[3] * factor]], dtype=z.dtype, device=z.device).expand(len(z), 2)
            sizes = {"resolution": pixels, "aspect_ratio": pixels[:, :1] / pixels[:, 1:]}
        text = {"encoder_hidden_states": condition["text"], "encoder_attention_mask": condition["mask"]}
        return network(z, timestep=time, added_cond_kwargs=sizes, return_dict=False, **text, **given(w))[0][:, : z.shape[1]]

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Random text (n, tokens, features) of fewer and fewer words, always the same."""
        assert self.text_tokens is not None
        words = self.text_tokens - torch.arange(n, device="cpu") % self.text_tokens
        mask = (torch.arange(self.text_tokens, device="cpu")[None] < words[:, None]).long()
        return {"text": random_text(n, self.text_tokens, text_features(network.config)), "mask": mask}

    def stock_arguments(self, condition: Any, pipeline: Any) -> dict[str, Any]:
        """The pipeline's embeddings and their mask; sizes that it does not know are taken as they are."""
        return super().stock_arguments(condition, pipeline) | {"use_resolution_binning": False}


def text_features(config: Any) -> int:
    """How many features of the text a network takes."""
    return config.get("caption_channels") or config["cross_attention_dim"]
