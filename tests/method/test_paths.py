"""Paths: the solver against the exact flow, and targets that land on the next state."""

import pytest
import torch

from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.paths import draw_path_w, path_target, second_order_states
from fewstep.method.process import Cosine, RectifiedFlow, ddim_step, time_grid

MIXTURE = Mixture.ring(components=4, classes=2, std=0.3)
PROCESSES = [Cosine(), RectifiedFlow(3.0)]


def path(process, steps, n=64):
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    condition, w = torch.arange(n) % 2, torch.linspace(0, 2, n, dtype=torch.float64)
    estimate = MIXTURE.denoiser(process)
    states = list(second_order_states(estimate, z, time_grid(steps), condition, w, process))
    return z, condition, w, states


@pytest.mark.parametrize("process", PROCESSES)
def test_a_path_takes_a_step_an_evaluation_and_ends_near_the_exact_flow(process):
    exact, errors = None, []
    for steps in (16, 32, 64):
        z, condition, w, states = path(process, steps)
        assert len(states) == steps
        if exact is None:
            exact = MIXTURE.flow(z, torch.ones(64).double(), torch.zeros(64).double(), condition, w, process)
        errors.append(float((states[-1] - exact).square().mean().sqrt()))
    assert errors[2] < 0.02 and errors[0] / errors[2] > 5  # of first order they would fall by about 4


@pytest.mark.parametrize("process", PROCESSES)
def test_the_target_of_a_step_lands_on_the_next_state(process):
    steps = 4
    z, _, _, states = path(process, 16)
    kept = torch.stack([z, *states[3::4]], 1)
    for i in range(1, steps + 1):
        index = torch.full((64,), i)
        now, target, t = path_target(kept, index, steps, process)
        torch.testing.assert_close(now, kept[:, steps - i])
        if i == 1:
            torch.testing.assert_close(target, kept[:, -1])
        else:
            landed = ddim_step(now, target, t, t - 1 / steps, process)
            torch.testing.assert_close(landed, kept[:, steps - i + 1])


def test_a_share_of_the_weights_is_at_the_low_end():
    w = draw_path_w((torch.arange(1000).double() + 0.5) / 1000, (1.0, 5.0), 0.25)
    assert int((w == 0).sum()) == 250 and w.max() > 3.9 and (w[250:].diff() > 0).all()
