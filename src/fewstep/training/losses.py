"""The trainings of the method as stages: what is drawn for an update, and what an example's error is."""

from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition, choose
from fewstep.method.guidance import DenoiserFn, draw_w
from fewstep.method.process import EARLIEST, DiscreteBetas, Process, add_noise, widest_float
from fewstep.method.stage_one import WEIGHTINGS, balance, guided_target, weighted_error
from fewstep.method.stage_two import collapsed_target, draw_index, encoder_path, forward_path, stochastic_path
from fewstep.models.denoiser import Denoiser
from fewstep.models.model import Model
from fewstep.models.negative_prompts import NegativePrompts
from fewstep.training.guided_inputs import POOL, draw_pooled, guided_pool
from fewstep.training.recipe import Recipe
from fewstep.training.trainer import Batch, Examples, Stage


def teaching(recipe: Recipe, process: Process) -> Stage:
    """The plain denoising loss, the condition dropped in some of the examples (2207.12598)."""
    settings = recipe.teach
    weighting = WEIGHTINGS[settings.weighting]

    def draw(generator: torch.Generator, n: int) -> Batch:
        t = continuous_times(uniform(generator, n, stratified=True), process)
        return {"t": t, "dropped": uniform(generator, n) < settings.condition_dropout}

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
    weighting = WEIGHTINGS[settings.weighting]
    inputs = inputs_of(teacher, teacher.denoiser.guided(), recipe, steps, data)

    def draw(generator: torch.Generator, n: int) -> Batch:
        w, numbers = draw_w(uniform(generator, n), recipe.student.guidance_scale), uniform(generator, n, stratified=True)
        t = continuous_times(numbers, process) if settings.times == "continuous" else draw_index(numbers, steps) / steps
        return {"w": w, "t": t} | pooled(generator, n, settings.guided_inputs) | avoided(generator, n, negatives)

    def error(student: Denoiser, batch: Batch) -> Tensor:
        t, (x, condition, w) = batch["t"], inputs(batch)
        z = add_noise(x, batch["noise"], t, process)
        index = batch.get("avoided")
        null = negatives.null(index) if negatives is not None and index is not None else None
        target = guided_target(teacher.denoiser.guided(process, null), z, t, condition, w)
        condition = student_condition(condition, index, negatives)
        return balance(w, settings.balance) * weighted_error(student(z, t, condition, w), target, t, process, weighting)

    return Stage("stage-one", settings.updates, settings.learning_rate, settings.schedule, draw, error)


def student_process(recipe: Recipe, teacher: Model) -> Process:
    """The process of the students: the teacher's, or that without signal at its end.

    Raises:
        InputError: the teacher's process cannot be rescaled, or the students predict eps, which then says nothing of the image.
    """
    process = teacher.denoiser.process
    if not recipe.student.rescale_zero_terminal_snr:
        return process
    wanted = recipe.student.prediction
    if (teacher.info.prediction if wanted == "same" else wanted) == "eps":
        raise InputError(
            "student.rescale_zero_terminal_snr needs student.prediction = 'v' or 'x': eps says nothing of the image at t = 1"
        )
    if not isinstance(process, DiscreteBetas):
        raise InputError(
            "student.rescale_zero_terminal_snr is for teachers of discrete betas; this one's process has its own end: set it to false"
        )
    return process.without_terminal_signal()


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
    settings, process = recipe.stage_two, teacher.denoiser.process
    weighting, inputs = WEIGHTINGS[settings.weighting], inputs_of(teacher, teacher.denoiser, recipe, steps * k, data)
    guided_inputs = 0.0 if encoder else settings.guided_inputs  # an encoder draws nothing that others could begin with
    path_of = encoder_path if encoder else {"deterministic": forward_path, "stochastic": stochastic_path}[settings.sampler]

    def draw(generator: torch.Generator, n: int) -> Batch:
        index = draw_index(uniform(generator, n, stratified=True), steps) - int(encoder)
        w = draw_w(uniform(generator, n), recipe.student.guidance_scale)
        drawn = {"w": w, "path": path_of(index, steps, k).T.contiguous()} | pooled(generator, n, guided_inputs)
        return drawn | avoided(generator, n, negatives)

    def error(student: Denoiser, batch: Batch) -> Tensor:
        path, (x, condition, w) = batch["path"].T, inputs(batch)
        z, condition = add_noise(x, batch["noise"], path[0], process), student_condition(condition, batch.get("avoided"), negatives)
        target = collapsed_target(teacher.denoiser, z, path, condition, w, process)
        return balance(w, settings.balance) * weighted_error(student(z, path[0], condition, w), target, path[0], process, weighting)

    if encoder:
        return Stage(f"encoder-{steps:04d}", recipe.encoder.updates, recipe.encoder.learning_rate, settings.schedule, draw, error)
    updates = settings.last_updates if steps <= 2 else settings.updates
    return Stage(f"steps-{steps:04d}", updates, settings.learning_rate, settings.schedule, draw, error)


def inputs_of(
    teacher: Model, estimate: DenoiserFn, recipe: Recipe, steps: int, data: Examples | None
) -> Callable[[Batch], tuple[Tensor, Condition, Tensor]]:
    """A function of a batch that gives its (x, condition, w), some of them from a pool that `estimate` makes when first asked."""
    pools = []

    def inputs(batch: Batch) -> tuple[Tensor, Condition, Tensor]:
        own = batch["x"], batch["condition"], batch["w"]
        if "pooled" not in batch:
            return own
        if not pools:
            shape, scales, device = tuple(batch["x"].shape[1:]), recipe.student.guidance_scale, batch["x"].device
            condition = pool_conditions(teacher, data)
            pools.append(guided_pool(estimate, teacher.denoiser.process, shape, condition, scales, steps, device))
        return pools[0].replace(batch["pooled"], *own)

    return inputs


def pool_conditions(teacher: Model, data: Examples | None) -> int | Condition:
    """What the pool is sampled for: the number of classes, or the conditions of the data's first examples.

    Raises:
        InputError: the teacher takes no class, and there are no data.
    """
    if teacher.info.condition == "class" and not teacher.family.takes_mask:
        return len(teacher.info.classes)
    if data is None:
        raise InputError("guided_inputs needs the data's conditions; give data, or set guided_inputs to 0")
    return data.batch(0, POOL)[1]


def pooled(generator: torch.Generator, n: int, share: float) -> Batch:
    """Which of n examples come from the pool, and which place in it they take; nothing where none do."""
    return {"pooled": draw_pooled(uniform(generator, n), uniform(generator, n), share)} if share else {}


def avoided(generator: torch.Generator, n: int, negatives: NegativePrompts | None) -> Batch:
    """Which of the negative prompts n examples are to keep away from; nothing where there are none."""
    return {} if negatives is None else {"avoided": negatives.draw(uniform(generator, n), uniform(generator, n))}


def student_condition(condition: Condition, index: Tensor | None, negatives: NegativePrompts | None) -> Condition:
    """The condition as the student is told it."""
    return condition if negatives is None or index is None else negatives.add_to(condition, index)


def uniform(generator: torch.Generator, n: int, stratified: bool = False) -> Tensor:
    """n numbers in [0, 1), float64 (float32 on Apple's GPU); stratified: one in each n-th part, in a random order (less noise in the loss)."""
    numbers = torch.rand(n, generator=generator, device=generator.device, dtype=widest_float(generator.device))
    if not stratified:
        return numbers
    return (torch.randperm(n, generator=generator, device=generator.device) + numbers) / n


def continuous_times(numbers: Tensor, process: Process) -> Tensor:
    """t (b,) uniform in (0, 1] from uniform numbers; a process of discrete times gives its own times n / T alone."""
    if isinstance(process, DiscreteBetas):
        return ((numbers * process.train_timesteps).floor() + 1) / process.train_timesteps
    return numbers.clamp(min=EARLIEST)
