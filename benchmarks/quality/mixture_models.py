"""The models of benchmarks/quality/mixtures.py: a mixture's own denoiser as a teacher, and a small network as its student."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep import Model
from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.parameterization import V
from fewstep.method.process import Cosine, process_settings
from fewstep.models.denoiser import Denoiser
from fewstep.models.families.own import Own
from fewstep.models.model import Info

PROCESS = Cosine()
GUIDANCE_SCALE = (1.0, 5.0)  # that the students are trained for


def mixture_of(dimensions: int) -> Mixture:
    """In the plane six components of three classes on a ring; else twelve overlapping components of four classes, at random."""
    if dimensions == 2:
        return Mixture.ring(components=6, classes=3, radius=1.2, std=0.2)
    means = 0.5 * torch.randn(12, dimensions, generator=torch.Generator().manual_seed(0))
    return Mixture(means, torch.full((12,), 0.7), torch.ones(12), torch.arange(12) % 4)


@dataclass(frozen=True)
class Draws:
    """Endless training data from a mixture, z (n, d, 1, 1) and labels (n,), as a function of the position."""

    mixture: Mixture

    def batch(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Points float32 (count, d, 1, 1) and labels int64 (count,) from position `start` on."""
        x, labels = self.mixture.sample(count, torch.Generator().manual_seed(start))
        return x.float()[:, :, None, None], labels


class Exact(nn.Module):
    """The mixture's E[x | z_t, c] as a network in float64 that predicts v; its one parameter only tells the type."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.estimate, self.float64 = mixture.denoiser(PROCESS), nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, z: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        t = (time.double() + 1) / PROCESS.train_timesteps
        return V.from_x(self.estimate(z, t, condition, None), z, *PROCESS.at(t, z))


class Mlp(nn.Module):
    """v of points (b, d, 1, 1): residual layers whose strength the time, the label and the guidance weight decide."""

    def __init__(self, dimensions: int, labels: int, width: int, layers: int) -> None:
        super().__init__()
        self.first, self.label, self.embed = nn.Linear(dimensions, width), nn.Embedding(labels, width), nn.Linear(10, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.strengths, self.last = nn.Linear(width, layers * width + 1), nn.Linear(width, dimensions)

    def forward(self, z: Tensor, time: Tensor, condition: Tensor, w: Tensor) -> Tensor:
        angles = (time[:, None] + 1) / PROCESS.train_timesteps * torch.tensor([1, 2, 4, 8]) * math.pi / 2
        w, flat = w.to(z.dtype)[:, None], z.flatten(1)
        embedded = self.embed(torch.cat([angles.cos(), angles.sin(), w / 4, w / (1 + w)], 1)) + self.label(condition)
        *strengths, through = self.strengths(nn.functional.silu(embedded)).split([*[len(embedded[0])] * len(self.layers), 1], 1)
        hidden = self.first(flat) + embedded
        for layer, strength in zip(self.layers, strengths, strict=True):
            hidden = hidden + layer(nn.functional.silu(hidden * (1 + strength)))
        return (self.last(nn.functional.silu(hidden)) + through * flat).view_as(z)


def teacher_of(mixture: Mixture) -> Model:
    """The exact teacher."""
    return model_of(mixture, Exact(mixture).requires_grad_(False), "teacher")


def student_of(mixture: Mixture, width: int, layers: int) -> Model:
    """An untrained student; its weights are always the same."""
    torch.manual_seed(0)
    return model_of(mixture, Mlp(mixture.means.shape[1], mixture.classes + 1, width, layers), "student")


def model_of(mixture: Mixture, network: nn.Module, kind: str) -> Model:
    """A model of a mixture's points, seen as pictures (d, 1, 1)."""
    info = Info.model_validate({
        "kind": kind, "family": "own", "prediction": "v", "process": process_settings(PROCESS),
        "classes": tuple(map(str, range(mixture.classes))), "size": 1, "channels": mixture.means.shape[1],
        "guidance_scale": GUIDANCE_SCALE if kind == "student" else None,
    })  # fmt: skip
    return Model(Denoiser(network, "v", PROCESS, mixture.classes), info, Own(network))
