"""Noise processes: end points, monotone noise, the stock schedulers' very numbers, and steps that undo or compose."""

import json
import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.errors import InputError
from fewstep.method.process import (
    Cosine,
    RectifiedFlow,
    add_noise,
    betas_of,
    ddim_step,
    expand_to,
    log_snr,
    process_of,
    process_settings,
    renoise,
    time_grid,
)
from fewstep.models.families.schedulers import process_of_scheduler
from processes import randn


def process_of_stock(scheduler):
    """The process that is read from a scheduler as a folder holds it."""
    return process_of_scheduler({**scheduler.config, "_class_name": type(scheduler).__name__})[0]


STABLE_DIFFUSION_CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
SCHEDULERS = {
    "stable diffusion": DDIMScheduler(**STABLE_DIFFUSION_CONFIG),
    "ddpm": DDPMScheduler(num_train_timesteps=1000),
    "stable diffusion, pndm": PNDMScheduler(**STABLE_DIFFUSION_CONFIG),
    "stable diffusion, euler": EulerDiscreteScheduler(**STABLE_DIFFUSION_CONFIG),
    "zero terminal snr": DDIMScheduler(**STABLE_DIFFUSION_CONFIG, rescale_betas_zero_snr=True, prediction_type="sample"),
    "squared cosine": DDIMScheduler(beta_schedule="squaredcos_cap_v2"),
    "trained betas": DDIMScheduler(num_train_timesteps=7, trained_betas=[0.1, 0.2, 0.1, 0.4, 0.3, 0.6, 0.9]),
}
STABLE_DIFFUSION = process_of_stock(SCHEDULERS["stable diffusion"])
ZERO_SNR = process_of_stock(SCHEDULERS["zero terminal snr"])
PROCESSES = [Cosine(), STABLE_DIFFUSION, ZERO_SNR, RectifiedFlow(), RectifiedFlow(shift=3.0)]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=["cosine", "sd", "zero snr", "flow", "flow shift 3"])
times = st.floats(0.01, 0.99)


def alpha_sigma(process, *t: float) -> tuple[torch.Tensor, torch.Tensor]:
    moments = torch.tensor(t, dtype=torch.float64)
    return process.at(moments, moments)


@pytest.mark.parametrize("process", PROCESSES[:3])
@settings(deadline=None, max_examples=20)
@given(t=st.floats(0, 1))
def test_variance_is_preserved_at_every_time(process, t):
    alpha, sigma = alpha_sigma(process, t)
    assert float(alpha**2 + sigma**2) == pytest.approx(1, abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(t=st.floats(0, 1), shift=st.floats(0.5, 8))
def test_rectified_flow_is_a_straight_line_from_data_to_noise(t, shift):
    alpha, sigma = alpha_sigma(RectifiedFlow(shift), t)
    assert float(alpha + sigma) == pytest.approx(1, abs=1e-12)
    assert -1e-12 <= float(sigma) <= 1 + 1e-12


@every_process
def test_log_snr_falls_all_the_way(process):
    falls = log_snr(torch.linspace(0, 1, 3001, dtype=torch.float64), process).diff()
    assert (falls < 0).all()


@every_process
@settings(deadline=None, max_examples=20)
@given(pair=st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda p: abs(p[0] - p[1]) > 1e-5))
def test_log_snr_falls_between_any_two_times(process, pair):
    early, late = log_snr(torch.tensor(sorted(pair), dtype=torch.float64), process)
    assert early > late


def test_end_points():
    ends = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(log_snr(ends, Cosine()), torch.tensor([20.0, -20.0]).double())
    torch.testing.assert_close(log_snr(ends, Cosine(log_snr=(15, -12))), torch.tensor([15.0, -12.0]).double())
    for process in (RectifiedFlow(), RectifiedFlow(shift=3.0), ZERO_SNR):
        torch.testing.assert_close(torch.stack(alpha_sigma(process, 0, 1)), torch.eye(2).double(), rtol=0, atol=1e-15)
    alpha, sigma = alpha_sigma(STABLE_DIFFUSION, 0, 1)
    assert (float(alpha[0]), float(sigma[0])) == (1, 0)
    assert float(alpha[1] ** 2) == pytest.approx(0.00466, abs=1e-5)  # the signal that Stable Diffusion's last step still holds


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_discrete_betas_has_the_alphas_of_the_scheduler(scheduler):
    steps = scheduler.config["num_train_timesteps"]
    process = process_of_stock(scheduler)
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    assert process.train_timesteps == steps
    torch.testing.assert_close(process.at(t, t)[0] ** 2, scheduler.alphas_cumprod.double(), rtol=2e-5, atol=1e-7)


def test_stock_scheduler_with_the_betas_of_cosine_is_cosine_at_every_timestep():
    scheduler = DDIMScheduler(num_train_timesteps=1024, trained_betas=betas_of(Cosine()))
    t = torch.arange(1, 1025, dtype=torch.float64) / 1024
    torch.testing.assert_close(scheduler.alphas_cumprod.double().sqrt(), Cosine().at(t, t)[0], rtol=1e-4, atol=1e-7)


def test_betas_come_back():
    torch.testing.assert_close(torch.tensor(betas_of(STABLE_DIFFUSION)), torch.tensor(STABLE_DIFFUSION.betas))


@pytest.mark.parametrize(("process", "grids"), [(Cosine(), (1, 2, 4, 8, 16, 64)), (STABLE_DIFFUSION, (1, 2, 4, 5, 8, 10, 20, 50))])
def test_network_time_on_a_grid_is_the_integer_of_the_stock_scheduler(process, grids):
    scheduler = DDIMScheduler(
        num_train_timesteps=process.train_timesteps, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False
    )
    for steps in grids:
        scheduler.set_timesteps(steps)
        assert process.network_time(time_grid(steps)[:-1]).tolist() == scheduler.timesteps.tolist()


def test_network_time_of_stable_diffusion_in_four_steps():
    assert STABLE_DIFFUSION.network_time(time_grid(4)).tolist() == [999, 749, 499, 249, 0]


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


def test_time_grid_of_no_steps_is_refused():
    with pytest.raises(InputError, match="steps is 0"):
        time_grid(0)


@every_process
@settings(deadline=None, max_examples=20)
@given(t=times, s=times)
def test_ddim_there_and_back_returns_the_input(process, t, s):
    z, x, t, s = randn(2, 3, 5, 7), randn(2, 3, 5, 7, seed=1), torch.tensor([t, s]), torch.tensor([s, t])
    torch.testing.assert_close(ddim_step(ddim_step(z, x, t, s, process), x, s, t, process), z, rtol=1e-7, atol=1e-7)


@every_process
@settings(deadline=None, max_examples=20)
@given(t=times, s=st.floats(0, 1))
def test_ddim_with_the_true_data_keeps_the_noise(process, t, s):
    x, eps, t, s = randn(2, 3, 5, 7), randn(2, 3, 5, 7, seed=1), torch.tensor([t, 0.5]), torch.tensor([s, s])
    torch.testing.assert_close(ddim_step(add_noise(x, eps, t, process), x, t, s, process), add_noise(x, eps, s, process))


@every_process
@settings(deadline=None, max_examples=20)
@given(pair=st.tuples(st.floats(0, 0.999), st.floats(0, 1)))
def test_renoise_composes_to_the_noise_of_the_process(process, pair):
    s, t = (torch.tensor([v, v, v], dtype=torch.float64) for v in (pair[0], max(pair)))
    # three sources kept apart: data, the noise up to s, the noise from s to t; squares are their shares of the variance
    sources = torch.eye(3).double()[:, :, None].expand(3, 3, 5)
    z = renoise(
        add_noise(sources[0].expand(3, 3, 5), sources[1].expand(3, 3, 5), s, process), sources[2].expand(3, 3, 5), s, t, process
    )
    data, first, second = z[0, :, 0]
    alpha, sigma = alpha_sigma(process, float(t[0]))
    assert float(data) == pytest.approx(float(alpha), abs=1e-9)
    assert math.hypot(float(first), float(second)) == pytest.approx(float(sigma), abs=1e-9)


@every_process
def test_renoise_in_two_steps_has_the_variance_of_one(process):
    z, s, middle, t = torch.zeros(2, 3), torch.tensor([0.0, 0.3]), torch.tensor([0.4, 0.6]), torch.tensor([0.9, 1.0])
    once = renoise(z, torch.ones(2, 3), s, t, process)
    first = renoise(renoise(z, torch.ones(2, 3), s, middle, process), torch.zeros(2, 3), middle, t, process)
    second = renoise(z, torch.ones(2, 3), middle, t, process)
    torch.testing.assert_close(torch.hypot(first, second), once)


@every_process
def test_renoise_by_nothing_and_ddim_by_nothing_change_nothing(process):
    z, t = randn(3, 5), torch.tensor([0.2, 0.5, 0.99])
    torch.testing.assert_close(renoise(z, randn(3, 5, seed=1), t, t, process), z, rtol=0, atol=1e-7)
    torch.testing.assert_close(ddim_step(z, randn(3, 5, seed=1), t, t, process), z)


@every_process
def test_times_belong_to_the_batch_even_where_every_size_is_the_same(process):
    z, x, t, s = randn(3, 3, 3), randn(3, 3, 3, seed=1), torch.tensor([0.3, 0.6, 0.9]), torch.tensor([0.1, 0.5, 0.2])
    for step in (
        lambda z, x, t, s: ddim_step(z, x, t, s, process),
        lambda z, x, t, s: renoise(z, x, s, t, process),
        lambda z, x, t, s: add_noise(z, x, t, process),
    ):
        one_by_one = torch.cat([step(z[i : i + 1], x[i : i + 1], t[i : i + 1], s[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(step(z, x, t, s), one_by_one, rtol=1e-13, atol=1e-13)


def test_match_shapes_to_the_batch():
    assert expand_to(torch.zeros(2), torch.zeros(2, 3, 5, 7)).shape == (2, 1, 1, 1)
    assert expand_to(torch.zeros(2), torch.zeros(2)).shape == (2,)


@every_process
def test_a_process_is_float64_whatever_the_network_is(process):
    z, t = torch.zeros(2, 3, dtype=torch.bfloat16), torch.tensor([0.25, 0.5])
    assert {v.dtype for v in process.at(t, z)} == {torch.float64}
    assert ddim_step(z, z, t, t / 2, process).dtype == torch.float64
    assert process.network_time(t).dtype == torch.float32


@every_process
def test_settings_come_back_through_json(process):
    assert process_of(json.loads(json.dumps(process_settings(process)))) == process


def test_unknown_processes_are_refused():
    with pytest.raises(InputError, match="'cosin' is not known"):
        process_of({"name": "cosin"})
    with pytest.raises(InputError, match="object"):
        process_settings(object())  # type: ignore[arg-type]


def test_a_flow_has_no_betas():
    with pytest.raises(InputError, match="flow scheduler"):
        betas_of(RectifiedFlow())


def test_the_widest_type_is_the_devices_own():
    from fewstep.method.process import to_float64, widest_float

    assert widest_float(torch.device("cpu")) == torch.float64 and widest_float(torch.device("cuda", 1)) == torch.float64
    assert widest_float(torch.device("mps")) == torch.float32
    assert to_float64(torch.ones(2)).dtype == torch.float64
    assert to_float64(torch.ones(2), torch.device("meta")).device.type == "meta"
