"""Noise processes z_t = alpha_t x + sigma_t eps (2210.03142, section 2), their time grids, and the steps between two times.

Time runs from 0 (data) to 1 (noise). Everything here is computed in float64, whatever the network's dtype: in bfloat16 the
target of stage two is off by more than the image itself at 128 steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from fewstep.errors import InputError

EARLIEST = 1e-5  # where a path towards noise begins: at t = 0 itself sigma is 0 and the noise in z is not defined


class Process(Protocol):
    """What the method needs to know about a noise process."""

    @property
    def train_timesteps(self) -> int:
        """Number T of discrete times that a stock scheduler knows; t = n / T is its timestep n - 1."""
        ...

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at times t (b,), shaped (b, 1, ...) to multiply `like` (b, ...)."""
        ...

    def network_time(self, t: Tensor) -> Tensor:
        """The time input of the network at times t (b,): the number that a stock scheduler passes at that time."""
        ...


def expand_to(values: Tensor, like: Tensor) -> Tensor:
    """`values` (b,) shaped (b, 1, ..., 1) to multiply `like` (b, ...). The only place that broadcasts."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on Apple's GPU, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def to_float64(values: Tensor, device: torch.device | None = None) -> Tensor:
    """`values` in the widest type of their device, or of `device`, to which they are carried."""
    device = device or values.device
    return values.to(device, widest_float(device))


@dataclass(frozen=True)
class Cosine:
    """alpha = cos(angle), sigma = sin(angle), the angle linear in t, with the log-SNR held within `log_snr`."""

    log_snr: tuple[float, float] = (20.0, -20.0)  # at t = 0 and at t = 1
    train_timesteps: int = 1024  # a power of two, so that every power-of-two grid is made of stock timesteps

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at times t (b,), float64, shaped (b, 1, ...) to multiply `like` (b, ...)."""
        first, last = (math.atan(math.exp(-r / 2)) for r in self.log_snr)
        angle = first + (last - first) * expand_to(to_float64(t), like)
        return angle.cos(), angle.sin()

    def network_time(self, t: Tensor) -> Tensor:
        """T t - 1, float32 (b,)."""
        return (self.train_timesteps * to_float64(t) - 1).float()


@dataclass(frozen=True)
class DiscreteBetas:
    """The process of DDPM and Stable Diffusion: alpha^2 at t = n / T is the product of 1 - beta over the first n betas.

    Between two discrete times the angle atan(sigma / alpha) is linear; at t = 0 there is no noise.
    """

    betas: tuple[float, ...]

    @property
    def train_timesteps(self) -> int:
        """Number of betas."""
        return len(self.betas)

    @cached_property
    def _angles(self) -> Tensor:
        signal = torch.cat([torch.ones(1).double(), (1 - torch.tensor(self.betas, dtype=torch.float64)).cumprod(0)])
        return torch.atan2((1 - signal).sqrt(), signal.sqrt())

    @cached_property
    def _copies(self) -> dict[torch.device, Tensor]:
        return {}

    def _angles_on(self, device: torch.device) -> Tensor:
        if device not in self._copies:  # a copy to the device waits for it: once, not in each update
            self._copies[device] = to_float64(self._angles, device)
        return self._copies[device]

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at times t (b,), float64, shaped (b, 1, ...) to multiply `like` (b, ...)."""
        angles, position = self._angles_on(t.device), to_float64(t) * self.train_timesteps
        nearest = position.round()  # i/N * T is an integer up to rounding: take it as one
        position = torch.where((position - nearest).abs() < 1e-6, nearest, position).clamp(0, self.train_timesteps)
        below = position.floor().long().clamp(max=self.train_timesteps - 1)
        angle = expand_to(torch.lerp(angles[below], angles[below + 1], position - below), like)
        return angle.cos(), angle.sin()

    def time_of(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The times t (b,) at which this process has the noise of alpha and sigma (b, ...); 1 where it never has so much."""
        angles, angle = self._angles_on(alpha.device), torch.atan2(sigma, alpha).flatten()
        above = torch.searchsorted(angles, angle).clamp(1, self.train_timesteps)
        share = (angle - angles[above - 1]) / (angles[above] - angles[above - 1])
        return (above - 1 + share.clamp(0, 1)) / self.train_timesteps

    def without_terminal_signal(self) -> "DiscreteBetas":
        """The same process with its alphas moved and stretched so that at t = 1 there is noise alone (2305.08891, algorithm 1)."""
        alpha = self._angles[1:].cos()
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        signal = torch.cat([torch.ones(1).double(), alpha**2])
        return DiscreteBetas(tuple((1 - signal[1:] / signal[:-1]).tolist()))

    def network_time(self, t: Tensor) -> Tensor:
        """T t - 1, at least 0, float32 (b,)."""
        return (self.train_timesteps * to_float64(t) - 1).clamp(min=0).float()


@dataclass(frozen=True)
class RectifiedFlow:
    """alpha = 1 - sigma, sigma = shift t / (1 + (shift - 1) t): straight lines from data to noise (Flux, SD3)."""

    shift: float = 1.0
    train_timesteps: int = 1000

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at times t (b,), float64, shaped (b, 1, ...) to multiply `like` (b, ...)."""
        sigma = expand_to(self._sigma(to_float64(t)), like)
        return 1 - sigma, sigma

    def network_time(self, t: Tensor) -> Tensor:
        """T sigma, float32 (b,): what diffusers' flow schedulers pass."""
        return (self.train_timesteps * self._sigma(to_float64(t))).float()

    def _sigma(self, t: Tensor) -> Tensor:
        return self.shift * t / (1 + (self.shift - 1) * t)


def log_snr(t: Tensor, process: Process) -> Tensor:
    """log(alpha^2 / sigma^2) at times t (b,), float64 (b,)."""
    alpha, sigma = process.at(t, t)
    return 2 * (alpha.log() - sigma.log())


def time_grid(steps: int, device: torch.device | str = "cpu") -> Tensor:
    """Times 1, 1 - 1/N, ..., 1/N, 0, float64 (N + 1,): the grid of every sampler and of every rung's training.

    Raises:
        InputError: `steps` is below 1.
    """
    if steps < 1:
        raise InputError(f"steps is {steps}; at least 1 is needed")
    return to_float64(torch.arange(steps, -1, -1, device=device)) / steps


def ddim_step(z: Tensor, x: Tensor, t: Tensor, s: Tensor, process: Process) -> Tensor:
    """Carry z (b, ...) from times t (b,) to times s (b,), either way, holding the clean estimate x fixed (section 2, DDIM)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = process.at(t, z), process.at(s, z)
    return alpha_s * x + sigma_s / sigma_t * (z - alpha_t * x)


def renoise(z: Tensor, eps: Tensor, s: Tensor, t: Tensor, process: Process) -> Tensor:
    """Carry z (b, ...) from times s (b,) up to later times t (b,) with fresh noise eps, as the process itself would."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = process.at(s, z), process.at(t, z)
    kept = alpha_t / alpha_s
    # sigma_{t|s}^2 = (1 - exp(lambda_t - lambda_s)) sigma_t^2, written so that sigma_s = 0 needs no care
    return kept * z + (sigma_t**2 - (kept * sigma_s) ** 2).clamp(min=0).sqrt() * eps


def add_noise(x: Tensor, eps: Tensor, t: Tensor, process: Process) -> Tensor:
    """z_t = alpha_t x + sigma_t eps, float64 (b, ...), at times t (b,)."""
    alpha, sigma = process.at(t, x)
    return alpha * x + sigma * eps


def betas_of(process: Process) -> list[float]:
    """The T betas with which a stock scheduler has this process's alpha at each t = n / T (`trained_betas`).

    Raises:
        InputError: a flow, where alpha^2 + sigma^2 is not 1.
    """
    if isinstance(process, RectifiedFlow):
        raise InputError("a rectified flow has no betas; a stock flow scheduler carries it")
    times = torch.arange(1, process.train_timesteps + 1, dtype=torch.float64) / process.train_timesteps
    signal = process.at(times, times)[0] ** 2
    return (1 - signal / torch.cat([torch.ones(1).double(), signal[:-1]])).tolist()


def process_settings(process: Process) -> dict[str, Any]:
    """A process as plain values for JSON; `process_of` reads them back."""
    if isinstance(process, Cosine):
        return {"name": "cosine", "log_snr": list(process.log_snr), "train_timesteps": process.train_timesteps}
    if isinstance(process, RectifiedFlow):
        return {"name": "rectified_flow", "shift": process.shift, "train_timesteps": process.train_timesteps}
    if isinstance(process, DiscreteBetas):
        return {"name": "discrete_betas", "betas": list(process.betas)}
    raise InputError(
        f"a process of type {type(process).__name__} has no form in a model folder; known: cosine, rectified_flow, discrete_betas"
    )


def process_of(settings: dict[str, Any]) -> Process:
    """The process that `process_settings` described.

    Raises:
        InputError: the name is not known.
    """
    kinds: dict[str, Any] = {"cosine": Cosine, "rectified_flow": RectifiedFlow, "discrete_betas": DiscreteBetas}
    values = {
        key: tuple(v) if isinstance(v, Sequence) and not isinstance(v, str) else v for key, v in settings.items() if key != "name"
    }
    if settings.get("name") not in kinds:
        raise InputError(f"noise process {settings.get('name')!r} is not known; known: {', '.join(kinds)}")
    try:
        return kinds[settings["name"]](**values)
    except TypeError as error:
        raise InputError(f"noise process {settings['name']}: {error}; it was written by another version, or by hand") from None
