"""Schedulers of diffusers and our processes: which process a teacher's config means, and which scheduler a student carries."""

import math
from typing import Any, Literal, cast

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from fewstep.errors import InputError
from fewstep.method.parameterization import FLOW, Prediction, prediction_of
from fewstep.method.process import DiscreteBetas, Process, RectifiedFlow, betas_of

NO_SIGNAL = 1e-9  # alpha^2 at t = 1 below which eps says nothing of x


def process_of_scheduler(config: dict[str, Any], tokens: int | None = None) -> tuple[Process, Prediction]:
    """The noise process and prediction that a scheduler's config means; `tokens` of an image decide a dynamic shift.

    Raises:
        InputError: no process that we know, or eps at a terminal SNR of zero.
    """
    name = config.get("_class_name", "this scheduler")
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas"):
        return RectifiedFlow(_shift(config, tokens), config.get("num_train_timesteps", 1000)), FLOW
    if not {"beta_schedule", "trained_betas"} & set(config):
        raise InputError(
            f"{name} has no noise process that is known; known: schedulers with betas (DDIM, DDPM, PNDM, Euler, DPM-Solver, UniPC, ...) "
            "and FlowMatch ones: put the one that the teacher was trained with into its folder"
        )
    process, prediction = discrete_betas(config), prediction_of(config.get("prediction_type", "epsilon"))
    if prediction.name == "eps" and math.prod(1 - beta for beta in process.betas) < NO_SIGNAL:
        raise InputError(
            f"{name}: epsilon at a terminal SNR of zero says nothing of the image; its prediction_type must be another"
        )
    return process, prediction


def _shift(config: dict[str, Any], tokens: int | None) -> float:
    if not config.get("use_dynamic_shifting"):
        return float(config.get("shift", config.get("flow_shift", 1.0)))
    if tokens is None:
        raise InputError("use_dynamic_shifting needs the size of the image; write a fixed shift into the scheduler's config")
    first, last = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = low + (high - low) * (tokens - first) / (last - first)
    return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu


def scheduler_of(process: Process, prediction: Prediction) -> Any:
    """The stock scheduler with the process's alphas at every t = n / T and the grid of our samplers, everything written out."""
    if isinstance(process, RectifiedFlow):
        return FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=process.train_timesteps, shift=process.shift, use_dynamic_shifting=False
        )
    return DDIMScheduler(
        num_train_timesteps=process.train_timesteps,
        trained_betas=betas_of(process),
        prediction_type=cast(Literal["epsilon", "sample", "v_prediction"], prediction.diffusers_name),
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
        thresholding=False,
        steps_offset=1,
        rescale_betas_zero_snr=False,  # the betas are the process's own, terminal one included
    )


def discrete_betas(config: dict[str, Any]) -> DiscreteBetas:
    """The process of any diffusers scheduler config that has betas (DDPM, DDIM, PNDM, DPM-Solver, Euler, ...).

    Raises:
        InputError: the config has no betas, is one of a flow, or names a schedule that DDIM does not know.
    """
    name = config.get("_class_name", "this scheduler")
    flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if flow or not {"beta_schedule", "trained_betas"} & set(config):
        raise InputError(f"{name} has no betas, so its process is not one of discrete betas; for a flow name RectifiedFlow(shift)")
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
    try:
        scheduler = DDIMScheduler(**{key: config[key] for key in keys if config.get(key) is not None})
    except NotImplementedError as error:
        raise InputError(f"{name}: {error}; known: linear, scaled_linear, squaredcos_cap_v2, trained_betas") from None
    return DiscreteBetas(tuple(scheduler.betas.double().tolist()))
