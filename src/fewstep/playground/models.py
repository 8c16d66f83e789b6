"""The models that the playground plays with, found once and checked, and the bounds of what the page may ask of them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from fewstep.api import Model, open_model
from fewstep.editing import style_transfer as translation
from fewstep.errors import InputError
from fewstep.models.metadata import INFO, bundled, find_folder, is_run, rungs_in

ANY_STEPS = (4, 8, 16, 64)  # offered of a model that takes any number
ANY_SCALE = (1.0, 10.0)  # likewise
ANY_SAMPLER = ("deterministic", "stochastic")  # likewise
COUNT = 16  # images at a time, at most; of pictures wider than LARGE, 4
LARGE = 128  # pixels
LONGEST = 1000  # characters of a prompt
SEEDS = 2**31  # below this


@dataclass(frozen=True)
class Opened:
    """A model, what opens it (`fewstep.open_model(path)`), and of a path that is a run folder which of its steps."""

    path: str
    model: Model
    steps: int | None = None


@dataclass(frozen=True)
class Models:
    """What the page plays with: a model for each number of steps, and teacher, encoder and inpainter where there are any."""

    name: str  # as a person gave it
    by_steps: dict[int, Opened]
    teacher: Opened | None = None
    encoder: Opened | None = None
    inpainter: "Models | None" = None
    seed: int = 0  # with which the page begins

    @property
    def first(self) -> Model:
        """The model of most steps, which the others resemble in all but that."""
        return self.by_steps[max(self.by_steps)].model

    @property
    def filling(self) -> "Models":
        """What fills in pictures: the inpainter, else these models themselves."""
        return self.inpainter or self

    @property
    def words(self) -> tuple[str, ...]:
        """The classes, none of a model that takes prompts."""
        return () if self.first.info.condition == "text" else self.first.info.classes

    @property
    def scales(self) -> tuple[float, float]:
        """The guidance scales that every model here takes."""
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
    """The models of a run folder (every rung), of a model folder, or without a path the bundled students of digits, else their teacher.

    Raises:
        InputError: nothing there, an encoder, a model of videos, or models that do not belong together.
    """
    path = path or ("digits-student" if bundled("digits-student").is_dir() else "digits")
    by_steps, beside = _rungs(path, device), teacher or _teacher_of(path)
    own = next(iter(by_steps.values()))
    guide = Opened(beside, open_model(beside, device)) if beside else None
    coder = _given_encoder(encoder, device) if encoder else _encoder_of(find_folder(path), device)
    coder = coder or guide or (own if own.model.info.steps is None else None)
    filling = Models(inpainter, _rungs(inpainter, device)) if inpainter else None
    return _checked(Models(path, by_steps, guide, coder, filling))


def _given_encoder(path: str, device: torch.device | str) -> Opened:
    """The encoder of a run folder or a model folder, with the folder that it is in."""
    folder = translation.encoder_folder(path)
    return Opened(str(folder), open_model(folder, device))


def _rungs(path: str, device: torch.device | str) -> dict[int, Opened]:
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


def _encoder_of(run: Path, device: torch.device | str) -> Opened | None:
    folders = sorted(info.parent for info in run.glob(f"encoder-[0-9]*/{INFO}"))
    return Opened(str(folders[0]), open_model(folders[0], device)) if folders else None


def _checked(models: Models) -> Models:
    for opened in models.by_steps.values():
        check_draws(opened)
        if opened.model.family.takes_mask:
            raise InputError(
                f"{opened.path} only fills in pictures; name a model that draws from noise, and this one with --inpainter"
            )
    for opened in models.inpainter.by_steps.values() if models.inpainter else ():
        check_draws(opened)
    ours = models.first.info
    for what, opened in (("teacher", models.teacher), ("encoder", models.encoder)):
        if opened and opened.model.info.shape != ours.shape:
            raise InputError(
                f"{what} {opened.path} works on {opened.model.info.shape}, the model on {ours.shape}; name its own {what}"
            )
        if opened and opened.model.info.condition != ours.condition:
            raise InputError(
                f"{what} {opened.path} takes {opened.model.info.condition}, the model {ours.condition}; name its own {what}"
            )
    for group in filter(None, (models, models.inpainter)):
        if group.scales[0] > group.scales[1]:
            raise InputError(f"the students of {group.name} have no guidance scale in common; name the folder of one of them")
    return models


def check_draws(opened: Opened) -> None:
    """Refuse what draws no pictures.

    Raises:
        InputError: an encoder, or a model of videos.
    """
    if opened.model.info.kind == "encoder":
        raise InputError(f"{opened.path} is an encoder, which draws nothing; name a student or a teacher, and it with --encoder")
    if len(opened.model.info.shape) != 3:
        raise InputError(f"{opened.path} draws videos; the playground shows pictures alone: use fewstep sample")


def bounded(models: Models, words: list[str], steps: int, guidance_scale: float, seed: int, count: int = 1) -> list[str]:
    """`count` classes or prompts, going through `words` in turn; every choice of the page is checked here.

    Raises:
        InputError: a choice outside its bounds.
    """
    low, high = models.scales
    if not isinstance(steps, int) or steps not in models.by_steps:
        raise InputError(f"steps is {steps}; this model takes {', '.join(map(str, models.by_steps))}")
    if not isinstance(guidance_scale, int | float) or not low <= guidance_scale <= high:
        raise InputError(f"guidance scale is {guidance_scale}; it can be {low:g} to {high:g}")
    if not isinstance(count, int | float) or count not in range(1, models.most + 1):
        raise InputError(f"{count} images are asked for; 1 to {models.most} can be drawn at a time")
    if not isinstance(seed, int | float) or seed not in range(SEEDS):
        raise InputError(f"seed is {seed}; a whole number from 0 to {SEEDS - 1} is needed")
    if not all(isinstance(word, str | None) for word in words):
        raise InputError("a class or a prompt is no text; name classes, or write what the picture is to show")
    words = [word.strip() for word in words if word and word.strip()] or list(models.words)
    if not words:
        raise InputError("no prompt is given; write what the picture is to show")
    if max(map(len, words)) > LONGEST:
        raise InputError(f"a prompt has {max(map(len, words))} characters; at most {LONGEST} are taken")
    return [words[i % len(words)] for i in range(int(count))]


def sampler_of(models: Models, sampler: str | None) -> dict[str, str]:
    """The choice of a sampler as a keyword, where the models leave one.

    Raises:
        InputError: none that they take.
    """
    if sampler is not None and sampler not in models.samplers:
        raise InputError(f"sampler is {sampler}; this model takes {', '.join(models.samplers)}")
    return {"sampler": sampler or models.samplers[0]} if len(models.samplers) > 1 else {}
