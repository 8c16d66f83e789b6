"""Baselines on a teacher known in closed form: each goes to the solution, at its order, at its cost, and DDIM is DDIM."""

from functools import cache

import pytest
import torch

from fewstep import open_model
from fewstep.errors import InputError
from fewstep.evaluation import solvers as baselines
from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.process import Cosine, DiscreteBetas, RectifiedFlow
from fewstep.method.samplers import deterministic
from fewstep.models.families.class_conditional import stock_loop
from fewstep.models.families.schedulers import scheduler_of

COSINE = Cosine()
LINEAR = DiscreteBetas(tuple(torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64).tolist()))
FLOW = RectifiedFlow(3.0)
RING = Mixture.ring(6, 2)


def noise(n=64):
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return z, torch.arange(n) % 2, torch.full((n,), 1.0, dtype=torch.float64)


@cache
def truth(process):
    """Where the probability flow takes that noise."""
    z, labels, w = noise()
    return RING.flow(z, torch.ones_like(w), torch.zeros_like(w), labels, w, process)


@cache
def error(name, process, steps):
    """Rms distance from there."""
    z, labels, w = noise()
    x = baselines.solve(name, RING.denoiser(process), z, steps, labels, w, process)
    assert x.isfinite().all()
    return float((x - truth(process)).square().mean().sqrt())


@pytest.mark.parametrize("process", [COSINE, LINEAR, FLOW], ids=["zero terminal SNR", "linear betas", "flow"])
@pytest.mark.parametrize("name", baselines.BASELINES)
def test_every_baseline_goes_to_the_solution_and_few_steps_are_finite(name, process):
    few, many = error(name, process, 8), error(name, process, 128)
    assert many < 0.02
    assert many < few / 4
    assert process is not COSINE or all(error(name, process, steps) < 2 for steps in (1, 2, 3, 5, 16))


@pytest.mark.parametrize(("name", "gain"), [("dpm++", 2.2), ("unipc", 2.2), ("heun", 3.0)])
def test_second_order_gains_more_from_twice_the_steps_than_ddim_and_is_nearer(name, gain):
    """The multistep solvers gain less than four here: their first step, from where sigma is 22,026, and their last are of order 1."""
    assert error(name, COSINE, 128) < error(name, COSINE, 64) / gain
    assert error(name, COSINE, 64) < error("ddim", COSINE, 64) / 3
    assert error("ddim", COSINE, 128) > error("ddim", COSINE, 64) / 2.1


@pytest.mark.parametrize("process", [COSINE, LINEAR], ids=["cosine", "linear"])
@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_ddim_and_euler_are_the_sampler_of_ours(name, process):
    z, labels, w = noise()
    for steps in (1, 4, 8):  # 8 divides 1000, so that all grids are of stock timesteps
        ours = deterministic(RING.denoiser(process), z, steps, labels, w, process)
        x = baselines.solve(name, RING.denoiser(process), z, steps, labels, w, process)
        # a noise process that ends above zero SNR: Euler starts with sigma itself, not (sigma^2 + 1)^(1/2)
        torch.testing.assert_close(x, ours, rtol=0, atol=1e-3 if process is COSINE or name == "ddim" else 0.02)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
def test_clean_estimates_give_what_the_networks_own_prediction_gives_in_a_stock_pipeline(teacher_folder):
    from diffusers import DPMSolverMultistepScheduler

    model = open_model(teacher_folder)
    z, labels = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 3, 9])
    config = scheduler_of(model.denoiser.process, model.denoiser.predicts).config
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=config.num_train_timesteps, trained_betas=config.trained_betas, prediction_type="v_prediction",
        solver_order=2, algorithm_type="dpmsolver++", final_sigmas_type="zero", timestep_spacing="trailing",
    )  # fmt: skip
    stock = stock_loop(model.denoiser.network, scheduler, z, 8, labels, None)
    ours = baselines.sample_baseline(model, "dpm++", labels, steps=8, guidance_scale=1.0, noise=z).samples
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", baselines.BASELINES)
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_evaluations_are_those_that_the_network_makes(teacher_folder, name, scale):
    model, seen = open_model(teacher_folder), []
    model.denoiser.network.register_forward_pre_hook(lambda network, arguments: seen.append(len(arguments[0])))
    z, labels = torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 3])
    drawn = baselines.sample_baseline(model, name, labels, steps=5, guidance_scale=scale, noise=z)
    assert sum(seen) == 3 * drawn.evaluations
    assert len(seen) == (9 if name == "heun" else 5)  # one batched call of both branches
    assert drawn.samples.shape == z.shape


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_steps_fill_the_budget_and_never_exceed_it(name):
    for scale in (1.0, 3.0):
        assert baselines.steps_for(name, 0, scale) == 0
        for budget in range(2, 40):
            steps = baselines.steps_for(name, budget, scale)
            assert baselines.evaluations_of(name, steps, scale) <= budget
            assert baselines.evaluations_of(name, steps + 1, scale) > budget


def test_bad_input(teacher_folder):
    model, z, labels = open_model(teacher_folder), torch.randn(2, 1, 8, 8), torch.tensor([0, 1])
    with pytest.raises(InputError, match=r"'dpmpp' is not known.*ddim, dpm\+\+, unipc, heun, euler"):
        baselines.sample_baseline(model, "dpmpp", labels, steps=4, guidance_scale=1.0, noise=z)
    for steps in (0, 2000):
        with pytest.raises(InputError, match=f"steps is {steps}; the baseline 'ddim' takes 1 to 1024"):
            baselines.sample_baseline(model, "ddim", labels, steps=steps, guidance_scale=1.0, noise=z)
    student = type(model)(model.denoiser, model.info.model_copy(update={"kind": "student"}), model.family)
    with pytest.raises(InputError, match="name its teacher: --against"):
        baselines.sample_baseline(student, "ddim", labels, steps=4, guidance_scale=1.0, noise=z)
