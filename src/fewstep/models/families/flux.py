"""Flux: w enters as the stock `guidance_embeds` does, so that a student runs where FLUX.1-dev does; text through CLIP and T5."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.method.guidance import scale_of
from fewstep.method.process import to_float64
from fewstep.models.families.flow_latents import TEXT_TOKENS, Packed, pack, unpack
from fewstep.models.families.pipeline_folder import check_fit, check_guided, config_of, quiet
from fewstep.models.families.prompts import Prompts, random_text
from fewstep.models.metadata import Info

GUIDANCE, TIME = "time_text_embed.guidance_embedder.", "time_text_embed.timestep_embedder."
BIAS = f"{TIME}linear_2.bias"  # w is added to the same sum


class Flux(Packed, Prompts):
    """A condition is {"text" (b, tokens, features), "pooled" (b, features)}. The network takes the guidance scale itself, not w."""

    name, network_type, time_embedding = "flux", "FluxTransformer2DModel", f"{TIME}linear_2"
    pipelines = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
    stock_takes_w = True
    encoders = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    encoding = ("text", "pooled", "")
    encode_arguments: dict[str, Any] = {"prompt_2": None, "max_sequence_length": TEXT_TOKENS}  # noqa: RUF012
    longest, text_tokens = "tokenizer_2", TEXT_TOKENS
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text", "pooled_prompt_embeds": "pooled"}  # noqa: RUF012

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, or a text encoder or VAE of another model."""
        check_guided(folder, config, hint="a Flux that is guided by true_cfg_scale", force=self.force)
        one, two, vae = (config_of(folder, part) for part in ("text_encoder", "text_encoder_2", "vae"))
        check_fit(folder, "the first text encoder's features", one.get("hidden_size"), config["pooled_projection_dim"])
        check_fit(folder, "the second text encoder's features", two.get("d_model"), config["joint_attention_dim"])
        check_fit(folder, "the VAE's channels in patches of 2x2", 4 * vae["latent_channels"], config["in_channels"])

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,); times and scales are cast as the stock pipeline and network do."""
        text = condition["text"]
        output = network(
            hidden_states=pack(z),
            encoder_hidden_states=text,
            pooled_projections=condition["pooled"],
            timestep=time.to(z.dtype) / 1000,
            guidance=None if w is None else scale_of(w).float(),
            **position_ids(z, text.shape[1]),
            return_dict=False,
        )[0]
        return unpack(output, z)

    def student_of(self, network: nn.Module) -> nn.Module:
        """The same network with a guidance embedder whose last layer is zero, the first as that of the time.

        Raises:
            InputError: the network has one already: it is a student.
        """
        assert isinstance(network, FluxTransformer2DModel)
        if network.config["guidance_embeds"]:
            raise InputError(
                "this model takes a guidance scale already (guidance_embeds is set): it is a student; name its teacher"
            )
        weights = dict(network.state_dict())
        return rebuilt(network, weights | self.new_weights(weights), guidance_embeds=True)

    def new_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The guidance embedder as it begins."""
        embedder = {name.removeprefix(TIME): value for name, value in weights.items() if name.startswith(TIME)}
        return {
            GUIDANCE + name: value if name.startswith("linear_1.") else torch.zeros_like(value) for name, value in embedder.items()
        }

    @torch.no_grad()
    def bake(self, network: nn.Module, guidance_scale: float) -> nn.Module:
        """A plain network of one scale: its embedding is added to the time's, so it goes into that one's bias, exactly."""
        assert isinstance(network, FluxTransformer2DModel)
        embed, weights = network.time_text_embed, dict(network.state_dict())
        bias = weights[BIAS]
        scale = torch.tensor([float(guidance_scale)], device=bias.device).to(bias.dtype) * 1000
        added = embed.get_submodule("guidance_embedder")(embed.time_proj(scale).to(bias.dtype))[0]
        weights[BIAS] = (to_float64(bias) + to_float64(added)).to(bias.dtype)
        kept = {name: value for name, value in weights.items() if not name.startswith(GUIDANCE)}
        return rebuilt(network, kept, guidance_embeds=False)

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Random text."""
        text = random_text(n, TEXT_TOKENS, network.config["joint_attention_dim"])
        return {"text": text, "pooled": random_text(n, network.config["pooled_projection_dim"], seed=1)}


def position_ids(z: Tensor, tokens: int) -> dict[str, Tensor]:
    """The places of patches of latents z (b, c, h, w) and of so many tokens of text, as the network's arguments."""
    h, w = (torch.arange(side // 2, device=z.device) for side in z.shape[2:])
    y, x = torch.meshgrid(h, w, indexing="ij")
    places = torch.stack([torch.zeros_like(y), y, x], 2).flatten(0, 1)
    return {"img_ids": places.to(z.dtype), "txt_ids": torch.zeros(tokens, 3, device=z.device, dtype=z.dtype)}


def rebuilt(network: FluxTransformer2DModel, weights: dict[str, Tensor], **config: Any) -> FluxTransformer2DModel:
    """A copy of the network with other weights and another config, in evaluation mode."""
    with quiet():  # of a config with the size of latents
        made = FluxTransformer2DModel.from_config(network.config, **config)
    assert isinstance(made, FluxTransformer2DModel)
    made.load_state_dict(weights)
    nn.Module.to(made.eval(), network.device, network.dtype)
    return made
