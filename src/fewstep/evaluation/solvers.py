"""What people would use instead of a student: the same teacher, sampled with the stock schedulers of diffusers.

A scheduler is given the teacher's own process as betas, the trailing spacing, and clean estimates ("sample" prediction): what the
network predicts and how its branches are guided stays the denoiser's affair, so each scheduler does exactly what it does in a pipeline.
"""

import warnings
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError, nearest
from fewstep.method.conditioning import Condition
from fewstep.method.process import Process, RectifiedFlow, betas_of, expand_to, to_float64
from fewstep.models.model import Model
from fewstep.models.sampling import Samples, sample_in_batches

BASELINES = ("ddim", "dpm++", "unipc", "heun", "euler")
HIGHEST_SIGMA = 80.0  # EDM's: where Heun begins (2206.00364, table 1)


def check_baselines(names: Any) -> None:
    """Raises InputError where a name is not a baseline."""
    for name in names:
        if name not in BASELINES:
            raise InputError(f"baseline '{name}' is not known; {nearest(name, BASELINES)}, of {', '.join(BASELINES)}")


def calls_of(name: str, steps: int) -> int:
    """How often the estimate is asked in so many steps: once a step, Heun twice in all but the last."""
    return 2 * steps - 1 if name == "heun" else steps


def evaluations_of(name: str, steps: int, guidance_scale: float) -> int:
    """Evaluations of the network for an image: a guided estimate takes two."""
    return calls_of(name, steps) * (1 if guidance_scale == 1 else 2)


def steps_for(name: str, evaluations: int, guidance_scale: float) -> int:
    """The most steps that so many evaluations of the network pay for; 0 where they pay for none."""
    calls = evaluations // (1 if guidance_scale == 1 else 2)
    return (calls + 1) // 2 if name == "heun" else calls


def scheduler_for(name: str, process: Process) -> Any:
    """The stock scheduler of a baseline for this process, which takes clean estimates (a flow's own schedulers: velocities).

    "ddim" is DPM-Solver of order 1, which is DDIM; the class DDIMScheduler takes other steps than its list says where their number
    does not divide T. Euler in the sigmas is DDIM as well. Heun takes EDM's sigmas, from 80 down (2206.00364): at a terminal SNR of
    zero the trailing ones begin at 22,026, where its first correction throws samples away (measured on a mixture, rms error in 4
    steps: 36, and 0.29 so; on digits at guidance scale 3 in 8 steps, trailing from 80: 0.19, and 0.075 so).

    Raises:
        InputError: the name is not known.
    """
    check_baselines([name])
    diffusers: Any = import_module("diffusers")  # late: it is heavy, and takes each scheduler from its file when first asked
    settings: dict[str, Any] = {"prediction_type": "sample", "timestep_spacing": "trailing"}
    if isinstance(process, RectifiedFlow):
        if name in ("ddim", "euler", "heun"):
            kind = diffusers.FlowMatchHeunDiscreteScheduler if name == "heun" else diffusers.FlowMatchEulerDiscreteScheduler
            return kind(num_train_timesteps=process.train_timesteps, shift=process.shift)
        settings |= {"use_flow_sigmas": True, "flow_shift": process.shift, "num_train_timesteps": process.train_timesteps}
    else:
        betas = betas_of(process)[: kept_timesteps(process) if name == "heun" else None]
        settings |= {"num_train_timesteps": len(betas), "trained_betas": betas}
    multistep = {"solver_order": 1 if name == "ddim" else 2, "final_sigmas_type": "zero"}
    if name in ("ddim", "dpm++"):
        return diffusers.DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", **multistep, **settings)
    if name == "unipc":
        return diffusers.UniPCMultistepScheduler(**multistep, **settings)
    if name == "heun":
        return diffusers.HeunDiscreteScheduler(use_karras_sigmas=True, **settings)
    return diffusers.EulerDiscreteScheduler(**settings)


def kept_timesteps(process: Process) -> int:
    """How many of the T timesteps have sigma / alpha of at most `HIGHEST_SIGMA`; T where less than one would be left."""
    times = torch.arange(1, process.train_timesteps + 1, dtype=torch.float64) / process.train_timesteps
    alpha, sigma = process.at(times, times)
    return int((sigma <= HIGHEST_SIGMA * alpha).sum()) or process.train_timesteps


def times_of(scheduler: Any, process: Process, like: Tensor) -> Tensor:
    """The times t in (0, 1] of the scheduler's calls, in our clock, float64 (calls,)."""
    if isinstance(process, RectifiedFlow):  # some schedulers round their timesteps; their sigmas are what they use
        sigma = to_float64(scheduler.sigmas[: len(scheduler.timesteps)]).to(like.device)
        return sigma / (process.shift - (process.shift - 1) * sigma)
    return (to_float64(scheduler.timesteps) + 1).to(like.device) / process.train_timesteps


@torch.no_grad()
def solve(name: str, estimate: Any, z: Tensor, steps: int, condition: Condition, w: Tensor | None, process: Process) -> Tensor:
    """Samples (b, ...) from noise z (b, ...) by a stock scheduler and a clean estimate X(z, t, condition, w), float64.

    Raises:
        InputError: a step count for which the scheduler's grid has other than so many steps.
    """
    z = to_float64(z)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # diffusers and numpy 2: not a user's affair
        scheduler, times = prepared(name, process, steps, z)
    z = z * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep, t in zip(scheduler.timesteps, times, strict=True):
        scaled, t = scheduler.scale_model_input(z, timestep) if hasattr(scheduler, "scale_model_input") else z, t.expand(len(z))
        x = estimate(scaled, t, condition, w)
        if type(scheduler).__name__.startswith("FlowMatch"):
            x = (z - x) / expand_to(process.at(t, t)[1], z)
        z = to_float64(scheduler.step(x, timestep, z, return_dict=False)[0])
    return z


def prepared(name: str, process: Process, steps: int, like: Tensor) -> tuple[Any, Tensor]:
    """The scheduler at the start of so many steps, and the times of its calls."""
    scheduler = scheduler_for(name, process)
    limit = scheduler.config.num_train_timesteps
    if not 1 <= steps <= limit:
        raise InputError(f"steps is {steps}; the baseline '{name}' takes 1 to {limit} with this teacher")
    if isinstance(process, RectifiedFlow) and name in ("ddim", "euler"):
        scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)], device=like.device)
    else:
        scheduler.set_timesteps(steps, device=like.device)
    times = times_of(scheduler, process, like)
    if len(times) != calls_of(name, steps) or float(times.min()) <= 0:
        raise InputError(f"{type(scheduler).__name__} has no grid of {steps} steps for this process; take one more or one less")
    scheduler.set_begin_index(0)
    return scheduler, times


def sample_baseline(
    model: Model, name: str, condition: Condition, *, steps: int, guidance_scale: float, noise: Tensor, batch_size: int = 256
) -> Samples:
    """The teacher's samples for a condition (n, ...) from noise (n, c, h, w), drawn with a baseline's scheduler.

    Raises:
        InputError: an unknown baseline, steps that it does not take, or a model that is no teacher.
    """
    if model.info.kind != "teacher":
        raise InputError(f"baselines are ways to sample a teacher, and this is a {model.info.kind}; name its teacher: --against")
    estimate, weight, each = model.branches(guidance_scale)

    def draw(_images: range, rows: Condition, z: Tensor) -> Tensor:
        w = None if weight is None else torch.full((len(z),), weight, device=z.device)
        return solve(name, estimate, z, steps, rows, w, model.denoiser.process)

    samples, seconds = sample_in_batches(draw, (noise,), condition, batch_size=batch_size, device=model.denoiser.device)
    return Samples(noise, samples, steps, name, calls_of(name, steps) * each, seconds, model.decode)
