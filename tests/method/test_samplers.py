"""Samplers: N steps are N evaluations at the times that training taught, and they converge to what is known."""

import itertools
import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from fewstep.errors import InputError
from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.parameterization import EPS, FLOW
from fewstep.method.process import Cosine, RectifiedFlow, add_noise
from fewstep.method.samplers import deterministic, encode, stochastic
from fewstep.method.stage_two import encoder_path, forward_path, stochastic_path
from processes import STABLE_DIFFUSION, Counted, every_process, randn

every_count = pytest.mark.parametrize("steps", [1, 2, 3, 7, 16])
RING = Mixture.ring(components=7, classes=3)


def fresh(seed: int):
    """A function that gives the next noise of a generator of this seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, dtype=like.dtype, generator=generator)


def assert_asked(denoiser, path, indices, steps, w):
    """Exactly one evaluation for each index, at the very time, to the bit, at which the rung's student is trained."""
    assert len(denoiser.times) == len(indices)
    for asked, i in zip(denoiser.times, indices, strict=True):
        for k in (2, 3):
            assert asked.equal(path(torch.full((5,), i), steps, k)[0])
    assert all(given is w for given in denoiser.weights)


@every_process
@every_count
@pytest.mark.parametrize(
    ("sampler", "path"), [(deterministic, forward_path), (stochastic, stochastic_path), (encode, encoder_path)]
)
def test_a_sampler_asks_once_a_step_at_the_times_of_training(sampler, path, process, steps):
    denoiser, w = Counted(RING.denoiser(process)), torch.ones(5)
    x = sampler(denoiser, randn(5, 2), steps, torch.arange(5) % 3, w, process)
    assert_asked(denoiser, path, range(steps) if sampler is encode else range(steps, 0, -1), steps, w)
    assert (x.shape, x.dtype) == ((5, 2), torch.float64)


@pytest.mark.parametrize("start", [1, 2, 5, 7])
@pytest.mark.parametrize(("sampler", "path"), [(deterministic, forward_path), (stochastic, stochastic_path)])
def test_a_later_start_takes_as_many_evaluations_as_are_left(sampler, path, start):
    denoiser, w = Counted(RING.denoiser(Cosine())), torch.ones(5)
    sampler(denoiser, randn(5, 2), 7, torch.arange(5) % 3, w, Cosine(), start=start)
    assert_asked(denoiser, path, range(start, 0, -1), 7, w)


def test_the_sample_is_the_last_estimate():
    answers = iter(randn(4, 5, 2))
    assert deterministic(lambda *_: next(answers), randn(5, 2), 4, None, None, Cosine()).equal(randn(4, 5, 2)[-1])
    assert stochastic(lambda *_: randn(5, 2, seed=3), randn(5, 2), 4, None, None, Cosine()).equal(randn(5, 2, seed=3))


@pytest.mark.parametrize("sampler", [deterministic, stochastic, encode])
def test_no_steps_are_refused(sampler):
    with pytest.raises(InputError, match="steps is 0"):
        sampler(RING.denoiser(Cosine()), randn(2, 2), 0, torch.zeros(2).long(), None, Cosine())


@pytest.mark.parametrize("start", [0, -1, 5])
@pytest.mark.parametrize("sampler", [deterministic, stochastic])
def test_a_start_outside_the_grid_is_refused(sampler, start):
    with pytest.raises(InputError, match=f"start is {start}; give 1 to 4"):
        sampler(RING.denoiser(Cosine()), randn(2, 2), 4, torch.zeros(2).long(), None, Cosine(), start=start)


@every_process
def test_ddim_converges_to_the_true_solution_with_order_one(process):
    z, labels, w = randn(40, 2), torch.arange(40) % 4, torch.linspace(0, 3, 40)
    truth = RING.flow(z, torch.ones(40), torch.zeros(40), labels, w, process, steps=128)
    counts = (64, 128, 256)
    errors = [float((deterministic(RING.denoiser(process), z, n, labels, w, process) - truth).norm(dim=1).mean()) for n in counts]
    assert errors[-1] < 0.03
    # Stable Diffusion's sigma grows like the root of t at first, which costs a logarithm
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(1, abs=0.3 if process is STABLE_DIFFUSION else 0.2)


def test_an_edit_from_the_middle_converges_to_the_true_solution_from_there():
    process, labels, w = Cosine(), torch.arange(20) % 3, torch.full((20,), 2.0)
    x, _ = RING.sample(20, torch.Generator().manual_seed(0))
    t = torch.full((20,), 0.5)
    z = add_noise(x, randn(20, 2), t, process)
    truth = RING.flow(z, t, torch.zeros(20), labels, w, process, steps=128)
    assert (deterministic(RING.denoiser(process), z, 256, labels, w, process, start=128) - truth).norm(dim=1).mean() < 0.01


@every_process
@pytest.mark.parametrize("steps", [1, 3])
def test_perfect_students_sample_and_encode_exactly(process, steps):
    z, labels, w = randn(12, 2), torch.arange(12) % 4, torch.linspace(0, 3, 12)
    decoder = RING.perfect_student(process, lambda t: t - 1 / steps)
    encoder = RING.perfect_student(process, lambda t: torch.round(t * steps + 1) / steps)
    x = deterministic(decoder, z, steps, labels, w, process)
    truth = RING.flow(z, torch.ones(12), torch.zeros(12), labels, w, process)
    torch.testing.assert_close(x, truth, rtol=0, atol=3e-4)  # sigma at t = 0 is 4.5e-5 on a cosine process
    data, classes = RING.sample(12, torch.Generator().manual_seed(0))
    code = encode(encoder, data, steps, classes, None, process)
    torch.testing.assert_close(deterministic(decoder, code, steps, classes, None, process), data, rtol=0, atol=3e-4)


@every_process
def test_encode_then_decode_returns_the_input_in_many_steps(process):
    x, labels = RING.sample(20, torch.Generator().manual_seed(0))
    denoiser, distances = RING.denoiser(process), []
    for steps in (50, 200):
        code = encode(denoiser, x, steps, labels, torch.zeros(20), process)
        distances.append(float((deterministic(denoiser, code, steps, labels, torch.zeros(20), process) - x).norm(dim=1).mean()))
    assert distances[1] < min(0.05, distances[0] / 2.5)  # four times the steps


@every_process
@pytest.mark.parametrize(("steps", "start"), [(1, 1), (2, 2), (4, 4), (4, 3), (4, 2), (4, 1)])
def test_stochastic_sampler_with_an_exact_jump_keeps_the_marginal_from_any_start(process, steps, start):
    mean, std, n = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0]).double(), 0.5, 3000
    alpha, sigma = process.at(torch.full((n,), start / steps), torch.empty(n, 5))
    z = alpha * mean + torch.hypot(alpha * std, sigma) * randn(n, 5)
    jump = Mixture.gaussian(mean, std).perfect_student(process, lambda t: (t - 2 / steps).clamp(min=0), steps=16)
    x = stochastic(jump, z, steps, torch.zeros(n).long(), None, process, fresh(2), start)
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=4 * std / math.sqrt(n))
    assert float((x - mean).std()) == pytest.approx(std, abs=4 * std / math.sqrt(2 * 5 * n))


def test_stochastic_sampler_with_a_jump_of_half_the_length_does_not_keep_the_marginal():
    process, n = Cosine(), 3000
    student = Mixture.gaussian(torch.zeros(5), 0.5).perfect_student(process, lambda t: t - 1 / 4, steps=16)
    x = stochastic(student, randn(n, 5), 4, torch.zeros(n).long(), None, process, fresh(2))
    assert abs(float(x.std()) - 0.5) > 0.02


def test_stochastic_sampler_takes_all_its_noise_from_the_function_that_it_is_given():
    def draw(seed):
        return stochastic(RING.denoiser(Cosine()), randn(5, 2), 4, torch.arange(5) % 3, None, Cosine(), fresh(seed))

    assert draw(0).equal(draw(0))
    assert not draw(0).equal(draw(1))


BETAS, FLOW_PROCESS = list(STABLE_DIFFUSION.betas), RectifiedFlow(shift=3.0)
DDIM = DDIMScheduler(trained_betas=BETAS, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False)


@pytest.mark.parametrize("steps", [1, 2, 4, 5])
@pytest.mark.parametrize(
    ("process", "prediction", "scheduler"),
    [(STABLE_DIFFUSION, EPS, DDIM), (FLOW_PROCESS, FLOW, FlowMatchEulerDiscreteScheduler(shift=3.0))],
)
def test_deterministic_is_the_loop_of_the_stock_scheduler(process, prediction, scheduler, steps):
    labels, w = torch.arange(7) % 3, torch.linspace(0, 3, 7)
    scheduler.set_timesteps(
        **{"num_inference_steps": steps} if scheduler is DDIM else {"sigmas": torch.linspace(1, 1 / steps, steps).tolist()}
    )
    z = stock = randn(7, 2)
    for i, timestep in enumerate(scheduler.timesteps):
        t = torch.full((7,), 1 - i / steps, dtype=torch.float64)
        output = prediction.from_x(RING.denoiser(process)(stock, t, labels, w), stock, *process.at(t, stock))
        stock = scheduler.step(output, timestep, stock).prev_sample.double()
    ours = deterministic(RING.denoiser(process), z, steps, labels, w, process)
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)
