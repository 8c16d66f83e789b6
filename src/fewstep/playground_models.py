"""The models that the playground plays with, found once and checked, and the bounds of what the page may ask of them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from fewstep import translation
from fewstep.errors import InputError
from fewstep.folder import INFO, bundled, open_model
from fewstep.model import Model

ANY_STEPS = (4, 8, 16, 64)  # offered of a model that takes any number
ANY_SCALE = (1.0, 10.0)  # likewise
COUNT = 16  # images at a time, at most; of pictures wider than LARGE, 4
LARGE = 128  # pixels
LONGEST = 1000  # characters of a prompt
SEEDS = 2**31  # below this


@dataclass(frozen=True)
class Opened:
    """A model and the path that opens it."""

    path: str
    model: Model


@dataclass(frozen=True)
class Models:
    """What the page plays with: a model for each number of steps, and the teacher and the encoder where there are any."""

    name: str  # as a person gave it
    by_steps: dict[int, Opened]
    teacher: Opened | None = None
    encoder: Opened | None = None

    @property
    def first(self) -> Model:
        """The model of most steps, which the others resemble in all but that."""
        return self.by_steps[max(self.by_steps)].model

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
    def most(self) -> int:
        """How many images are drawn at a time, at most."""
        return COUNT if self.first.info.picture[1] <= LARGE else 4


def open_models(
    path: str | None = None,
    teacher: str | None = None,
    encoder: str | None = None,
    device: torch.device | str = "cpu",
) -> Models:
    """The models of a run folder (every rung), of a model folder, or without a path the bundled student of digits, else its teacher.

    Raises:
        InputError: nothing there, an encoder, a model of videos, or models that do not belong together.
    """
    name = path or "digits"
    if path is None:
        path = str(bundled("digits-student")) if bundled("digits-student").is_dir() else "digits"
        teacher = teacher or (None if path == "digits" else "digits")
    by_steps = _rungs(path, device)
    own, beside = next(iter(by_steps.values())), teacher or _teacher_of(Path(path))
    guide = Opened(beside, open_model(beside, device)) if beside else None
    coder = Opened(encoder, translation.open_encoder(encoder, device)) if encoder else _encoder_of(Path(path), device)
    return _checked(Models(name, by_steps, guide, coder or guide or (own if own.model.info.steps is None else None)))


def _rungs(path: str, device: torch.device | str) -> dict[int, Opened]:
    """The students of a run by their steps, or one model for its own steps, or for several where it takes any number."""
    folders = {int(info.parent.name.removeprefix("steps-")): str(info.parent) for info in Path(path).glob(f"steps-[0-9]*/{INFO}")}
    if folders:
        return {steps: Opened(folder, open_model(folder, device)) for steps, folder in sorted(folders.items())}
    only = Opened(path, open_model(path, device))
    if only.model.info.steps:
        return {only.model.info.steps: only}
    return {steps: only for steps in ANY_STEPS if steps <= only.model.denoiser.process.train_timesteps}


def _teacher_of(run: Path) -> str | None:
    """The teacher in a run folder, else the one that its recipe names, where that is on this machine."""
    if (run / "teacher" / INFO).is_file():
        return str(run / "teacher")
    if not (run / "recipe.toml").is_file() or (run / INFO).is_file():
        return None
    from fewstep.recipe import load_recipe

    named = load_recipe(run / "recipe.toml").teacher.path
    return named if named and (Path(named).exists() or bundled(f"{named}-teacher").is_dir()) else None


def _encoder_of(run: Path, device: torch.device | str) -> Opened | None:
    folders = sorted(info.parent for info in run.glob(f"encoder-[0-9]*/{INFO}"))
    return Opened(str(folders[0]), open_model(folders[0], device)) if folders else None


def _checked(models: Models) -> Models:
    for opened in models.by_steps.values():
        info = opened.model.info
        if info.kind == "encoder":
            raise InputError(
                f"{opened.path} is an encoder, which draws nothing; name a student or a teacher, and it with --encoder"
            )
        if len(info.shape) != 3:
            raise InputError(f"{opened.path} draws videos; the playground shows pictures alone: use fewstep sample")
        if getattr(opened.model.family, "takes_mask", False):
            raise InputError(f"{opened.path} only fills in pictures; the playground draws from noise: use fewstep inpaint")
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
    low, high = models.scales
    if low > high:
        raise InputError("the students of this run have no guidance scale in common; name the folder of one of them")
    return models


def bounded(models: Models, words: list[str], steps: int, guidance_scale: float, seed: int, count: int = 1) -> list[str]:
    """`count` classes or prompts, going through `words` in turn; every choice of the page is checked here.

    Raises:
        InputError: a choice outside its bounds.
    """
    low, high = models.scales
    if steps not in models.by_steps:
        raise InputError(f"steps is {steps}; this model takes {', '.join(map(str, models.by_steps))}")
    if not isinstance(guidance_scale, int | float) or not low <= guidance_scale <= high:
        raise InputError(f"guidance scale is {guidance_scale}; it can be {low:g} to {high:g}")
    if not isinstance(count, int | float) or count not in range(1, models.most + 1):
        raise InputError(f"{count} images are asked for; 1 to {models.most} can be drawn at a time")
    if not isinstance(seed, int | float) or seed not in range(SEEDS):
        raise InputError(f"seed is {seed}; a whole number from 0 to {SEEDS - 1} is needed")
    words = [word.strip() for word in words if word and word.strip()] or list(models.words)
    if not words:
        raise InputError("no prompt is given; write what the picture is to show")
    if max(map(len, words)) > LONGEST:
        raise InputError(f"a prompt has {max(map(len, words))} characters; at most {LONGEST} are taken")
    return [words[i % len(words)] for i in range(int(count))]


def on_grid(strength: float, steps: int) -> float:
    """The strength i/N of the grid of N steps that is nearest, at least 1/N.

    Raises:
        InputError: it is not a number from 0 to 1.
    """
    if not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise InputError(f"strength is {strength}; it can be {1 / steps:g} to 1")
    return max(1, round(strength * steps)) / steps
