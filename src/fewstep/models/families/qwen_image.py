"""Qwen-Image: a flow that its stock pipeline guides with two evaluations (`true_cfg_scale`); w is added to the time embedding."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.families.added_embedding import AddedEmbedding, check_fit, given
from fewstep.models.families.causal_vae import decoded_video, encoded_video
from fewstep.models.families.packed import TEXT_TOKENS, Packed, pack, random_text, unpack
from fewstep.models.families.stable_diffusion import warn_of_cuts
from fewstep.models.families.stock import config_of, quiet
from fewstep.models.metadata import Info


class QwenImage(Packed, AddedEmbedding):
    """A condition is {"text" (b, tokens, features), "shown" (b, tokens), 1 where a token is one of the prompt's}."""

    name = "qwen_image"
    pipelines: tuple[str, ...] = ("QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline")
    nothing = " "  # as its authors guide it

    def network_class(self) -> Any:
        """The stock transformer."""
        from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel

        return QwenImageTransformer2DModel

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, one that edits or makes layers, or a text encoder or VAE of another model."""
        if config.get("guidance_embeds"):
            raise InputError(
                f"{folder} is guidance-distilled already (guidance_embeds is set): it has no unguided branch to learn from; name its teacher"
            )
        for key in ("zero_cond_t", "use_additional_t_cond", "use_layer3d_rope"):
            if config.get(key):
                raise InputError(f"{folder} is a Qwen-Image that edits or makes layers ({key} is set); name one of text to image")
        text = config_of(folder, "text_encoder")
        features = (text.get("text_config") or text).get("hidden_size")
        check_fit(folder, "the text encoder's features", features, config["joint_attention_dim"])
        check_fit(folder, "the VAE's channels in patches of 2x2", 4 * config_of(folder, "vae")["z_dim"], config["in_channels"])

    def pixels_of_latent(self, folder: Path) -> int:
        """How many pixels a latent stands for, along a side."""
        return 2 ** len(config_of(folder, "vae")["temperal_downsample"])

    def time_embedding_outputs(self, network: Any) -> list[nn.Linear]:
        """The last layer of its time embedder."""
        return [network.time_text_embed.timestep_embedder.linear_2]

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,)."""
        h, width = (side // 2 for side in z.shape[2:])
        output = network(
            hidden_states=pack(z),
            encoder_hidden_states=condition["text"],
            encoder_hidden_states_mask=condition["shown"],
            timestep=time.to(z.dtype) / 1000,
            img_shapes=[[(1, h, width)]] * len(z),
            return_dict=False,
            **given(w),
        )[0]
        return unpack(output, z)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str], device: torch.device) -> Condition:
        """{"text", "shown"} of prompts, filled up to one length."""
        pipeline = self.encoders_on(device)
        warn_of_cuts(pipeline.tokenizer, prompts, TEXT_TOKENS)
        with quiet():
            text, shown = pipeline.encode_prompt(prompts, device, max_sequence_length=TEXT_TOKENS)
        shown = torch.ones(text.shape[:2], dtype=torch.long, device=device) if shown is None else shown
        missing = TEXT_TOKENS - text.shape[1]
        return {"text": pad(text, (0, 0, 0, missing)), "shown": pad(shown, (0, missing))}

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Random text of different lengths."""
        lengths = TEXT_TOKENS - 3 * torch.arange(n, device="cpu")[:, None] % TEXT_TOKENS
        shown = torch.arange(TEXT_TOKENS, device="cpu")[None] < lengths
        return {"text": random_text(n, TEXT_TOKENS, network.config["joint_attention_dim"]), "shown": shown.long()}

    def stock_arguments(self, condition: Condition, pipeline: Any) -> dict[str, Any]:
        """Embeddings and which of them count."""
        assert isinstance(condition, dict)
        return {"prompt_embeds": condition["text"], "prompt_embeds_mask": condition["shown"]}

    def to_latents(self, x: Tensor) -> Tensor:
        """Latents of pictures x (n, 3, h, w) in [-1, 1], as videos of one frame."""
        return encoded_video(self.parts("vae").vae.to(x.device), x[:, :, None])[:, :, 0]

    def to_images(self, z: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) of latents."""
        return decoded_video(self.parts("vae").vae.to(z.device), z[:, :, None])[:, :, 0]
