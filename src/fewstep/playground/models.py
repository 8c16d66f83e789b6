"""The models behind the page, opened once and checked together, and the bounds of every choice that a request makes."""

from dataclasses import dataclass
from typing import Any

import torch

from fewstep.api import Model, open_model
from fewstep.editing.style_transfer import encoder_folder
from fewstep.errors import InputError, shown
from fewstep.models.metadata import INFO, bundled, find_folder, is_run, name_of, rungs_in
from fewstep.models.sounds import check_no_sound

ANY_STEPS = (4, 8, 16, 64)  # offered of a model that takes any number
ANY_SCALE = (1.0, 10.0)  # likewise
ANY_SAMPLER = ("deterministic", "stochastic")  # likewise
COUNT = 16  # images at a time, at most; of pictures wider than LARGE, 4
LARGE = 128  # pixels
LONGEST = 1000  # characters of a prompt
SEEDS = 2**31  # below this


@dataclass(frozen=True)
class Opened:
    """A model, the path that `fewstep.open_model` takes for it, and of a run folder which of its steps."""

    path: str
    model: Model
    steps: int | None = None

    @property
    def name(self) -> str:
        """What the page calls it."""
        return name_of(self.path)


@dataclass(frozen=True)
class Models:
    """A model for each number of steps, with teacher, encoder and inpainter where there are any."""

    name: str  # as the user gave it
    by_steps: dict[int, Opened]
    teacher: Opened | None = None
    encoder: Opened | None = None
    inpainter: "Models | None" = None
    seed: int = 0  # with which the page begins

    @property
    def first(self) -> Model:
        """The model of most steps; the others have its shape, condition and sampler."""
        return self.by_steps[max(self.by_steps)].model

    @property
    def for_inpainting(self) -> "Models":
        """The inpainter, else these models themselves."""
        return self.inpainter or self

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; none of a model that takes prompts."""
        return () if self.first.info.condition == "text" else self.first.info.classes

    @property
    def scales(self) -> tuple[float, float]:
        """The range of guidance scales that every model here takes."""
        ranges = [opened.model.info.guidance_scale or ANY_SCALE for opened in self.by_steps.values()]
        return max(low for low, _ in ranges), min(high for _, high in ranges)

    @property
    def samplers(self) -> tuple[str, ...]:
        """The samplers that these models take, the usual one first: of a student the one that it was trained for."""
        own = self.first.info.sampler
        return (own,) if self.first.info.steps else (own, *(sampler for sampler in ANY_SAMPLER if sampler != own))

    @property
    def most(self) -> int:
        """How many images are drawn at a time, at most."""
        return COUNT if self.first.info.picture[1] <= LARGE else 4

    @property
    def all(self) -> list[Opened]:
        """Every model here, once."""
        others = [*(self.inpainter.by_steps.values() if self.inpainter else ()), self.teacher, self.encoder]
        return list({id(opened.model): opened for opened in (*self.by_steps.values(), *others) if opened}.values())


def open_models(
    path: str | None = None,
    teacher: str | None = None,
    encoder: str | None = None,
    device: torch.device | str = "cpu",
    inpainter: str | None = None,
) -> Models:
    """The models of a run folder (every student), of a model folder, or without a path the bundled students of digits, else their teacher.

    Raises:
        InputError: nothing there, an encoder, a model of videos, or models that do not belong together.
    """
    path = path or ("digits-student" if bundled("digits-student").is_dir() else "digits")
    by_steps, encoders = _by_steps(path, device), rungs_in(find_folder(path), "encoder")
    coder = encoder_folder(encoder) if encoder else encoders[min(encoders)] if encoders else None
    guide, coder = (Opened(str(one), open_model(one, device)) if one else None for one in (teacher or _teacher_of(path), coder))
    own = next(iter(by_steps.values()))
    coder = coder or guide or (own if own.model.info.steps is None else None)
    filling = Models(inpainter, _by_steps(inpainter, device)) if inpainter else None
    return check_together(Models(path, by_steps, guide, coder, filling))


def _by_steps(path: str, device: torch.device | str) -> dict[int, Opened]:
    """The students of a run by their steps, or one model for its own steps, or for several where it takes any number."""
    run = find_folder(path)
    if is_run(run) and (known := rungs_in(run)):
        return {steps: Opened(path, open_model(path, device, steps), steps) for steps in sorted(known)}
    only = Opened(path, open_model(path, device))
    if only.model.info.steps:
        return {only.model.info.steps: only}
    return {steps: only for steps in ANY_STEPS if steps <= only.model.denoiser.process.train_timesteps}


def _teacher_of(path: str) -> str | None:
    """The teacher in a run folder, that of bundled students, else the one that the run's recipe names, where it is on this machine."""
    run, name = find_folder(path), path.removesuffix("-student")
    if (run / "teacher" / INFO).is_file():
        return str(run / "teacher")
    if run == bundled(path) and name != path:
        return name
    if not (run / "recipe.toml").is_file() or not is_run(run):
        return None
    from fewstep.training.recipe import load_recipe

    named = load_recipe(run / "recipe.toml").teacher.path
    return named if named and find_folder(named).exists() else None


def check_together(models: Models) -> Models:
    """The models, once it is known that they draw pictures and belong together.

    Raises:
        InputError: an encoder, a model of videos, or one that only fills in, where one that draws is needed; models of other shapes.
    """
    for opened in (*models.by_steps.values(), *(models.inpainter.by_steps.values() if models.inpainter else ())):
        if opened.model.info.kind == "encoder":
            raise InputError(f"{opened.path} is an encoder, which draws nothing; name a student or teacher, and it with --encoder")
        check_no_sound(opened.model.info, "the playground")
        if len(opened.model.info.shape) != 3:
            raise InputError(f"{opened.path} draws videos; the playground shows pictures alone: use fewstep sample")
    for opened in models.by_steps.values():
        if opened.model.family.takes_mask:
            raise InputError(f"{opened.path} only fills in pictures; name a model that draws from noise, and it with --inpainter")
    ours = models.first.info
    for what, opened in (("teacher", models.teacher), ("encoder", models.encoder)):
        theirs = opened.model.info if opened else ours
        if opened and (theirs.shape, theirs.condition) != (ours.shape, ours.condition):
            works = f"{theirs.shape} and {theirs.condition}, the model on {ours.shape} and {ours.condition}"
            raise InputError(f"{what} {opened.path} works on {works}; name its own {what}")
    for group in filter(None, (models, models.inpainter)):
        if group.scales[0] > group.scales[1]:
            raise InputError(f"the students of {group.name} have no guidance scale in common; name the folder of one of them")
    return models


def is_number(value: Any, low: float, high: float, whole: bool = False) -> bool:
    """Whether a value of a request is a number from `low` to `high`, with `whole` a whole one."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    return number and (not whole or value == int(value))


def scales_by_step(text: Any) -> list[float] | None:
    """The scales of a text as "1/2/2/2", the first at the noise; None of an empty one.

    Raises:
        InputError: it is no such text.
    """
    if text is None or (isinstance(text, str) and not text.strip()):
        return None
    try:
        return [float(word) for word in text.split("/")]
    except (AttributeError, ValueError):
        raise InputError(f"the scale for each step is {shown(text)}; give numbers with / between them, as 1/2/2/2") from None


def checked(
    models: Models, labels: Any, steps: Any, guidance_scale: Any, seed: Any, sampler: Any = None, count: Any = 1
) -> tuple[list[str], dict[str, Any]]:
    """`count` classes or prompts, going through `labels` in turn (all classes without any), and the choices of sampling, all checked.

    `guidance_scale` is a number, or a list of one for each step.

    Raises:
        InputError: a choice of another type, or outside its bounds.
    """
    by_step = guidance_scale if isinstance(guidance_scale, list) else [guidance_scale]
    scales = [("guidance scale", scale, *models.scales) for scale in by_step[: max(models.by_steps) + 1]]
    for name, value, low, high in (*scales, ("images", count, 1, models.most), ("seed", seed, 0, SEEDS - 1)):
        if not is_number(value, low, high, whole=name != "guidance scale"):
            raise InputError(f"{name} is {value}; give a {'' if name == 'guidance scale' else 'whole '}number from {low} to {high}")
    if not is_number(steps, 1, max(models.by_steps), whole=True) or steps not in models.by_steps:
        raise InputError(f"steps is {steps}; this model takes {', '.join(map(str, models.by_steps))}")
    if isinstance(guidance_scale, list) and len(guidance_scale) != steps:
        raise InputError(f"there are {len(guidance_scale)} guidance scales for {int(steps)} steps; give one for each, or none")
    if sampler is not None and sampler not in models.samplers:
        raise InputError(f"sampler is {sampler}; this model takes {', '.join(models.samplers)}")
    labels = labels if isinstance(labels, list) else [labels]
    if not all(isinstance(label, str | None) for label in labels):
        raise InputError("a class or a prompt is no text; name classes, or write what the picture is to show")
    labels = [label.strip() for label in labels if label and label.strip()] or list(models.classes)
    if not labels:
        raise InputError("no prompt is given; write what the picture is to show")
    if max(map(len, labels)) > LONGEST:
        raise InputError(f"a prompt has {max(map(len, labels))} characters; at most {LONGEST} are taken")
    scale = [float(one) for one in by_step] if isinstance(guidance_scale, list) else float(guidance_scale)
    choices: dict[str, Any] = {"steps": int(steps), "guidance_scale": scale, "seed": int(seed)}
    if len(models.samplers) > 1:
        choices["sampler"] = sampler or models.samplers[0]
    return [labels[i % len(labels)] for i in range(int(count))], choices
