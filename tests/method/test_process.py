"""Noise processes: end points, monotone noise, the stock schedulers' very numbers, and steps that undo or compose."""

import json
import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.errors import InputError
from fewstep.method import process as noise_process
from fewstep.method.process import Cosine, RectifiedFlow, add_noise, betas_of, ddim_step, log_snr, renoise, time_grid
from processes import STABLE_DIFFUSION, VARIANCE_PRESERVING, ZERO_SNR, every_process_and_zero_snr, randn

times = st.floats(0.01, 0.99)


def alpha_sigma(process, *t: float) -> tuple[torch.Tensor, torch.Tensor]:
    moments = torch.tensor(t, dtype=torch.float64)
    return process.at(moments, moments)


@settings(deadline=None, max_examples=20)
@given(t=st.floats(0, 1), shift=st.floats(0.5, 8))
def test_variance_is_preserved_or_the_line_is_straight(t, shift):
    for process in VARIANCE_PRESERVING:
        assert float(sum(value**2 for value in alpha_sigma(process, t))) == pytest.approx(1, abs=1e-12)
    alpha, sigma = alpha_sigma(RectifiedFlow(shift), t)
    assert float(alpha + sigma) == pytest.approx(1, abs=1e-12) and -1e-12 <= float(sigma) <= 1 + 1e-12


@every_process_and_zero_snr
@settings(deadline=None, max_examples=20)
@given(pair=st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda p: abs(p[0] - p[1]) > 1e-5))
def test_log_snr_falls_between_any_two_times(process, pair):
    early, late = log_snr(torch.tensor(sorted(pair), dtype=torch.float64), process)
    assert early > late
    assert (log_snr(torch.linspace(0, 1, 3001, dtype=torch.float64), process).diff() < 0).all()


def test_end_points():
    ends = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(log_snr(ends, Cosine()), torch.tensor([20.0, -20.0]).double())
    torch.testing.assert_close(log_snr(ends, Cosine(log_snr=(15, -12))), torch.tensor([15.0, -12.0]).double())
    for process in (RectifiedFlow(), RectifiedFlow(shift=3.0), ZERO_SNR):
        torch.testing.assert_close(torch.stack(alpha_sigma(process, 0, 1)), torch.eye(2).double(), rtol=0, atol=1e-15)
    alpha, sigma = alpha_sigma(STABLE_DIFFUSION, 0, 1)
    assert (float(alpha[0]), float(sigma[0])) == (1, 0)
    assert float(alpha[1] ** 2) == pytest.approx(0.00466, abs=1e-5)  # the signal that Stable Diffusion's last step still holds


def test_stock_schedulers_take_our_betas():
    scheduler = DDIMScheduler(num_train_timesteps=1024, trained_betas=betas_of(Cosine()))
    t = torch.arange(1, 1025, dtype=torch.float64) / 1024
    torch.testing.assert_close(scheduler.alphas_cumprod.double().sqrt(), Cosine().at(t, t)[0], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(torch.tensor(betas_of(STABLE_DIFFUSION)), torch.tensor(STABLE_DIFFUSION.betas))


@pytest.mark.parametrize(("process", "grids"), [(Cosine(), (1, 2, 4, 8, 16, 64)), (STABLE_DIFFUSION, (1, 2, 4, 5, 8, 10, 20, 50))])
def test_network_time_on_a_grid_is_the_integer_of_the_stock_scheduler(process, grids):
    settings = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
    scheduler = DDIMScheduler(num_train_timesteps=process.train_timesteps, **settings)
    for steps in grids:
        scheduler.set_timesteps(steps)
        assert process.network_time(time_grid(steps)[:-1]).tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_rectified_flow_is_the_stock_flow_scheduler(shift, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist())
    t = time_grid(steps)
    torch.testing.assert_close(RectifiedFlow(shift).at(t, t)[1].float(), scheduler.sigmas)
    torch.testing.assert_close(RectifiedFlow(shift).network_time(t[:-1]), scheduler.timesteps)


@settings(deadline=None, max_examples=20)
@given(steps=st.integers(1, 3000))
def test_time_grid_falls_evenly_from_noise_to_data(steps):
    grid = time_grid(steps)
    assert (len(grid), float(grid[0]), float(grid[-1]), grid.dtype) == (steps + 1, 1, 0, torch.float64)
    torch.testing.assert_close(grid.diff(), torch.full((steps,), -1 / steps, dtype=torch.float64), rtol=1e-9, atol=1e-15)


@every_process_and_zero_snr
@settings(deadline=None, max_examples=20)
@given(t=times, s=times)
def test_ddim_there_and_back_returns_the_input(process, t, s):
    z, x, t, s = randn(2, 3, 5, 7), randn(2, 3, 5, 7, seed=1), torch.tensor([t, s]), torch.tensor([s, t])
    torch.testing.assert_close(ddim_step(ddim_step(z, x, t, s, process), x, s, t, process), z, rtol=1e-7, atol=1e-7)


@every_process_and_zero_snr
@settings(deadline=None, max_examples=20)
@given(t=times, s=st.floats(0, 1))
def test_ddim_with_the_true_data_keeps_the_noise(process, t, s):
    x, eps, t, s = randn(2, 3, 5, 7), randn(2, 3, 5, 7, seed=1), torch.tensor([t, 0.5]), torch.tensor([s, s])
    torch.testing.assert_close(ddim_step(add_noise(x, eps, t, process), x, t, s, process), add_noise(x, eps, s, process))


@every_process_and_zero_snr
@settings(deadline=None, max_examples=20)
@given(pair=st.tuples(st.floats(0, 0.999), st.floats(0, 1)))
def test_renoise_composes_to_the_noise_of_the_process(process, pair):
    s, t = (torch.tensor([v, v, v], dtype=torch.float64) for v in (pair[0], max(pair)))
    # three sources kept apart: data, the noise up to s, the noise from s to t; squares are their shares of the variance
    x, first, second = torch.eye(3).double()[:, :, None].expand(3, 3, 5)
    data, *noise = renoise(add_noise(x, first, s, process), second, s, t, process)[:, 0]
    alpha, sigma = alpha_sigma(process, float(t[0]))
    assert float(data) == pytest.approx(float(alpha), abs=1e-9)
    assert math.hypot(*map(float, noise)) == pytest.approx(float(sigma), abs=1e-9)


@every_process_and_zero_snr
def test_renoise_in_two_steps_has_the_variance_of_one(process):
    z, s, middle, t = torch.zeros(2, 3), torch.tensor([0.0, 0.3]), torch.tensor([0.4, 0.6]), torch.tensor([0.9, 1.0])
    once = renoise(z, torch.ones(2, 3), s, t, process)
    first = renoise(renoise(z, torch.ones(2, 3), s, middle, process), torch.zeros(2, 3), middle, t, process)
    second = renoise(z, torch.ones(2, 3), middle, t, process)
    torch.testing.assert_close(torch.hypot(first, second), once)


@every_process_and_zero_snr
def test_renoise_by_nothing_and_ddim_by_nothing_change_nothing(process):
    z, t = randn(3, 5), torch.tensor([0.2, 0.5, 0.99])
    torch.testing.assert_close(renoise(z, randn(3, 5, seed=1), t, t, process), z, rtol=0, atol=1e-7)
    torch.testing.assert_close(ddim_step(z, randn(3, 5, seed=1), t, t, process), z)


@every_process_and_zero_snr
def test_times_belong_to_the_batch_even_where_every_size_is_the_same(process):
    given = randn(3, 3, 3), randn(3, 3, 3, seed=1), torch.tensor([0.3, 0.6, 0.9]), torch.tensor([0.1, 0.5, 0.2])
    for step in (
        lambda z, x, t, s: ddim_step(z, x, t, s, process),
        lambda z, x, t, s: renoise(z, x, s, t, process),
        lambda z, x, t, s: add_noise(z, x, t, process),
    ):
        one_by_one = torch.cat([step(*(values[[i]] for values in given)) for i in range(3)])
        torch.testing.assert_close(step(*given), one_by_one, rtol=1e-13, atol=1e-13)


@every_process_and_zero_snr
def test_a_process_is_of_the_widest_type_whatever_the_network_is(process):
    z, t = torch.zeros(2, 3, dtype=torch.bfloat16), torch.tensor([0.25, 0.5])
    assert {v.dtype for v in process.at(t, z)} == {ddim_step(z, z, t, t / 2, process).dtype} == {torch.float64}
    assert process.network_time(t).dtype == torch.float32
    widest = {name: noise_process.widest_float(torch.device(name)) for name in ("cpu", "cuda:1", "mps")}
    assert widest == {"cpu": torch.float64, "cuda:1": torch.float64, "mps": torch.float32}
    carried = noise_process.to_float64(t, torch.device("meta"))
    assert (carried.dtype, carried.device.type) == (torch.float64, "meta")


def test_values_are_shaped_to_the_batch():
    for shape, expected in (((2, 3, 5, 7), (2, 1, 1, 1)), ((2,), (2,))):
        assert noise_process.expand_to(torch.zeros(2), torch.zeros(shape)).shape == expected


@every_process_and_zero_snr
def test_settings_come_back_through_json(process):
    assert noise_process.process_of(json.loads(json.dumps(noise_process.process_settings(process)))) == process


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (noise_process.process_of, {"name": "cosin"}, "'cosin' is not known"),
        (noise_process.process_settings, object(), "object"),
        (betas_of, RectifiedFlow(), "flow scheduler"),
    ],
)
def test_what_is_no_known_process_is_refused(make, given, message):
    with pytest.raises(InputError, match=message):
        make(given)
