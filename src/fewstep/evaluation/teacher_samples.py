"""The bundled teacher's own samples at many steps, shipped so that a quickstart need not make them: they take it minutes."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from fewstep.data.fingerprints import whole
from fewstep.errors import InputError
from fewstep.evaluation.configurations import Configuration
from fewstep.evaluation.metrics import rms
from fewstep.models.metadata import bundled
from fewstep.models.model import Model

REFERENCES = bundled("digits-references.safetensors")  # half precision, with the hash of the teacher's weights
SEED = 0
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
CHECKED_STEPS = 64  # more take too long to check at each start


def fixed_noise(model: Model, samples: int) -> tuple[Tensor, Tensor]:
    """(noise (n, c, h, w), labels (n,)) from which every row of a table is sampled; the labels go round the classes."""
    noise = torch.randn(samples, *model.info.shape, generator=torch.Generator().manual_seed(SEED))
    return noise, torch.arange(samples) % len(model.info.classes)


def key_of(steps: int, guidance_scale: float) -> str:
    """The tensor's name in the file."""
    return f"steps-{steps:04d}/scale-{guidance_scale:g}"


def load_references(path: Path, teacher_folder: Path) -> dict[str, Tensor]:
    """The samples by `key_of`, float32; empty where there is no file.

    Raises:
        InputError: they belong to other weights.
    """
    if not path.is_file():
        return {}
    with safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("weights") != whole(teacher_folder / WEIGHTS):
            remedy = "make it again: python -m benchmarks.quality.digits_references"
            raise InputError(f"{path} belongs to other weights than {teacher_folder}; {remedy}")
        return {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - not a dict


def with_stored(configuration: Configuration, references: dict[str, Tensor], noise: Tensor, labels: Tensor) -> Configuration:
    """The configuration with its shipped samples from `noise`; as it is where there are none, or not enough.

    The first two of at most 64 steps are sampled again, to see that they are this teacher's.

    Raises:
        RuntimeError: the shipped samples are not what this machine's teacher gives.
    """
    known = references.get(key_of(configuration.steps, configuration.guidance_scale))
    if configuration.role != "teacher" or known is None or len(known) < len(labels):
        return configuration
    if configuration.steps <= CHECKED_STEPS:
        difference = rms(configuration.draw(noise[:2], labels[:2], 2).samples, known[:2])
        if difference > 0.02:  # half precision is 5e-4, other machines round differently
            raise RuntimeError(f"the shipped samples of {configuration} differ from this machine's by {difference:.3f}")
    return replace(configuration, stored=known[: len(labels)])
