"""Stable Diffusion 3: text through two CLIP encoders and maybe T5, a flow on latents of a VAE; w is added to the time embedding.

The folder of a student of N steps has a scheduler for them (`flow_grid`). A folder for any number of steps is run with
`sigmas=linspace(1, 1/N, N)`.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.method.conditioning import Condition
from fewstep.method.parameterization import FLOW
from fewstep.method.process import RectifiedFlow, process_of, time_grid
from fewstep.models.families import AnySize
from fewstep.models.families.added_embedding import AddedEmbedding, given
from fewstep.models.families.flow_grid import FlowGrid, same_grid
from fewstep.models.families.pipeline_folder import check_fit, config_of, has_part
from fewstep.models.families.prompts import Prompts
from fewstep.models.families.schedulers import scheduler_of
from fewstep.models.metadata import Info, read_info

T5_TOKENS = 256  # of a prompt: the stock pipeline's default


class StableDiffusion3(AddedEmbedding, FlowGrid, Prompts):
    """A condition is {"text": hidden states (b, tokens, features), "pooled": (b, features)}."""

    name, network_type = "stable_diffusion_3", "SD3Transformer2DModel"
    pipelines = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline")
    time_embedding = "time_text_embed.timestep_embedder.linear_2"
    encoders: tuple[str, ...] = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    encoding = ("text", "", "pooled", "")
    encode_arguments: dict[str, Any] = {  # noqa: RUF012
        "prompt_2": None, "prompt_3": None, "do_classifier_free_guidance": False, "max_sequence_length": T5_TOKENS,
    }  # fmt: skip
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text", "pooled_prompt_embeds": "pooled"}  # noqa: RUF012

    def __init__(self, folder: Path | None = None, variant: str | None = None) -> None:
        super().__init__(folder, variant)
        if has_part(folder, "text_encoder_3"):  # T5, which may be left out; it reads most of a prompt
            self.encoders = (*self.encoders, "text_encoder_3", "tokenizer_3")
            self.longest, self.text_tokens = "tokenizer_3", T5_TOKENS

    def opens(self, pipeline: str, config: dict[str, Any]) -> bool:
        """A network that takes nothing but latents."""
        return pipeline in self.pipelines and config.get("in_channels") == config.get("out_channels")

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for text encoders or a VAE of another model."""
        super().check(folder, config)
        pooled = sum(config_of(folder, part).get("projection_dim", 0) for part in ("text_encoder", "text_encoder_2"))
        check_fit(folder, "the text encoders' projections", pooled, config["pooled_projection_dim"])
        if has_part(folder, "text_encoder_3"):
            features = config_of(folder, "text_encoder_3").get("d_model")
            check_fit(folder, "the third text encoder's features", features, config["joint_attention_dim"])
        check_fit(folder, "the VAE's channels", config_of(folder, "vae").get("latent_channels"), config["in_channels"])

    def tokens(self, folder: Path, config: dict[str, Any]) -> int:
        """How many tokens the network makes of an image."""
        return (config["sample_size"] // config["patch_size"]) ** 2

    def any_size(self) -> AnySize:
        """Whole patches, as far as their places are known."""
        config = self.network_config()
        return AnySize(config["patch_size"], config["patch_size"] * config["pos_embed_max_size"])

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at `time` (b,), 1000 sigma."""
        text = {"encoder_hidden_states": condition["text"], "pooled_projections": condition["pooled"]}
        return network(z, timestep=time, return_dict=False, **text, **given(w))[0]

    def encoders_on(self, device: torch.device, *more: str) -> Any:
        """The stock pipeline with tokenizers and text encoders alone, the encoders on a device."""
        pipeline = super().encoders_on(device, *more)
        if "text_encoder_3" not in self.encoders:  # it asks the network for the features of the zeros in the place of T5's text
            features = self.network_config()["joint_attention_dim"]
            pipeline.transformer = SimpleNamespace(config=SimpleNamespace(joint_attention_dim=features))
        return pipeline

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Random text (n, tokens, features) and its pooled form, always the same."""
        config, generator = network.config, torch.Generator(device="cpu").manual_seed(0)
        text = torch.randn(n, self.clip_tokens() + T5_TOKENS, config["joint_attention_dim"], generator=generator, device="cpu")
        return {"text": text, "pooled": torch.randn(n, config["pooled_projection_dim"], generator=generator, device="cpu")}

    def stock_settings(self, folder: Path, pipeline: Any, steps: int) -> dict[str, Any]:
        """The number of steps alone where the folder's scheduler is for so many, else our sigmas by the pipeline's argument for them."""
        process = process_of(read_info(folder).process)
        assert isinstance(process, RectifiedFlow)
        if same_grid(pipeline.scheduler, process, steps):
            return {"num_inference_steps": steps}
        pipeline.scheduler = scheduler_of(process, FLOW)
        return {"num_inference_steps": steps, "sigmas": time_grid(steps)[:-1].tolist()}
