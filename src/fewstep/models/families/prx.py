"""PRX: text in cross-attention of a T5Gemma, a flow over latents of Flux's autoencoder or of a 32x one; w is added to the time embedding.

Its stock pipeline cleans prompts with ftfy, an extra: `pip install 'fewstep[prx]'`.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.models.families import AnySize
from fewstep.models.families.flow_grid import FlowGrid
from fewstep.models.families.flow_latents import ChosenSize
from fewstep.models.families.pipeline_folder import config_of, index_of
from fewstep.models.families.text_transformer import TextTransformer

TOKENS, PIXELS = 256, 512  # of a prompt, as the published tokenizers have it; the stock pipeline's default side


class PRX(FlowGrid, ChosenSize, TextTransformer):
    """A condition is {"text" (b, tokens, features), "mask" (b, tokens), 1 where a token is one of the prompt's}."""

    name, network_type, time_embedding, pipelines = "prx", "PRXTransformer2DModel", "time_in.out_layer", ("PRXPipeline",)
    lora_files = False  # its stock pipeline's loader is that of UNets
    encoding, mask, text_tokens, text_width = ("text", "mask"), "mask", TOKENS, "context_in_dim"
    encode_arguments: dict[str, Any] = {"do_classifier_free_guidance": False, "tokenizer_max_length": TOKENS}  # noqa: RUF012
    network_arguments: dict[str, str] = {"encoder_hidden_states": "text", "attention_mask": "mask"}  # noqa: RUF012
    pipeline_arguments: dict[str, str] = {"prompt_embeds": "text"}  # noqa: RUF012

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, parts of another model, or where ftfy is not installed."""
        if find_spec("ftfy") is None:
            raise InputError(f"{folder} is a PRX, whose stock pipeline needs a package: pip install 'fewstep[prx]'")
        super().check(folder, config)

    def text_features(self, folder: Path) -> Any:
        """How many features of each token the text encoder gives: a T5Gemma's config has them of its encoder."""
        return (config_of(folder, "text_encoder").get("encoder") or {}).get("hidden_size") or super().text_features(folder)

    def pixels_of_latent(self, folder: Path) -> int:
        """How many pixels a latent stands for, along a side."""
        vae = config_of(folder, "vae")
        return 2 ** (len(vae.get("encoder_block_out_channels") or vae["block_out_channels"]) - 1)

    def usual_sides(self, folder: Path) -> tuple[int, ...]:
        """Those of the stock pipeline's default picture."""
        return ((index_of(folder).get("default_sample_size") or PIXELS) // self.pixels_of_latent(folder),) * 2

    def patch(self, config: dict[str, Any]) -> tuple[int, ...]:
        """As the network's config has it."""
        return (config["patch_size"],) * 2

    def any_size(self) -> AnySize:
        """Whole patches."""
        return AnySize(self.known["patch_size"])

    def network_time(self, time: Tensor, z: Tensor) -> Tensor:
        """sigma, in float32 as the stock pipeline has it."""
        return time.float() / 1000

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """The text with its mask, true where a token is shown."""
        given = super().inputs(z, time, condition)
        return given | {"attention_mask": given["attention_mask"].bool()}

    def stock_arguments(self, condition: Any, pipeline: Any) -> dict[str, Any]:
        """The text and its mask; sizes that the pipeline does not know are taken as they are."""
        masked = {"prompt_attention_mask": condition["mask"].to(torch.bool)}
        return super().stock_arguments(condition, pipeline) | masked | {"use_resolution_binning": False}
