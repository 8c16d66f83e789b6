"""Stable Audio: text to sound, v of the cosine process over latents (b, c, length); w is added to the time embedding.

The network takes t = 2/pi atan(sigma), from 0 to 1, and no stock scheduler gives it such times in a student's few steps. Opened, its time
embedder is written for whole numbers, exactly: its frequencies are divided by T, and the layer behind them is turned by 1/T. So
teacher and student take the timesteps 0 to T - 1 of a `DDIMScheduler`, as those of Stable Diffusion do, and a student's folder has them so.
"""

import math
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.method.parameterization import V
from fewstep.method.process import DiscreteBetas, to_float64
from fewstep.models.denoiser import Null
from fewstep.models.families.pipeline_folder import check_fit, config_of
from fewstep.models.families.prompts import random_text
from fewstep.models.families.schedulers import scheduler_of
from fewstep.models.families.text_transformer import TextTransformer
from fewstep.models.metadata import Info

# a power of two, by which frequencies are divided exactly; tokens of a prompt; the published scheduler
T, TOKENS, SCHEDULER = 1024, 128, "CosineDPMSolverMultistepScheduler"
SHORTEST = 1.0  # seconds of the sounds that are drawn where no data say how long they are


class StableAudio(TextTransformer):
    """A condition is {"text" (b, tokens, features), "mask" (b, tokens), "seconds" (b, 2, features): where the sound begins and ends}."""

    name, network_type, pipelines = "stable_audio", "StableAudioDiTModel", ("StableAudioPipeline",)
    time_embedding, text_width, text_tokens = "timestep_proj.2", "cross_attention_input_dim", TOKENS
    encoders = ("text_encoder", "tokenizer", "projection_model")
    lora_files = False  # its stock pipeline loads none

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for another scheduler than the published one, or parts of another model."""
        known, projection = config_of(folder, "scheduler"), config_of(folder, "projection_model")
        given = known.get("_class_name"), known.get("prediction_type", "v_prediction"), known.get("sigma_data", 1.0)
        if given != (SCHEDULER, "v_prediction", 1.0):
            raise InputError(
                f"{folder}: the scheduler is {given[0]} ({given[1]}, sigma_data {given[2]}), of other times than a Stable Audio is trained for; "
                f"put its own {SCHEDULER} (v_prediction, sigma_data 1) into the folder"
            )
        super().check(folder, config)
        features = super().text_features(folder)
        check_fit(folder, "the text encoder's features (text_encoder_dim)", features, projection["text_encoder_dim"])
        check_fit(folder, "the features of both seconds", 2 * projection["conditioning_dim"], config["global_states_input_dim"])

    def describe(self, folder: Path) -> Info:
        """As `DiffusersFamily` does, of a sound: its channels, its samples, and how many of these are a second."""
        vae = config_of(folder, "vae")
        known = {"image_channels": vae.get("audio_channels", 2), "sampling_rate": vae.get("sampling_rate", 44100)}
        return super().describe(folder).model_copy(update=known)

    def text_features(self, folder: Path) -> Any:
        """How many features of each token the projection gives."""
        return config_of(folder, "projection_model")["conditioning_dim"]

    def latent_channels(self, folder: Path) -> Any:
        """How many channels of what is denoised the autoencoder makes."""
        return config_of(folder, "vae")["decoder_input_channels"]

    def pixels_of_latent(self, folder: Path) -> int:
        """How many samples of sound a latent stands for."""
        return math.prod(config_of(folder, "vae")["downsampling_ratios"])

    def sides(self, folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
        """(length,) of the latents."""
        return (int(config["sample_size"]),)

    def scheduler_config(self, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        """The stock scheduler of the same process at whole-numbered times: noise alone at the last of them."""
        signal = torch.cos(math.pi / 2 * torch.arange(T + 1, dtype=torch.float64) / T) ** 2
        signal[-1] = 0.0
        stock = scheduler_of(DiscreteBetas(tuple((1 - signal[1:] / signal[:-1]).tolist())), V)
        return dict(stock.config) | {"_class_name": type(stock).__name__}

    def open_part(self, folder: Path, part: str, dtype: torch.dtype) -> Any:
        """The network in one part of a folder, in evaluation mode, which takes whole-numbered times."""
        network = super().open_part(folder, part, dtype)
        return network if config_of(folder, "scheduler")["_class_name"] != SCHEDULER else with_whole_times(network)

    def stand_ins(self) -> dict[str, Any]:
        """A network without layers: the stock pipeline asks it for the size of its heads."""
        features = self.known["attention_head_dim"]
        ones = {
            "num_attention_heads": 1,
            "num_key_value_attention_heads": 1,
            "cross_attention_dim": 1,
            "cross_attention_input_dim": 1,
        }
        ones |= {"in_channels": 1, "out_channels": 1, "global_states_input_dim": 1, "time_proj_dim": 2}
        return {self.component: self.network_class()(num_layers=0, attention_head_dim=features, **ones)}

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """Text and seconds in the cross-attention, where the condition for none is zero throughout; the seconds beside the time; places."""
        seconds, given = condition["seconds"], condition["mask"].any(1)[:, None, None]
        places = places_of(self.known["attention_head_dim"] // 2, z.shape[2] + 1)  # one token is the time's
        return {
            "hidden_states": z,
            "timestep": time,
            "encoder_hidden_states": torch.cat([condition["text"], seconds * given], 1),
            "global_hidden_states": seconds.flatten(1)[:, None],
            "rotary_embedding": tuple(part.to(z.device) for part in places),
        }

    def encode(self, prompts: list[str], device: torch.device, seconds: float | None = None, **extra: Any) -> Condition:
        """The condition of prompts for sounds of so many seconds; without them the longest.

        Raises:
            InputError: something is given that this family does not take.
        """
        text = super().encode(prompts, device, **extra)
        assert isinstance(text, dict)
        return {**text, "seconds": self.embedded([self.longest_sound() if seconds is None else seconds] * len(prompts), device)}

    def encoded(self, pipeline: Any, prompts: list[str], device: torch.device, negative: bool) -> dict[str, Tensor]:
        """Text, zero where a token is none of the prompt's, as the stock pipeline has it; negative prompts are encoded alike."""
        text = pipeline.encode_prompt(prompts, device, do_classifier_free_guidance=False)
        return {"text": text, "mask": (text != 0).any(2).long()}

    @torch.no_grad()
    def embedded(self, seconds: list[float], device: torch.device) -> Tensor:
        """(n, 2, features) of sounds of these lengths, which begin at 0."""
        pipeline = self.parts(*self.encoders)
        there = pipeline.projection_model.device  # it stays where it is, as the text encoder does
        return torch.cat(pipeline.encode_duration(0.0, seconds, there, False, len(seconds)), 1).to(device)

    def longest_sound(self) -> float:
        """The seconds that the latents stand for."""
        assert self.folder is not None
        length = self.sides(self.folder, self.known)[0] * self.pixels_of_latent(self.folder)
        return length / config_of(self.folder, "vae").get("sampling_rate", 44100)

    def size_arguments(self, info: Info) -> dict[str, Any]:
        """The seconds of the model's sounds."""
        assert info.image_size is not None and info.sampling_rate is not None
        return {"seconds": info.image_size / info.sampling_rate}

    def with_lengths(self, condition: Condition, uniform: Tensor) -> Condition:
        """The condition (n, ...), half of the sounds of the longest length, the others of any from a second on, by numbers (n,) in [0, 1)."""
        assert isinstance(condition, dict)
        longest = self.longest_sound()
        shares = (2 * uniform).clamp(max=1).tolist()
        seconds = [min(SHORTEST, longest) * (1 - share) + longest * share for share in shares]
        return {**condition, "seconds": self.embedded(seconds, condition["text"].device).to(condition["text"])}

    def null(self, info: Info, prompt: str = "") -> Null:
        """A function that gives zeros, which the stock pipeline guides away from, or the encoding of a negative prompt."""
        if prompt:
            return super().null(info, prompt)
        encode: Any = super().null(info)
        return cache(lambda: {name: torch.zeros_like(leaf) for name, leaf in encode().items()})

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Random text of different lengths, and seconds."""
        features = network.config[self.text_width]
        mask = (torch.arange(TOKENS, device="cpu")[None] < 3 + torch.arange(n, device="cpu")[:, None] % TOKENS).long()
        text = random_text(n, TOKENS, features) * mask[:, :, None]
        return {"text": text, "mask": mask, "seconds": random_text(n, 2, features, seed=1)}

    def stock_call(self, pipeline: Any, z: Tensor, condition: Any, settings: dict[str, Any]) -> Tensor:
        """Samples shaped as z, of the pipeline that is given what its projection has made of text and seconds."""
        assert self.folder is not None
        pipeline.projection_model = SimpleNamespace(config=SimpleNamespace(**config_of(self.folder, "projection_model")))
        pipeline.encode_prompt = lambda *inputs, **named: condition["text"]
        pipeline.encode_duration = lambda *inputs, **named: condition["seconds"].split(1, 1)
        return super().stock_call(pipeline, z, condition, {"audio_end_in_s": 0.0, **settings})


@cache
def places_of(features: int, length: int) -> tuple[Tensor, ...]:
    """(cos, sin), (length, features) each, of the places of tokens, as the stock pipeline has them."""
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    with torch.device("cpu"):
        return tuple(get_1d_rotary_pos_embed(features, length, use_real=True, repeat_interleave_real=False))


@torch.no_grad()
def with_whole_times(network: Any) -> Any:
    """The network itself, whose time is n where it was (n + 1) / T, its outputs the same.

    Of the angle 2 pi W (n + 1) / T the part of 1 / T, the same for all n, is a rotation of each pair (cos, sin): it goes into the layer behind.
    """
    frequencies, layer = network.time_proj.weight, network.timestep_proj[0]
    angle = 2 * math.pi * to_float64(frequencies) / T
    of_cos, of_sin = to_float64(layer.weight).chunk(2, 1)
    turned = [of_cos * angle.cos() + of_sin * angle.sin(), of_sin * angle.cos() - of_cos * angle.sin()]
    layer.weight = nn.Parameter(torch.cat(turned, 1).to(layer.weight.dtype), layer.weight.requires_grad)
    network.time_proj.weight = nn.Parameter(frequencies / T, requires_grad=False)
    return network
