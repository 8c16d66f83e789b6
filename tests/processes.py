"""What the tests of the mathematics share: noise processes, float64 noise, a denoiser that counts, and a known flow."""

import pytest
import torch

from fewstep.method.process import Cosine, DiscreteBetas, RectifiedFlow

torch.set_num_threads(1)  # tensors this small gain nothing from threads that wait for each other

STABLE_DIFFUSION = DiscreteBetas(tuple((torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2).tolist()))
ZERO_SNR = DiscreteBetas((*STABLE_DIFFUSION.betas[:-1], 1.0))
PROCESSES = [Cosine(), STABLE_DIFFUSION, RectifiedFlow(), RectifiedFlow(shift=3.0)]
VARIANCE_PRESERVING = [Cosine(), STABLE_DIFFUSION, ZERO_SNR]
NAMES = ["cosine", "sd", "flow", "flow shift 3"]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=NAMES)
every_process_and_zero_snr = pytest.mark.parametrize("process", [*PROCESSES, ZERO_SNR], ids=[*NAMES, "zero snr"])


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Float64 noise of this shape, a function of the seed."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def flow_of_a_gaussian(z, t, s, mean, std, process):
    """Closed form: the flow of one Gaussian only moves its mean and scales its std."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = process.at(t, z), process.at(s, z)
    spread = torch.hypot(alpha_s * std, sigma_s) / torch.hypot(alpha_t * std, sigma_t)
    return alpha_s * mean + spread * (z - alpha_t * mean)


class Counted:
    """A denoiser that keeps the times and the weights of its calls."""

    def __init__(self, denoiser):
        self.denoiser, self.times, self.weights = denoiser, [], []

    def __call__(self, z, t, condition, w):
        self.times.append(t)
        self.weights.append(w)
        return self.denoiser(z, t, condition, w)
