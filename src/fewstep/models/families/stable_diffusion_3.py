"""Stable Diffusion 3: text through two CLIP encoders and maybe T5, a flow on latents of a VAE; w is added to the time embedding.

The stock pipeline's own grid wastes its last step: with a shift of 3 and N = 4 it visits 1, .8577, .6022, .0089, where ours is
1, .9, .75, .5. A scheduler with another shift and a `shift_terminal` visits ours, for one N: a student's folder has that scheduler, so that
`num_inference_steps=N` alone is right. A folder for any number of steps is run with `sigmas=linspace(1, 1/N, N)`.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from fewstep.method.conditioning import Condition
from fewstep.method.parameterization import FLOW, Prediction
from fewstep.method.process import Process, RectifiedFlow, process_of, time_grid
from fewstep.models.families.added_embedding import AddedEmbedding, check_fit, given, tokens_of
from fewstep.models.families.schedulers import load_scheduler, scheduler_of
from fewstep.models.families.stable_diffusion import TOKENS, warn_of_cuts
from fewstep.models.families.stock import config_of, has_part, network_config, quiet
from fewstep.models.metadata import Info

EXACT = 1e-5  # largest difference of a stock scheduler's sigmas from ours that counts as none


class StableDiffusion3(AddedEmbedding):
    """A condition is {"text": hidden states (b, tokens, features), "pooled": (b, features)}."""

    name = "stable_diffusion_3"
    pipelines: tuple[str, ...] = (
        "StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline",
    )  # fmt: skip
    encoders: tuple[str, ...] = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    large_encoder: tuple[str, ...] = ("text_encoder_3", "tokenizer_3")  # T5, which may be left out

    def network_class(self) -> Any:
        """The stock class of the network."""
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

        return SD3Transformer2DModel

    def pipeline_class(self) -> Any:
        """The stock class that students are saved as; its imports have remarks to make."""
        with quiet():
            return super().pipeline_class()

    def opens(self, pipeline: str, config: dict[str, Any]) -> bool:
        """A network that takes nothing but latents."""
        return pipeline in self.pipelines and config.get("in_channels") == config.get("out_channels")

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for text encoders or a VAE of another model."""
        pooled = sum(config_of(folder, part).get("projection_dim", 0) for part in ("text_encoder", "text_encoder_2"))
        check_fit(folder, "the text encoders' projections", pooled, config["pooled_projection_dim"])
        if has_part(folder, "text_encoder_3"):
            features = config_of(folder, "text_encoder_3").get("d_model")
            check_fit(folder, "the third text encoder's features", features, config["joint_attention_dim"])
        check_fit(folder, "the VAE's channels", config_of(folder, "vae").get("latent_channels"), config["in_channels"])

    def tokens(self, folder: Path, config: dict[str, Any]) -> int | None:
        """How many tokens the network makes of an image."""
        return (config["sample_size"] // config["patch_size"]) ** 2

    def time_embedding_outputs(self, network: Any) -> list[nn.Linear]:
        """The end of the time embedder."""
        return [network.time_text_embed.timestep_embedder.linear_2]

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at `time` (b,), 1000 sigma."""
        text = {"encoder_hidden_states": condition["text"], "pooled_projections": condition["pooled"]}
        return network(z, timestep=time, return_dict=False, **text, **given(w))[0]

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str], device: torch.device) -> Condition:
        """{"text", "pooled"} of prompts; one is cut where it is too long for the encoder that reads most."""
        large = self.large_encoder if self.folder and has_part(self.folder, "text_encoder_3") else ()
        pipeline = self.encoders_on(device, *large)
        if large:
            warn_of_cuts(pipeline.tokenizer_3, prompts, tokens_of(pipeline))
        else:
            assert self.folder is not None
            warn_of_cuts(pipeline.tokenizer, prompts)
            features = network_config(self.folder, self)["joint_attention_dim"]  # of the zeros in the place of T5's text
            pipeline.transformer = SimpleNamespace(config=SimpleNamespace(joint_attention_dim=features))
        with quiet():  # it would tell of the cuts again
            text, _, pooled, _ = pipeline.encode_prompt(prompts, None, None, device, 1, False)
        return {"text": text, "pooled": pooled}

    def example(self, network: nn.Module, info: Info, n: int) -> Condition:
        """Random text (n, tokens, features) and its pooled form, always the same."""
        config, generator = cast(Any, network).config, torch.Generator(device="cpu").manual_seed(0)
        clip = config_of(self.folder, "text_encoder").get("max_position_embeddings", TOKENS) if self.folder else TOKENS
        tokens = clip + tokens_of(self.pipeline_class())
        text = torch.randn(n, tokens, config["joint_attention_dim"], generator=generator, device="cpu")
        return {"text": text, "pooled": torch.randn(n, config["pooled_projection_dim"], generator=generator, device="cpu")}

    def stock_arguments(self, condition: Condition, pipeline: Any) -> dict[str, Any]:
        """The pipeline's embeddings."""
        assert isinstance(condition, dict)
        return {"prompt_embeds": condition["text"], "pooled_prompt_embeds": condition["pooled"]}

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write the whole pipeline, its scheduler that of the steps which the student in this folder is for."""
        super().write(network, process, prediction, folder)
        steps = _about(folder)["steps"]
        if steps is not None and isinstance(process, RectifiedFlow):
            (scheduler_for(process, steps) or scheduler_of(process, prediction)).save_pretrained(folder / "scheduler")

    def stock_settings(self, folder: Path, pipeline: Any, steps: int) -> dict[str, Any]:
        """The number of steps alone where the folder's scheduler is for so many, else our sigmas by the pipeline's argument for them."""
        process = process_of(_about(folder)["process"])
        assert isinstance(process, RectifiedFlow)
        if same_grid(load_scheduler(folder), process, steps):
            return super().stock_settings(folder, pipeline, steps)
        pipeline.scheduler = scheduler_of(process, FLOW)
        return super().stock_settings(folder, pipeline, steps) | {"sigmas": time_grid(steps)[:-1].tolist()}


def scheduler_for(process: RectifiedFlow, steps: int) -> FlowMatchEulerDiscreteScheduler | None:
    """The stock scheduler that visits t = 1, 1 - 1/N, ..., 1/N by `num_inference_steps=N` alone; None where there is none.

    The stock grid is u = linspace(1, sigma_min, N), then s'u / (1 + (s' - 1) u), then 1 - sigma stretched so that the last is
    `shift_terminal`. All of these fix sigma = 1 and map straight lines of t projectively, as our shift s does: they agree for the s' that
    solves (s' - 1)/s' (1 - sigma_min)/(N - 1) = (s - 1)/(s N), where sigma_min = s'/(T + s' - 1).
    """
    shift, known = process.shift, process.train_timesteps
    if steps == 1:
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=known, shift=shift)  # sigma = 1 alone, and nothing to stretch
    ratio = (shift - 1) * (steps - 1) / (shift * steps)
    if shift == 1:
        other = 1.0
    else:  # ratio s'^2 - (T - 1)(1 - ratio) s' + (T - 1) = 0
        middle = (known - 1) * (1 - ratio)
        root = middle**2 - 4 * ratio * (known - 1)
        if root < 0:
            return None
        other = 2 * (known - 1) / (middle + math.sqrt(root))
    made = FlowMatchEulerDiscreteScheduler(num_train_timesteps=known, shift=other, shift_terminal=shift / (steps + shift - 1))
    return made if same_grid(made, process, steps) else None


def same_grid(scheduler: Any, process: RectifiedFlow, steps: int) -> bool:
    """Whether a stock scheduler, asked for N steps, visits t = 1, 1 - 1/N, ..., 1/N."""
    scheduler.set_timesteps(steps)
    times = time_grid(steps)
    return bool((scheduler.sigmas.double() - process.at(times, times)[1]).abs().max() < EXACT)


def _about(folder: Path) -> dict[str, Any]:
    # fewstep.json is written before the pipeline
    return json.loads((folder / "fewstep.json").read_text(encoding="utf-8"))
