"""The bundled teacher's own samples at many steps, shipped so that a quickstart need not make them: they take it minutes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewstep.data.fingerprints import whole
from fewstep.errors import InputError
from fewstep.evaluation.configurations import Configuration
from fewstep.models.metadata import bundled
from fewstep.models.model import Model

SEED = 0
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
CHECKED_STEPS = 64  # more take too long to check at each start


def fixed_noise(model: Model, samples: int) -> tuple[Tensor, Tensor]:
    """(noise (n, c, h, w), labels (n,)) from which every row of a table is sampled; the labels go round the classes."""
    noise = torch.randn(samples, *model.info.shape, generator=torch.Generator().manual_seed(SEED))
    return noise, torch.arange(samples) % len(model.info.classes)


def references_file(name: str = "digits") -> Path:
    """Where the shipped samples are."""
    return bundled(f"{name}-references.safetensors")


def key_of(steps: int, guidance_scale: float) -> str:
    """The tensor's name in the file."""
    return f"steps-{steps:04d}/scale-{guidance_scale:g}"


def save_references(path: Path, teacher_folder: Path, samples: dict[str, Tensor]) -> None:
    """Write samples (n, c, h, w) by `key_of`, in half precision, with the hash of the weights that they belong to."""
    about = {"weights": whole(teacher_folder / WEIGHTS), "seed": str(SEED)}
    save_file({key: value.half() for key, value in samples.items()}, path, about)


def load_references(path: Path, teacher_folder: Path) -> dict[str, Tensor]:
    """The samples by `key_of`, float32; empty where there is no file.

    Raises:
        InputError: they belong to other weights.
    """
    if not path.is_file():
        return {}
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, Any] = file.metadata() or {}
        if metadata.get("weights") != whole(teacher_folder / WEIGHTS):
            raise InputError(
                f"{path} belongs to other weights than {teacher_folder}; make it again: python -m benchmarks.quality.digits_references"
            )
        return {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - not a dict


def with_stored(configuration: Configuration, references: dict[str, Tensor], noise: Tensor, labels: Tensor) -> Configuration:
    """The configuration with its shipped samples from `noise`; as it is where there are none, or not enough.

    The first two of at most 64 steps are sampled again, to see that they are this teacher's.

    Raises:
        RuntimeError: the shipped samples are not what this machine's teacher gives.
    """
    steps, scale = configuration.steps, configuration.guidance_scale
    known = references.get(key_of(steps, scale))
    if configuration.role != "teacher" or known is None or len(known) < len(labels):
        return configuration
    if steps <= CHECKED_STEPS:
        again = configuration.draw(noise[:2], labels[:2], 2).samples
        difference = float((again - known[:2]).square().mean().sqrt())
        if difference > 0.02:  # half precision is 5e-4, other machines round differently
            raise RuntimeError(
                f"the shipped samples for {steps} steps at guidance scale {scale:g} differ from this machine's by {difference:.3f}"
            )
    return replace(configuration, stored=known[: len(labels)])
