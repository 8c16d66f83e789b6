"""Models of shapes alone: their networks are on PyTorch's meta device, where tensors have no content and need no memory."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewstep.errors import as_input_error
from fewstep.models.families import family_for
from fewstep.models.families.pipeline_folder import config_of, naming_damage, quiet
from fewstep.models.lora import merged
from fewstep.models.model import Model
from fewstep.models.pretrained import denoiser_of

WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")
CONFIGS = ["model_index.json", "*/config.json", "*/scheduler_config.json"]  # all that `open_shapes` reads of a hub repository


def open_shapes(folder: Path, force: bool = False, dtype: torch.dtype | None = None) -> Model:
    """The teacher of a stock pipeline folder, its network of shapes alone, its weights in a dtype (None: float32); `force` as in `family_for`.

    Nothing is read but its configs.

    Raises:
        InputError: a folder of no known family, a config that makes no network, or no teacher.
    """
    with naming_damage(folder):
        family = family_for(folder, force=force)
        config, info = config_of(folder, family.component), family.describe(folder)
    with quiet(), torch.device("meta"), as_input_error(f"{folder}: its config makes no network", "copy it again"):
        network = family.network_of(config)
    network = merged(network.to("meta").eval(), dtype)  # some make constants where they like
    return Model(denoiser_of(network, info, family), info, family)


def has_configs_alone(folder: Path) -> bool:
    """Whether a stock pipeline folder lacks the weights of its network.

    Raises:
        InputError: a folder of no known family.
    """
    if not (folder / "model_index.json").is_file():
        return False
    return not any(file.suffix in WEIGHTS for file in (folder / family_for(folder).component).glob("*"))


def download_configs(hub_id: str, revision: str | None) -> Path:
    """The folder of a hub repository's configs, downloaded, and of whatever else of it is here already.

    Raises:
        InputError: no such repository, or no connection.
    """
    from huggingface_hub import snapshot_download

    with as_input_error(f"the configs of '{hub_id}' cannot be had", "name a folder that holds them: --teacher FOLDER"):
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=CONFIGS))


def shapes_of(model: Model) -> Model:
    """The model with a network of shapes alone; its weights are neither copied nor touched."""
    network = model.denoiser.network
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta")) for p in network.parameters()}
    memo |= {id(b): b.to("meta") for b in network.buffers()}
    with torch.device("meta"):
        return replace(model, denoiser=replace(model.denoiser, network=copy.deepcopy(network, memo)))
