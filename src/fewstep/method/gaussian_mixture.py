"""Gaussian mixtures with classes: data whose denoisers, guided or not, and whose probability flow are known without training.

With x ~ sum_k p_k N(mean_k, std_k^2) and z = alpha x + sigma eps, each component has E[x | z, k] = mean_k + alpha std_k^2 / var_k *
(z - alpha mean_k), where var_k = alpha^2 std_k^2 + sigma^2, and the components mix by their posterior probabilities. It is the
oracle of the tests, and a teacher for demonstrations: what a student learns can be compared with the truth.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.method.guidance import DenoiserFn, combine
from fewstep.method.process import Process
from fewstep.method.stage_two import landing_target


@dataclass(frozen=True, eq=False)
class Mixture:
    """K components: `means` (K, d), isotropic `stds` (K,), probabilities `weights` (K,), made to sum to 1, classes `labels` (K,).

    Raises:
        InputError: shapes that do not agree, a std or a weight that is not positive, classes that are not 0, 1, ..., C - 1.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        shapes = [tuple(v.shape) for v in (self.means, self.stds, self.weights, self.labels)]
        if self.means.ndim != 2 or not len(self.means) or shapes[1:] != [(len(self.means),)] * 3:
            raise InputError(f"means, stds, weights, labels are shaped {shapes}; give (K, d), (K,), (K,), (K,) with K of 1 or more")
        for name, values in (("stds", self.stds), ("weights", self.weights)):
            if not bool((values > 0).all()):
                raise InputError(f"{name} has {float(values.min())}; every one must be above 0: leave out components without mass")
        known = sorted(set(self.labels.tolist()))
        if self.labels.dtype != torch.int64 or known != list(range(len(known))):
            raise InputError(f"labels are {known} ({self.labels.dtype}); number the classes 0, 1, 2, ... as int64")
        for name, values in (
            ("means", self.means),
            ("stds", self.stds),
            ("weights", self.weights.double() / self.weights.double().sum()),
        ):
            object.__setattr__(self, name, values.double())

    @classmethod
    def gaussian(cls, mean: Tensor, std: float) -> "Mixture":
        """One Gaussian with mean (d,): one class, for which guidance changes nothing."""
        return cls(mean.reshape(1, -1), torch.tensor([std]), torch.ones(1), torch.zeros(1, dtype=torch.int64))

    @classmethod
    def ring(cls, components: int, classes: int, radius: float = 1.0, std: float = 0.2) -> "Mixture":
        """Equal components evenly on a circle in the plane, their classes in turn 0, 1, ..., C - 1, 0, 1, ...

        Raises:
            InputError: there are fewer components than classes, or no class.
        """
        if not 1 <= classes <= components:
            raise InputError(f"{components} components cannot show {classes} classes; give 1 class or more, each a component")
        index = torch.arange(components)
        angles = 2 * math.pi * index.double() / components
        means = radius * torch.stack([angles.cos(), angles.sin()], dim=1)
        return cls(means, torch.full((components,), std), torch.ones(components), index % classes)

    @property
    def classes(self) -> int:
        """Number of classes C: labels are 0..C-1, and the label C is the null condition."""
        return int(self.labels.max()) + 1

    def null(self, condition: Tensor) -> Tensor:
        """The null condition, int64 (b,), of the same length as `condition`: what `guided` asks for."""
        return torch.full_like(condition, self.classes)

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n data points x, float64 (n, d), and their classes, int64 (n,)."""
        index = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        eps = torch.randn(n, self.means.shape[1], dtype=torch.float64, generator=generator)
        return self.means[index] + self.stds[index, None] * eps, self.labels[index]

    def denoiser(self, process: Process) -> DenoiserFn:
        """X(z, t, condition, w) = E[x | z_t, c], float64 shaped like z (b, ...) with d elements an example; `w` None or (b,).

        The condition is int64 (b,), the null label C gives E[x | z_t]; with w it is the guided estimate (2210.03142, section 2).
        """

        def estimate(z: Tensor, t: Tensor, condition: Tensor, w: Tensor | None) -> Tensor:
            flat = self._flat(z, condition, t, w)
            alpha, sigma = process.at(t, flat)
            return self._guided(flat, alpha, sigma, condition, w)[0].reshape(z.shape)

        return estimate

    def flow(
        self, z: Tensor, t: Tensor, s: Tensor, condition: Tensor, w: Tensor | None, process: Process, steps: int = 256
    ) -> Tensor:
        """Where the probability-flow ODE carries z (b, ...) from times t (b,) to times s (b,), float64: DDIM in endless steps.

        Solved on the circle: u = z / r with r = |(alpha, sigma)| obeys du / dangle = cos(angle) eps(u) - sin(angle) x(u), for every
        process alike and without a singular end. Fourth-order Runge-Kutta; measured on a ring with std 0.2 from t = 1 to 0, 256
        steps are within 2e-7 for w in [0, 3].
        """
        flat = self._flat(z, condition, t, s, w)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.at(t, flat), process.at(s, flat)
        angle, last = torch.atan2(sigma_t, alpha_t), torch.atan2(sigma_s, alpha_s)
        h, u = (last - angle) / steps, flat / torch.hypot(alpha_t, sigma_t)

        def slope(u: Tensor, angle: Tensor) -> Tensor:
            x, eps = self._guided(u, angle.cos(), angle.sin(), condition, w)
            return angle.cos() * eps - angle.sin() * x

        for _ in range(steps):
            first = slope(u, angle)
            second = slope(u + h / 2 * first, angle + h / 2)
            third = slope(u + h / 2 * second, angle + h / 2)
            fourth = slope(u + h * third, angle + h)
            u, angle = u + h / 6 * (first + 2 * second + 2 * third + fourth), angle + h
        return (u * torch.hypot(alpha_s, sigma_s)).reshape(z.shape)

    def perfect_student(self, process: Process, end: Callable[[Tensor], Tensor], steps: int = 64) -> DenoiserFn:
        """What stage two aims at: X(z, t, condition, w) whose one DDIM step from t (b,) to end(t) (b,) lands where `flow` does.

        `end` is t - 1/N for the N-step sampler, t - 2/N for the stochastic one, t + 1/N for the encoder.
        """

        def estimate(z: Tensor, t: Tensor, condition: Tensor, w: Tensor | None) -> Tensor:
            z, s = z.double(), end(t)
            return landing_target(z, self.flow(z, t, s, condition, w, process, steps), t, s, process)

        return estimate

    def _flat(self, z: Tensor, condition: Any, *per_example: Tensor | None) -> Tensor:
        """z (b, ...) as float64 (b, d), once everything that comes with it is known to fit."""
        d, b = self.means.shape[1], len(z)
        if z.ndim < 2 or z.shape[1:].numel() != d:
            raise InputError(f"z is shaped {tuple(z.shape)}; give (b, ...) with {d} elements an example, as the means have")
        for values in (condition, *per_example):
            if values is not None and (not isinstance(values, Tensor) or values.shape != (b,)):
                shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise InputError(f"condition, times and w must be tensors ({b},), one value an example of z, not {shape}")
        if condition is None or condition.dtype != torch.int64 or bool(((condition < 0) | (condition > self.classes)).any()):
            found = None if condition is None else condition.tolist()
            raise InputError(
                f"condition is {found}; give int64 labels of 0 to {self.classes}, where {self.classes} is the null label"
            )
        return z.double().reshape(b, d)

    def _guided(self, z: Tensor, alpha: Tensor, sigma: Tensor, condition: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
        """Estimates (x, eps) (b, d) at alpha, sigma (b, 1): neither divides by alpha or by sigma, so both ends of time are safe."""
        variance = (alpha * self.stds) ** 2 + sigma**2  # (b, K)
        away = z[:, None] - alpha[:, :, None] * self.means  # (b, K, d)
        log_p = self.weights.log() - away.square().sum(2) / (2 * variance) - z.shape[1] / 2 * variance.log()
        member = (condition[:, None] == self.labels) | (condition[:, None] == self.classes)
        p = torch.softmax(log_p.masked_fill(~member, -math.inf), dim=1)
        if w is not None:  # guidance is linear in the estimates, so it may mix the probabilities instead
            p = combine(p, torch.softmax(log_p, dim=1), w.double())
        x = (p[:, None] @ self.means + (p * alpha * self.stds**2 / variance)[:, None] @ away)[:, 0]
        eps = ((p * sigma / variance)[:, None] @ away)[:, 0]
        return x, eps
