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
from fewstep.models.families.added_embedding import check_fit
from fewstep.models.families.packed import TEXT_TOKENS, Packed, pack, random_text, unpack
from fewstep.models.families.stable_diffusion import warn_of_cuts
from fewstep.models.families.stock import config_of, quiet
from fewstep.models.metadata import Info

ENTRANCE, EMBEDDER = "time_text_embed.guidance_embedder.", "time_text_embed.timestep_embedder."
BIAS = "time_text_embed.timestep_embedder.linear_2.bias"  # w is added to the same sum


class Flux(Packed):
    """A condition is {"text" (b, tokens, features), "pooled" (b, features)}. The network takes the guidance scale itself, not w."""

    name = "flux"
    pipelines: tuple[str, ...] = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
    encoders: tuple[str, ...] = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")

    def network_class(self) -> Any:
        """The stock transformer."""
        return FluxTransformer2DModel

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, or a text encoder or VAE of another model."""
        if config.get("guidance_embeds"):
            raise InputError(
                f"{folder} is guidance-distilled already (guidance_embeds is set, as in FLUX.1-dev): it has no unguided branch to learn from; "
                "name a Flux that is guided by true_cfg_scale"
            )
        one, two, vae = (config_of(folder, part) for part in ("text_encoder", "text_encoder_2", "vae"))
        check_fit(folder, "the first text encoder's features", one.get("hidden_size"), config["pooled_projection_dim"])
        check_fit(folder, "the second text encoder's features", two.get("d_model"), config["joint_attention_dim"])
        check_fit(folder, "the VAE's channels in patches of 2x2", 4 * vae["latent_channels"], config["in_channels"])

    def time_embedding_outputs(self, network: Any) -> list[nn.Linear]:
        """The last layer of its time embedder."""
        return [network.time_text_embed.timestep_embedder.linear_2]

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,); times and scales are cast as the stock pipeline and network do."""
        text, (h, w_tokens) = condition["text"], (side // 2 for side in z.shape[2:])
        rows, columns = torch.meshgrid(torch.arange(h, device=z.device), torch.arange(w_tokens, device=z.device), indexing="ij")
        output = network(
            hidden_states=pack(z),
            encoder_hidden_states=text,
            pooled_projections=condition["pooled"],
            timestep=time.to(z.dtype) / 1000,
            guidance=None if w is None else scale_of(w).float(),
            img_ids=torch.stack([torch.zeros_like(rows), rows, columns], 2).flatten(0, 1).to(z.dtype),
            txt_ids=torch.zeros(text.shape[1], 3, device=z.device, dtype=z.dtype),
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
        return made_of(network, weights | self.new_weights(weights), guidance_embeds=True)

    def new_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a student has besides its teacher's weights, by name: the guidance embedder as it begins."""
        embedder = {name: value for name, value in weights.items() if name.startswith(EMBEDDER)}
        return {
            ENTRANCE + name.removeprefix(EMBEDDER): torch.zeros_like(value) if ".linear_2." in name else value
            for name, value in embedder.items()
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
        kept = {name: value for name, value in weights.items() if not name.startswith(ENTRANCE)}
        return made_of(network, kept, guidance_embeds=False)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str], device: torch.device) -> Condition:
        """{"text", "pooled"} of prompts."""
        pipeline = self.encoders_on(device)
        warn_of_cuts(pipeline.tokenizer_2, prompts, TEXT_TOKENS)
        with quiet():  # it would tell of the cuts again
            text, pooled, _ = pipeline.encode_prompt(prompts, None, device, max_sequence_length=TEXT_TOKENS)
        return {"text": text, "pooled": pooled}

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Random text."""
        config = network.config
        text = random_text(n, TEXT_TOKENS, config["joint_attention_dim"])
        return {"text": text, "pooled": random_text(n, config["pooled_projection_dim"], seed=1)}

    def stock_arguments(self, condition: Condition, pipeline: Any) -> dict[str, Any]:
        """Embeddings."""
        assert isinstance(condition, dict)
        return {"prompt_embeds": condition["text"], "pooled_prompt_embeds": condition["pooled"]}


def made_of(network: FluxTransformer2DModel, weights: dict[str, Tensor], **config: Any) -> FluxTransformer2DModel:
    """A copy of the network with other weights and another config, in evaluation mode."""
    with quiet():  # of a config with the size of latents
        made = FluxTransformer2DModel.from_config(network.config, **config)
    assert isinstance(made, FluxTransformer2DModel)
    made.load_state_dict(weights)
    nn.Module.to(made.eval(), network.device, network.dtype)
    return made
