"""Qwen-Image: a flow that its stock pipeline guides with two evaluations (`true_cfg_scale`); w is added to the time embedding."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.families.added_embedding import AddedEmbedding, given
from fewstep.models.families.flow_latents import TEXT_TOKENS, Packed, pack, unpack
from fewstep.models.families.pipeline_folder import check_fit, config_of
from fewstep.models.families.prompts import Prompts, random_text
from fewstep.models.families.vae import decoded_video, encoded_video
from fewstep.models.metadata import Info


class QwenImage(Packed, AddedEmbedding, Prompts):
    """A condition is {"text" (b, tokens, features), "shown" (b, tokens), 1 where a token is one of the prompt's}."""

    name, network_type = "qwen_image", "QwenImageTransformer2DModel"
    pipelines = ("QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline")
    time_embedding = "time_text_embed.timestep_embedder.linear_2"
    encoding = ("text", "shown")
    encode_arguments: dict[str, Any] = {"max_sequence_length": TEXT_TOKENS}  # noqa: RUF012
    text_tokens, empty_prompt = TEXT_TOKENS, " "  # as its authors guide it
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text", "prompt_embeds_mask": "shown"}  # noqa: RUF012

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, one that edits or makes layers, or a text encoder or VAE of another model."""
        super().check(folder, config)
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

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,)."""
        text = {"encoder_hidden_states": condition["text"], "encoder_hidden_states_mask": condition["shown"]}
        shapes = [[(1, z.shape[2] // 2, z.shape[3] // 2)]] * len(z)
        time = time.to(z.dtype) / 1000
        return unpack(network(pack(z), timestep=time, img_shapes=shapes, return_dict=False, **text, **given(w))[0], z)

    def encode_prompts(self, prompts: list[str], device: torch.device) -> Condition:
        """{"text", "shown"} of prompts, filled up to one length."""
        made = super().encode_prompts(prompts, device)
        assert isinstance(made, dict)
        text, shown = made["text"], made["shown"]
        shown = torch.ones(text.shape[:2], dtype=torch.long, device=device) if shown is None else shown  # all are
        missing = TEXT_TOKENS - text.shape[1]
        return {"text": pad(text, (0, 0, 0, missing)), "shown": pad(shown, (0, missing))}

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Random text of different lengths."""
        lengths = TEXT_TOKENS - 3 * torch.arange(n, device="cpu")[:, None] % TEXT_TOKENS
        shown = torch.arange(TEXT_TOKENS, device="cpu")[None] < lengths
        return {"text": random_text(n, TEXT_TOKENS, network.config["joint_attention_dim"]), "shown": shown.long()}

    def to_latents(self, x: Tensor) -> Tensor:
        """Latents of pictures x (n, 3, h, w) in [-1, 1], as videos of one frame."""
        return encoded_video(self.autoencoder_on(x.device), x[:, :, None])[:, :, 0]

    def to_images(self, z: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) of latents."""
        return decoded_video(self.autoencoder_on(z.device), z[:, :, None])[:, :, 0]
