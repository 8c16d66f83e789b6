"""PixArt-alpha and PixArt-sigma: text through T5, latents of a VAE; w is added to the one time embedding that all blocks share."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fewstep.method.conditioning import Condition
from fewstep.models.families.added_embedding import AddedEmbedding, check_fit, check_guided, given, inputs_of, tokens_of
from fewstep.models.families.stable_diffusion import warn_of_cuts
from fewstep.models.families.stock import config_of, index_of, quiet
from fewstep.models.metadata import Info


class PixArt(AddedEmbedding):
    """A condition is {"text": hidden states (b, tokens, features), "mask": which tokens are words (b, tokens)}."""

    name = "pixart"
    pipelines: tuple[str, ...] = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")

    def network_class(self) -> Any:
        """The stock class of the network."""
        from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

        return PixArtTransformer2DModel

    def pipeline_class(self) -> Any:
        """The teacher's own: the two read prompts of different lengths."""
        import diffusers

        return getattr(diffusers, index_of(self.folder)["_class_name"] if self.folder else self.pipelines[0])

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, or a text encoder or VAE of another model."""
        check_guided(folder)
        taken = config.get("caption_channels") or config["cross_attention_dim"]
        check_fit(folder, "the text encoder's features", config_of(folder, "text_encoder").get("d_model"), taken)
        check_fit(folder, "the VAE's channels", config_of(folder, "vae").get("latent_channels"), config["in_channels"])

    def shape(self, folder: Path, config: dict[str, Any]) -> tuple[int, int, int | None]:
        """(channels, size) of the latents, without the channels of a learned sigma, and the size of the picture."""
        return super().shape(folder, inputs_of(config))

    def time_embedding_outputs(self, network: Any) -> list[nn.Linear]:
        """The end of the time embedder."""
        return [network.adaln_single.emb.timestep_embedder.linear_2]

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,); a learned sigma is left out."""
        text, mask, sizes = condition["text"], condition["mask"], self._sizes(network, z)
        named = {"encoder_hidden_states": text, "encoder_attention_mask": mask, "added_cond_kwargs": sizes}
        return network(z, timestep=time, return_dict=False, **named, **given(w))[0][:, : z.shape[1]]

    def _sizes(self, network: Any, z: Tensor) -> dict[str, Tensor | None]:
        """What a network of 1024 pixels is told: height and width in pixels (b, 2), their ratio (b, 1)."""
        if not getattr(network, "module", network).use_additional_conditions:  # around it may be what trains it on many devices
            return {"resolution": None, "aspect_ratio": None}
        blocks = config_of(self.folder, "vae")["block_out_channels"] if self.folder else [0] * 4
        height, width = (side * 2 ** (len(blocks) - 1) for side in z.shape[-2:])
        resolution = torch.tensor([[height, width]], dtype=z.dtype, device=z.device).expand(len(z), 2)
        return {"resolution": resolution, "aspect_ratio": resolution[:, :1] / resolution[:, 1:]}

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str], device: torch.device) -> Condition:
        """{"text", "mask"} of prompts."""
        pipeline = self.encoders_on(device)
        warn_of_cuts(pipeline.tokenizer, prompts, tokens_of(pipeline))
        with quiet():  # it would tell of the cuts again
            text, mask, _, _ = pipeline.encode_prompt(prompts, False, device=device, clean_caption=True)
        return {"text": text, "mask": mask}

    def example(self, network: nn.Module, info: Info, n: int) -> Condition:
        """Random text (n, tokens, features) of fewer and fewer words, always the same."""
        config, tokens = cast(Any, network).config, tokens_of(self.pipeline_class())
        features = config["caption_channels"] or config["cross_attention_dim"]
        text = torch.randn(n, tokens, features, generator=torch.Generator(device="cpu").manual_seed(0), device="cpu")
        words = tokens - torch.arange(n, device="cpu") % tokens
        return {"text": text, "mask": (torch.arange(tokens, device="cpu")[None] < words[:, None]).long()}

    def stock_arguments(self, condition: Condition, pipeline: Any) -> dict[str, Any]:
        """The pipeline's embeddings and their mask; sizes that it does not know are taken as they are."""
        assert isinstance(condition, dict)
        return {
            "prompt_embeds": condition["text"], "prompt_attention_mask": condition["mask"], "use_resolution_binning": False,
        }  # fmt: skip
