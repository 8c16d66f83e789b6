"""Flows whose stock pipeline would visit other times than our samplers do, and the scheduler by which it visits ours.

With a shift of 3 and N = 4 Stable Diffusion 3's own grid is 1, .8577, .6022, .0089, where ours is 1, .9, .75, .5: its last step is wasted. A
scheduler with another shift and a `shift_terminal` visits ours, for one N: a student's folder has that scheduler, so that
`num_inference_steps=N` alone is right.
"""

import math
from pathlib import Path
from typing import Any

from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import nn

from fewstep.method.parameterization import Prediction
from fewstep.method.process import Process, RectifiedFlow, process_of, time_grid
from fewstep.models.families.diffusers_family import DiffusersFamily
from fewstep.models.metadata import read_info

EXACT = 1e-5  # largest difference of a stock scheduler's sigmas from ours that counts as none


class FlowGrid(DiffusersFamily):
    """The part of `Family` that follows from a folder's `fewstep.json`, which names the steps that its scheduler is for."""

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write the whole pipeline, its scheduler that of the steps which the student in this folder is for."""
        super().write(network, process, prediction, folder)
        steps = read_info(folder).steps
        if steps is not None:
            assert isinstance(process, RectifiedFlow)
            (scheduler_for(process, steps) or self.scheduler(process, prediction)).save_pretrained(folder / "scheduler")

    def stock_settings(self, folder: Path, pipeline: Any, steps: int) -> dict[str, Any]:
        """The number of steps; where the folder is for any number, with the scheduler for so many."""
        process = process_of(read_info(folder).process)
        assert isinstance(process, RectifiedFlow)
        if not same_grid(pipeline.scheduler, process, steps):
            pipeline.scheduler = scheduler_for(process, steps) or pipeline.scheduler
        return super().stock_settings(folder, pipeline, steps)


def scheduler_for(process: RectifiedFlow, steps: int) -> FlowMatchEulerDiscreteScheduler | None:
    """The stock scheduler that visits t = 1, 1 - 1/N, ..., 1/N by `num_inference_steps=N` alone; None where there is none.

    The stock grid is u = linspace(1, sigma_min, N), then s'u / (1 + (s' - 1) u), then 1 - sigma stretched so that the last is
    `shift_terminal`. All of these fix sigma = 1 and map straight lines of t projectively, as our shift s does: they agree for the s' that
    solves (s' - 1)/s' (1 - sigma_min)/(N - 1) = (s - 1)/(s N), where sigma_min = s'/(T + s' - 1).
    """
    shift, known = process.shift, process.train_timesteps
    if steps == 1:
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=known, shift=shift)  # sigma = 1 alone, and nothing to stretch
    ratio = (shift - 1) * (steps - 1) / (shift * steps)
    if shift == 1:
        other = 1.0
    else:  # ratio s'^2 - (T - 1)(1 - ratio) s' + (T - 1) = 0
        middle = (known - 1) * (1 - ratio)
        root = middle**2 - 4 * ratio * (known - 1)
        if root < 0:
            return None
        other = 2 * (known - 1) / (middle + math.sqrt(root))
    made = FlowMatchEulerDiscreteScheduler(num_train_timesteps=known, shift=other, shift_terminal=shift / (steps + shift - 1))
    return made if same_grid(made, process, steps) else None


def same_grid(scheduler: Any, process: RectifiedFlow, steps: int) -> bool:
    """Whether a stock scheduler, asked for N steps, visits t = 1, 1 - 1/N, ..., 1/N."""
    scheduler.set_timesteps(steps)
    times = time_grid(steps)
    return bool((scheduler.sigmas.double() - process.at(times, times)[1]).abs().max() < EXACT)
