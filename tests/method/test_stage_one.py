"""Stage one: the target is the guided teacher, and each weighting is the plain error of a prediction."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.guidance import guided
from fewstep.method.parameterization import EPS, V
from fewstep.method.process import Cosine, add_noise
from fewstep.method.stage_one import WEIGHTINGS, balance, guided_target, snr, snr_plus_one, truncated_snr, weighted_error
from processes import PROCESSES, every_process, randn


@every_process
def test_target_is_the_closed_form_guided_denoiser(process):
    ring = Mixture.ring(components=5, classes=2)
    x, labels = ring.sample(7, torch.Generator().manual_seed(0))
    t, w = torch.linspace(0.05, 1, 7), torch.linspace(0, 14, 7)
    z = add_noise(x, randn(7, 2), t, process)
    teacher = guided(lambda z, t, c, w: ring.denoiser(process)(z, t, c, None), ring.null)
    torch.testing.assert_close(guided_target(teacher, z, t, labels, w), ring.denoiser(process)(z, t, labels, w))


@pytest.mark.parametrize("process", PROCESSES[:2])
@pytest.mark.parametrize(("weighting", "prediction"), [(snr_plus_one, V), (snr, EPS)])
def test_weighting_is_the_plain_error_of_a_prediction(process, weighting, prediction):
    x, target, z, t = randn(5, 2, 3), randn(5, 2, 3, seed=1), randn(5, 2, 3, seed=2), torch.linspace(0.1, 0.9, 5)
    alpha, sigma = process.at(t, z)
    outputs = [prediction.from_x(estimate, z, alpha, sigma) for estimate in (x, target)]
    plain = (outputs[0] - outputs[1]).square().flatten(1).mean(1)
    torch.testing.assert_close(weighted_error(x, target, t, process, weighting), plain)


@every_process
@settings(deadline=None, max_examples=10)
@given(t=st.floats(0.01, 1))
def test_truncated_snr_is_the_larger_of_the_errors_in_eps_and_x(process, t):
    x, target, z, t = randn(2, 3, 5), randn(2, 3, 5, seed=1), randn(2, 3, 5, seed=2), torch.tensor([t, 0.5])
    error_x = (x - target).square().flatten(1).mean(1)
    alpha, sigma = process.at(t, z)
    error_eps = (EPS.from_x(x, z, alpha, sigma) - EPS.from_x(target, z, alpha, sigma)).square().flatten(1).mean(1)
    torch.testing.assert_close(weighted_error(x, target, t, process, truncated_snr), torch.maximum(error_x, error_eps))


def test_errors_are_one_a_example_and_zero_on_target():
    x, target, t = randn(3, 3, 3), randn(3, 3, 3), torch.tensor([0.2, 0.5, 0.9])
    x[1] += 2
    for weighting in WEIGHTINGS.values():
        assert (weighted_error(x, target, t, Cosine(), weighting) > 0).tolist() == [False, True, False]


@every_process
def test_only_snr_is_blind_at_pure_noise(process):
    given = torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1), process
    at_noise = {name: float(weighted_error(*given, weighting)) for name, weighting in WEIGHTINGS.items()}
    assert at_noise["snr"] < 0.01
    assert at_noise["snr_plus_one"] == pytest.approx(1, abs=0.01)
    assert at_noise["truncated_snr"] == pytest.approx(1)


def test_the_gradient_reaches_the_student_alone():
    x, scale = randn(2, 3).requires_grad_(), torch.ones(1, requires_grad=True)
    target = guided_target(lambda z, t, c, w: scale * z, randn(2, 3, seed=1), torch.ones(2), None, torch.zeros(2))
    weighted_error(x, target, torch.tensor([0.3, 0.6]), Cosine(), snr_plus_one).sum().backward()
    assert scale.grad is None and (x.grad * (x - target) > 0).all()


def test_balance_evens_out_errors_that_grow_with_guidance_and_is_one_below_scale_one():
    w = torch.tensor([-0.999, -0.5, 0.0, 1.0, 3.0])
    assert balance(w, 0).tolist() == [1] * 5
    assert balance(w, 2).tolist() == pytest.approx([1, 1, 1, 1 / 4, 1 / 16])
    w = w[2:]  # branches whose disagreement is misjudged by the same e miss the guided target by (1 + w) e
    x, t = (1 + w)[:, None] * torch.ones(3, 5), torch.full((3,), 0.5)
    error = weighted_error(x, torch.zeros(3, 5), t, Cosine(), torch.ones_like)
    torch.testing.assert_close(balance(w, 2) * error, torch.ones(3).double())
