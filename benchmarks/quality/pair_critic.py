"""A critic of students' samples: heads on a frozen teacher's features that tell them from the teacher's samples of the same class and w."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep.method.guidance import embed_w
from fewstep.method.process import Process, add_noise
from fewstep.models.denoiser import Denoiser
from fewstep.models.model import Model

WIDTH = 48  # channels of the heads
RATE, PENALTY, NUDGE = 2e-3, 0.01, 0.05  # of the critic's learning


class Reached(Exception):
    """The last features are there: the rest of the network is not needed."""


class Features:
    """A frozen UNet's maps on its way down: [(b, c, h, w), ...] of z (b, ...) at t (b,), with the gradient of z."""

    def __init__(self, denoiser: Denoiser) -> None:
        network: Any = copy.deepcopy(denoiser.network).eval().requires_grad_(False)
        self.denoiser, self.maps = replace(denoiser, network=network), []
        network.conv_in.register_forward_hook(lambda module, inputs, output: self.maps.append(output))
        for block in network.down_blocks:
            block.register_forward_hook(lambda module, inputs, output: self.maps.extend(output[1]))
        network.down_blocks[-1].register_forward_hook(self.stop)

    def stop(self, *known: Any) -> None:
        raise Reached

    def __call__(self, z: Tensor, t: Tensor, condition: Any) -> list[Tensor]:
        self.maps.clear()
        try:
            self.denoiser(z, t, condition)
        except Reached:
            return list(self.maps)
        raise RuntimeError("the network has no end of its way down")


class Heads(nn.Module):
    """Logits (b, maps): of each map a 1x1 convolution that is told of the class and of w, the mean over its places."""

    def __init__(self, channels: list[int], classes: int) -> None:
        super().__init__()
        self.of_class, self.of_w = (
            nn.Embedding(classes, WIDTH),
            nn.Sequential(nn.Linear(16, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)),
        )
        self.first = nn.ModuleList(nn.Sequential(nn.GroupNorm(1, c, affine=False), nn.Conv2d(c, WIDTH, 1)) for c in channels)
        self.film = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in channels)
        self.last = nn.ModuleList(nn.Conv2d(WIDTH, 1, 1) for _ in channels)

    def forward(self, maps: list[Tensor], condition: Tensor, w: Tensor) -> Tensor:
        told, logits = self.of_class(condition) + self.of_w(embed_w(w / 100, 16).float()), []
        for values, first, film, last in zip(maps, self.first, self.film, self.last, strict=True):
            scale, shift = film(told)[:, :, None, None].chunk(2, 1)
            logits.append(last(functional.silu(first(values) * (1 + scale) + shift)).flatten(1).mean(1))
        return torch.stack(logits, 1)


class Critic:
    """Tells a student's samples from the teacher's of the same class and w."""

    def __init__(self, teacher: Model, process: Process) -> None:
        self.features, self.process = Features(teacher.denoiser), process
        maps = self.features(torch.zeros(1, *teacher.info.shape), torch.full((1,), 0.1), torch.zeros(1, dtype=torch.long))
        self.heads = Heads([values.shape[1] for values in maps], len(teacher.info.classes or ()))
        self.optimizer = torch.optim.Adam(self.heads.parameters(), RATE, betas=(0.0, 0.99))
        self.right = 0.0

    def maps(self, real: Tensor, fake: Tensor, condition: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The maps of both samples (b, ...), with one noise at t = 0.01 to 0.26, mostly little: a student's errors are small."""
        t, noise = 0.01 + 0.25 * torch.rand(len(real)).square(), torch.randn(real.shape)
        with torch.no_grad():
            of_real = self.features(add_noise(real, noise, t, self.process), t, condition)
        return of_real, self.features(add_noise(fake, noise, t, self.process), t, condition)

    def loss(self, real: list[Tensor], fake: list[Tensor], condition: Tensor, w: Tensor) -> Tensor:
        """The student's (b,): softplus of how much more the teacher's sample looks like the teacher's."""
        with torch.no_grad():
            of_real = self.heads(real, condition, w)
        return functional.softplus(of_real - self.heads(fake, condition, w)).mean(1)

    def learn(self, real: list[Tensor], fake: list[Tensor], condition: Tensor, w: Tensor) -> float:
        """One update of the heads; their loss."""
        both = [torch.cat([a, b.detach()]) for a, b in zip(real, fake, strict=True)]
        condition, w = condition.repeat(2), w.repeat(2)
        logits = self.heads(both, condition, w)
        nudged = self.heads([m + NUDGE * m.std() * torch.randn(m.shape) for m in both], condition, w)
        of_real, of_fake = logits.chunk(2)
        loss = functional.softplus(of_fake - of_real).mean() + PENALTY * (nudged - logits).square().mean() / NUDGE**2
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.right = 0.98 * self.right + 0.02 * float((of_real.mean(1) > of_fake.mean(1)).float().mean())
        return float(loss.detach())
