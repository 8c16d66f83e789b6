"""Wan: text to video, a flow over latents (b, c, frames, h, w); w is added to the time embedding."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.method.parameterization import Prediction
from fewstep.method.process import Process, RectifiedFlow, process_of
from fewstep.models.families.added_embedding import AddedEmbedding, check_fit, given
from fewstep.models.families.causal_vae import decoded_video, encoded_video
from fewstep.models.families.packed import TEXT_TOKENS, random_text, sides_of
from fewstep.models.families.schedulers import scheduler_of
from fewstep.models.families.stable_diffusion import warn_of_cuts
from fewstep.models.families.stable_diffusion_3 import same_grid, scheduler_for
from fewstep.models.families.stock import config_of, has_part, network_config, quiet
from fewstep.models.metadata import Info

VIDEO = (81, 480, 832)  # frames, height and width, where the folder does not say: the stock pipeline's default


class Wan(AddedEmbedding):
    """A condition is {"text" (b, tokens, features)}."""

    name = "wan"
    pipelines: tuple[str, ...] = ("WanPipeline",)
    low_cpu_mem_usage = True

    def network_class(self) -> Any:
        """The stock transformer."""
        from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

        return WanTransformer3DModel

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for two networks, one that takes a picture, or a text encoder or VAE of another model."""
        if has_part(folder, "transformer_2"):
            raise InputError(
                f"{folder} has a second network for the late times (Wan 2.2 A14B), which is not known here; name one with one"
            )
        if config.get("image_dim") or config["in_channels"] != config["out_channels"]:
            raise InputError(f"{folder} begins from a picture; name a Wan of text to video")
        check_fit(folder, "the text encoder's features", config_of(folder, "text_encoder").get("d_model"), config["text_dim"])
        check_fit(folder, "the VAE's channels", config_of(folder, "vae")["z_dim"], config["in_channels"])

    def describe(self, folder: Path) -> Info:
        """As `Stock` does, with the shape of latents.

        Raises:
            InputError: as `Stock` does, or latents that make no patches.
        """
        info = super().describe(folder)
        return info.model_copy(update={"latent_shape": (info.channels, *self.sides(folder)), "image_channels": 3})

    def sides(self, folder: Path) -> tuple[int, ...]:
        """(frames, h, w) of the latents."""
        config, (space, time) = network_config(folder, self), self.compression(folder)
        frames, height, width = VIDEO
        return sides_of(folder, config, ((frames - 1) // time + 1, height // space, width // space), tuple(config["patch_size"]))

    def compression(self, folder: Path) -> tuple[int, int]:
        """How many pixels of a side, and how many frames, a latent stands for."""
        vae = config_of(folder, "vae")
        return vae.get("scale_factor_spatial", 8), vae.get("scale_factor_temporal", 4)

    def shape(self, folder: Path, config: dict[str, Any]) -> tuple[int, int, int]:
        """(channels, width) of latents, and the width of pictures."""
        width = self.sides(folder)[-1]
        return int(config["in_channels"]), width, width * self.compression(folder)[0]

    def time_embedding_outputs(self, network: Any) -> list[nn.Linear]:
        """The last layer of its time embedder."""
        return [network.condition_embedder.time_embedder.linear_2]

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: dict[str, Tensor], w: Tensor | None) -> Tensor:
        """The output (b, c, frames, h, w) at timesteps `time` (b,)."""
        return network(z, time, condition["text"], return_dict=False, **given(w))[0]

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write the whole pipeline; it gives its scheduler no sigmas, so that is one for the steps which the student in this folder is for."""
        super().write(network, process, prediction, folder)
        steps = json.loads((folder / "fewstep.json").read_text(encoding="utf-8"))["steps"]
        if steps is not None:
            assert isinstance(process, RectifiedFlow)
            (scheduler_for(process, steps) or scheduler_of(process, prediction)).save_pretrained(folder / "scheduler")

    def stock_settings(self, folder: Path, pipeline: Any, steps: int) -> dict[str, Any]:
        """The number of steps; where the folder is for any number, with the scheduler for so many."""
        process = process_of(json.loads((folder / "fewstep.json").read_text(encoding="utf-8"))["process"])
        assert isinstance(process, RectifiedFlow)
        if not same_grid(pipeline.scheduler, process, steps):
            pipeline.scheduler = scheduler_for(process, steps) or pipeline.scheduler
        return super().stock_settings(folder, pipeline, steps)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str], device: torch.device) -> Condition:
        """{"text"} of prompts."""
        pipeline = self.encoders_on(device)
        warn_of_cuts(pipeline.tokenizer, prompts, TEXT_TOKENS)
        with quiet():
            return {"text": pipeline.encode_prompt(prompts, None, False, device=device, max_sequence_length=TEXT_TOKENS)[0]}

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Random text."""
        return {"text": random_text(n, TEXT_TOKENS, network.config["text_dim"])}

    def stock_arguments(self, condition: Condition, pipeline: Any) -> dict[str, Any]:
        """Embeddings."""
        assert isinstance(condition, dict)
        return {"prompt_embeds": condition["text"]}

    def to_latents(self, x: Tensor) -> Tensor:
        """Latents of videos x (n, 3, frames, h, w) in [-1, 1].

        Raises:
            InputError: pictures.
        """
        if x.ndim != 5:
            raise InputError(
                "this model makes videos (n, 3, frames, height, width), not pictures; give data whose batches hold latents of videos"
            )
        return encoded_video(self.parts("vae").vae.to(x.device), x)

    def to_images(self, z: Tensor) -> Tensor:
        """Videos (n, 3, frames, h, w) of latents."""
        return decoded_video(self.parts("vae").vae.to(z.device), z)
