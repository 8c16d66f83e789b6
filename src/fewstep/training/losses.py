"""The trainings of the method as stages: what is drawn for an update, and what an example's error is."""

import warnings
from functools import partial
from typing import Literal

from torch import Tensor

from fewstep.errors import InputError
from fewstep.method.conditioning import choose
from fewstep.method.guidance import draw_w
from fewstep.method.parameterization import PREDICTIONS, Prediction
from fewstep.method.process import EARLIEST, DiscreteBetas, Process, RectifiedFlow, add_noise
from fewstep.method.stage_one import WEIGHTINGS, Weighting, balance, guided_target, largest_weight, min_snr, weighted_error
from fewstep.method.stage_two import collapsed_target, draw_index, encoder_path, forward_path, stochastic_path
from fewstep.models.denoiser import Denoiser
from fewstep.models.model import Model
from fewstep.models.negative_prompts import NegativePrompts
from fewstep.training.draws import Draws
from fewstep.training.guided_inputs import GuidedInputs
from fewstep.training.recipe import Recipe
from fewstep.training.stage import Batch, Examples, Stage

LARGEST_WEIGHT = 1e4  # of an error in what the network gives, above which a weighting counts as one without a bound


def teaching(recipe: Recipe, denoiser: Denoiser) -> Stage:
    """The plain denoising loss, the condition dropped in some of the examples (2207.12598)."""
    settings, process = recipe.teach, denoiser.process
    weighting = weighting_of(recipe, "teach", denoiser.predicts, process)

    def draw(draws: Draws) -> Batch:
        t = continuous_times(draws.uniform(stratified=True), process)
        return {"t": t, "dropped": draws.uniform() < settings.condition_dropout}

    def error(teacher: Denoiser, batch: Batch) -> Tensor:
        z = add_noise(batch["x"], batch["noise"], batch["t"], process)
        condition = choose(batch["dropped"], teacher.null_condition(batch["condition"]), batch["condition"])
        return weighted_error(teacher(z, batch["t"], condition), batch["x"], batch["t"], process, weighting)

    return Stage("teacher", settings.updates, settings.learning_rate, settings.schedule, draw, error, dropout=True)


def stage_one(recipe: Recipe, teacher: Model, data: Examples | None = None, negatives: NegativePrompts | None = None) -> Stage:
    """Learn X^w of the guided teacher (section 3.1), guided away from `negatives` where there are some.

    `data` gives the conditions of guided inputs that are not labels.
    """
    settings, process, steps = recipe.stage_one, student_process(recipe, teacher), recipe.stage_two.ladder[0]
    prediction, scales = PREDICTIONS[student_prediction(recipe, teacher)], recipe.student.guidance_scale
    weighting = weighting_of(recipe, "stage_one", prediction, process)
    inputs = GuidedInputs(settings.guided_inputs, teacher.denoiser.guided(), teacher, scales, steps, data)

    def draw(draws: Draws) -> Batch:
        w, numbers = draw_w(draws.uniform(), scales), draws.uniform(stratified=True)
        t = continuous_times(numbers, process) if settings.times == "continuous" else draw_index(numbers, steps) / steps
        return {"w": w, "t": t} | inputs.draw(draws) | draw_negatives(draws, negatives)

    def error(student: Denoiser, batch: Batch) -> Tensor:
        t, (x, condition, w) = batch["t"], inputs(batch)
        z = add_noise(x, batch["noise"], t, process)
        null = negatives.null(batch["negative_index"]) if negatives is not None else None
        target = guided_target(teacher.denoiser.guided(process, null), z, t, condition, w)
        condition = negatives.add_to(condition, batch["negative_index"]) if negatives is not None else condition
        return balance(w, settings.balance) * weighted_error(student(z, t, condition, w), target, t, process, weighting)

    return Stage("stage-one", settings.updates, settings.learning_rate, settings.schedule, draw, error)


def stage_two(
    recipe: Recipe,
    teacher: Model,
    steps: int,
    k: int,
    encoder: bool = False,
    data: Examples | None = None,
    negatives: NegativePrompts | None = None,
) -> Stage:
    """Learn to do in one step what `teacher`, a student itself, does in k (section 3.2), at the same w and the same negative prompt.

    `data` as in stage one.
    """
    settings, process, scales = recipe.stage_two, teacher.denoiser.process, recipe.student.guidance_scale
    weighting = weighting_of(recipe, "stage_two", teacher.denoiser.predicts, process)
    share = 0.0 if encoder else settings.guided_inputs  # an encoder draws nothing that others could begin with
    inputs = GuidedInputs(share, teacher.denoiser, teacher, scales, steps * k, data)
    path_of = encoder_path if encoder else {"deterministic": forward_path, "stochastic": stochastic_path}[settings.sampler]

    def draw(draws: Draws) -> Batch:
        index = draw_index(draws.uniform(stratified=True), steps) - int(encoder)
        w = draw_w(draws.uniform(), scales)
        drawn = {"w": w, "path": path_of(index, steps, k).T.contiguous()}
        return drawn | inputs.draw(draws) | draw_negatives(draws, negatives)

    def error(student: Denoiser, batch: Batch) -> Tensor:
        path, (x, condition, w) = batch["path"].T, inputs(batch)
        z = add_noise(x, batch["noise"], path[0], process)
        condition = negatives.add_to(condition, batch["negative_index"]) if negatives is not None else condition
        target = collapsed_target(teacher.denoiser, z, path, condition, w, process)
        return balance(w, settings.balance) * weighted_error(student(z, path[0], condition, w), target, path[0], process, weighting)

    if encoder:
        return Stage(f"encoder-{steps:04d}", recipe.encoder.updates, recipe.encoder.learning_rate, settings.schedule, draw, error)
    updates = settings.last_updates if steps <= 2 else settings.updates
    return Stage(f"steps-{steps:04d}", updates, settings.learning_rate, settings.schedule, draw, error)


def weighting_of(
    recipe: Recipe, section: Literal["teach", "stage_one", "stage_two", "paths"], prediction: Prediction, process: Process
) -> Weighting:
    """The weighting of a section of the recipe; "auto" is `min_snr` where the network predicts x, else the section's usual one.

    A warning says where one has no bound for what the network predicts: then a few examples make the loss.
    """
    settings = getattr(recipe, section)
    name, usual = settings.weighting, "truncated_snr" if section == "stage_two" else "snr_plus_one"
    if name == "auto":
        name = "min_snr" if prediction.name == "x" else usual
    weighting = partial(min_snr, gamma=settings.min_snr_gamma) if name == "min_snr" else WEIGHTINGS[name]
    largest, remedy = largest_weight(weighting, prediction, process), "snr" if prediction.name == "eps" else "min_snr"
    if largest > LARGEST_WEIGHT:
        warnings.warn(
            f"{section}.weighting = '{name}' weighs errors of a network that predicts {prediction.name} by up to {largest:.2g} (above "
            f"{LARGEST_WEIGHT:g}), so a few examples make the loss; set it to '{remedy}'",
            stacklevel=3,
        )
    return weighting


def student_prediction(recipe: Recipe, teacher: Model) -> str:
    """What the students predict: by default v, or of a flow the flow; else what the recipe says.

    Raises:
        InputError: v or eps of a flow, or x where a stock scheduler, which takes the flow alone, is to sample.
    """
    name, flow = recipe.student.prediction, isinstance(teacher.denoiser.process, RectifiedFlow)
    if name == "same":
        return teacher.info.prediction
    if name == "auto":
        return "flow" if flow else "v"
    if flow and not (name == "x" and teacher.info.family == "own"):
        raise InputError(f"student.prediction is '{name}', and the teacher is a flow: leave it out, or set it to 'same'")
    return name


def student_process(recipe: Recipe, teacher: Model) -> Process:
    """The process of the students: the teacher's, or that without signal at its end.

    Raises:
        InputError: the teacher's process cannot be rescaled, or the students predict eps, which then says nothing of the image.
    """
    process = teacher.denoiser.process
    if not recipe.student.rescale_zero_terminal_snr:
        return process
    if student_prediction(recipe, teacher) == "eps":
        raise InputError(
            "student.rescale_zero_terminal_snr needs student.prediction = 'v' or 'x': eps says nothing of the image at t = 1"
        )
    if not isinstance(process, DiscreteBetas):
        raise InputError(
            "student.rescale_zero_terminal_snr is for teachers of discrete betas; this one's process has its own end: set it to false"
        )
    return process.without_terminal_signal()


def draw_negatives(draws: Draws, negatives: NegativePrompts | None) -> Batch:
    """Which of the negative prompts the examples have; nothing where there are none."""
    return {} if negatives is None else {"negative_index": negatives.draw(draws.uniform(), draws.uniform())}


def continuous_times(numbers: Tensor, process: Process) -> Tensor:
    """t (b,) uniform in (0, 1] from uniform numbers; a process of discrete times gives its own times n / T alone."""
    if isinstance(process, DiscreteBetas):
        return ((numbers * process.train_timesteps).floor() + 1) / process.train_timesteps
    return numbers.clamp(min=EARLIEST)
