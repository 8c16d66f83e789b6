"""What a network predicts: there and back, the definitions on known noise, and no division by zero at either end of time."""

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.errors import InputError
from fewstep.method.guidance import combine
from fewstep.method.parameterization import EPS, FLOW, PREDICTIONS, V, X, prediction_of
from fewstep.method.process import RectifiedFlow, add_noise
from processes import STABLE_DIFFUSION, every_process_and_zero_snr, randn

every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS.keys())


@every_process_and_zero_snr
@every_prediction
@settings(deadline=None, max_examples=10)
@given(t=st.floats(0.001, 0.999))
def test_there_and_back(process, prediction, t):
    x, z, t = randn(2, 3, 5, 7), randn(2, 3, 5, 7, seed=1), torch.tensor([t, 0.5])
    alpha, sigma = process.at(t, z)
    for one, other in ((prediction.from_x, prediction.to_x), (prediction.to_x, prediction.from_x)):
        torch.testing.assert_close(other(one(x, z, alpha, sigma), z, alpha, sigma), x, rtol=1e-7, atol=1e-7)


@every_process_and_zero_snr
def test_a_network_that_knows_the_noise_finds_the_data(process):
    x, eps, t = randn(3, 2, 5), randn(3, 2, 5, seed=1), torch.tensor([0.1, 0.5, 0.9])
    alpha, sigma = process.at(t, x)
    straight = isinstance(process, RectifiedFlow)  # where flow is defined; v is where the variance is preserved
    for prediction, known in ((EPS, eps), (X, x), (FLOW, eps - x) if straight else (V, alpha * eps - sigma * x)):
        torch.testing.assert_close(prediction.to_x(known, add_noise(x, eps, t, process), alpha, sigma), x)


@every_process_and_zero_snr
@every_prediction
def test_both_ends_are_finite(process, prediction):
    x, eps, t = randn(2, 3, 5), randn(2, 3, 5, seed=1), torch.tensor([0.0, 1.0])
    alpha, sigma = process.at(t, x)
    z = add_noise(x, eps, t, process)
    assert prediction.to_x(eps, z, alpha, sigma).isfinite().all()
    assert prediction.from_x(x, z, alpha, sigma).isfinite().all()
    assert prediction.from_x(eps, eps, alpha, sigma).isfinite().all()  # even for an estimate that does not belong to z


@every_process_and_zero_snr
@every_prediction
def test_guidance_may_be_combined_on_any_prediction(process, prediction):
    z, t, w = randn(2, 3, 5), torch.tensor([0.3, 0.8]), torch.tensor([0.5, 7.0])
    one, other = randn(2, 3, 5, seed=1), randn(2, 3, 5, seed=2)
    alpha, sigma = process.at(t, z)
    on_x = combine(prediction.to_x(one, z, alpha, sigma), prediction.to_x(other, z, alpha, sigma), w)
    torch.testing.assert_close(prediction.to_x(combine(one, other, w), z, alpha, sigma), on_x)


@pytest.mark.parametrize("prediction", [EPS, X, V])
def test_the_stock_scheduler_means_the_same_data(prediction):
    kind = prediction.diffusers_name
    scheduler = DDIMScheduler(trained_betas=list(STABLE_DIFFUSION.betas), prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(1000)
    output, z = randn(2, 3, 5, 7), randn(2, 3, 5, 7, seed=1)
    for timestep in (0, 249, 999):
        alpha, sigma = STABLE_DIFFUSION.at(torch.full((2,), (timestep + 1) / 1000, dtype=torch.float64), z)
        stock = scheduler.step(output, timestep, z).pred_original_sample
        torch.testing.assert_close(prediction.to_x(output, z, alpha, sigma), stock, rtol=1e-4, atol=1e-4)


def test_names_of_ours_and_of_diffusers():
    for prediction in (EPS, X, V, FLOW):
        assert prediction_of(prediction.name) is prediction_of(prediction.diffusers_name) is prediction
    with pytest.raises(InputError, match="did you mean 'eps'"):
        prediction_of("epss")
