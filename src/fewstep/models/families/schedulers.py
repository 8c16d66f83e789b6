"""Schedulers of diffusers and our processes: which process a teacher's config means, and which scheduler a student carries."""

import math
import warnings
from typing import Any, Literal, cast

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from fewstep.errors import InputError, first_line
from fewstep.method.parameterization import FLOW, Prediction, prediction_of
from fewstep.method.process import DiscreteBetas, Process, RectifiedFlow, betas_of
from fewstep.models.families.pipeline_folder import quiet

NO_SIGNAL = 1e-9  # alpha^2 at t = 1 below which eps says nothing of x
SAME_ALPHAS = 1e-6  # largest difference of alpha^2 that counts as none; some classes put 6e-8 in the place of a terminal zero
SAME_TIMES = (
    2.5  # largest difference of a flow's times, in training timesteps: stock schedulers round them and begin a step below 1
)
BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")  # with all of them a config needs no class to be read


def process_of_scheduler(config: dict[str, Any], tokens: int | None = None) -> tuple[Process, Prediction]:
    """The noise process and prediction of a scheduler's config, read from the stock scheduler that diffusers makes of it.

    What the config leaves out is the default of its own class. `tokens` of an image decide a dynamic shift.

    Raises:
        InputError: no process that we know, continuous times, or eps at a terminal SNR of zero.
    """
    stock, name = stock_scheduler(config), config["_class_name"]
    known, alphas = dict(stock.config), getattr(stock, "alphas_cumprod", None)
    if name.startswith("FlowMatch") or known.get("use_flow_sigmas"):
        return _flow(name, stock, known, tokens), FLOW
    if known.get("timestep_type") == "continuous" or (alphas is None and "sigma_max" in known):
        raise InputError(
            f"{name} gives the network continuous times, functions of sigma (EDM, CosXL, SVD), and only 0 to T - 1 and flows are known "
            "here; name a teacher with discrete times"
        )
    if not isinstance(alphas, Tensor):
        raise InputError(
            f"{name} has no noise process that is known; known: schedulers with betas (DDIM, DDPM, PNDM, Euler, DPM-Solver, UniPC, ...) "
            "and FlowMatch ones: put the one that the teacher was trained with into its folder"
        )
    prediction = prediction_of(known.get("prediction_type", "epsilon"))
    if prediction is FLOW:
        raise InputError(f"{name}: prediction_type flow_prediction is of a flow, and it has betas; set use_flow_sigmas to true")
    process = DiscreteBetas(_betas(stock, alphas.double()))
    if prediction.name == "eps" and math.prod(1 - beta for beta in process.betas) < NO_SIGNAL:
        raise InputError(
            f"{name}: epsilon at a terminal SNR of zero says nothing of the image; its prediction_type must be another"
        )
    return process, prediction


def stock_scheduler(config: dict[str, Any]) -> Any:
    """The scheduler of the class that the config names; DDIM where that needs a package which is not here and the config has all betas.

    Raises:
        InputError: the class is none of diffusers, or makes nothing of the config.
    """
    import diffusers

    name = config.get("_class_name")
    kind = getattr(diffusers, str(name), None)
    if not isinstance(kind, type) or not hasattr(kind, "from_config"):
        raise InputError(
            f"the scheduler's _class_name is {name!r}, none of diffusers {diffusers.__version__}; name one of its classes"
        )
    try:
        with quiet(), warnings.catch_warnings(action="ignore"):  # of how diffusers itself uses numpy
            return kind.from_config(config)
    except ImportError as error:
        if not set(BETAS) <= set(config):
            raise InputError(f"{name} cannot be read: {first_line(error)}; install that, or write {', '.join(BETAS)} out") from None
        return stock_scheduler({**config, "_class_name": "DDIMScheduler"})
    except Exception as error:  # whatever a class raises of values that it does not know
        raise InputError(f"{name} cannot be made from its config: {first_line(error)}; copy scheduler_config.json again") from None


def _betas(stock: Any, alphas: Tensor) -> tuple[float, ...]:
    """The betas of a stock scheduler; those of its alphas^2 where it has moved them (CogVideoX)."""
    betas = stock.betas.double()
    if (torch.cumprod(1 - betas, 0) - alphas).abs().max() > SAME_ALPHAS:
        betas = 1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]])
    return tuple(betas.tolist())


def _flow(name: str, stock: Any, known: dict[str, Any], tokens: int | None) -> RectifiedFlow:
    """The flow of a stock scheduler, compared with the scheduler's own sigmas and times at t = 1, 1 - 1/T, ..., 1/T."""
    if known.get("prediction_type", "flow_prediction") != "flow_prediction":
        raise InputError(f"{name}: use_flow_sigmas goes with prediction_type flow_prediction, not with {known['prediction_type']}")
    if known.get("invert_sigmas"):
        raise InputError(f"{name}: a flow whose time runs the other way (invert_sigmas) is not known here; name another teacher")
    steps, exponential = known["num_train_timesteps"], known.get("time_shift_type", "exponential") == "exponential"
    mu = _mu(known, tokens) if known.get("use_dynamic_shifting") else None
    shift = float(known.get("shift", known.get("flow_shift", 1.0))) if mu is None else math.exp(mu) if exponential else mu
    process, t = RectifiedFlow(shift, steps), torch.arange(steps, 0, -1).double() / steps
    try:
        if known.get("use_flow_sigmas"):  # its sigmas are those of betas until then; where sampling ends is not part of the process
            stock.register_to_config(shift_terminal=None)
            with warnings.catch_warnings(action="ignore"):  # of how diffusers itself uses numpy
                stock.set_timesteps(steps, **({} if mu is None else {"mu": mu}))
        sigmas = stock.sigmas[:steps].double()
        rounded = (stock.timesteps - steps * sigmas).abs().max()
        sigmas = sigmas if mu is None or known.get("use_flow_sigmas") else stock.time_shift(mu, 1.0, sigmas)
        apart = float(torch.maximum(rounded, steps * (sigmas / (shift - (shift - 1) * sigmas) - t).abs().max()))
    except Exception:  # whatever a class of another kind of flow (Helios: in stages) raises when it is asked for plain steps
        raise InputError(
            f"{name} gives no sigmas for plain steps, so it is no rectified flow; name a teacher with a FlowMatch one"
        ) from None
    if not apart < SAME_TIMES:
        raise InputError(
            f"{name} has other sigmas or times than a rectified flow of shift {shift:g} (by {apart:.2g} of {steps} times); name another teacher"
        )
    return process


def _mu(known: dict[str, Any], tokens: int | None) -> float:
    if tokens is None:
        raise InputError("use_dynamic_shifting needs the size of the image; write a fixed shift into the scheduler's config")
    first, last = known.get("base_image_seq_len", 256), known.get("max_image_seq_len", 4096)
    low, high = known.get("base_shift", 0.5), known.get("max_shift", 1.15)
    return low + (high - low) * (tokens - first) / (last - first)


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
