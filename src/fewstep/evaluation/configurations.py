"""What an evaluation compares: students at their steps, and their teacher by its own sampler and by stock schedulers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.errors import InputError
from fewstep.evaluation.solvers import check_baselines, evaluations_of, sample_baseline, steps_for
from fewstep.files import path_of
from fewstep.method.conditioning import Condition
from fewstep.method.process import DiscreteBetas, process_of, process_settings
from fewstep.models.metadata import HUB_ID, INFO, bundled, rung_of, rungs_in
from fewstep.models.model import Model
from fewstep.models.pretrained import guided_as, open_model
from fewstep.models.sampling import Samples
from fewstep.training.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class Configuration:
    """One way to draw samples: a row of the table."""

    role: str  # "teacher", "stage-one" or "student"
    model: Model
    sampler: str  # "deterministic", "stochastic", or a baseline's name
    steps: int
    guidance_scale: float
    evaluations: int
    budget: int | None = None  # network evaluations that a baseline was given; None: the model's own sampler
    reference: bool = False  # the teacher at many steps, from which the others' distance is measured
    stored: Tensor | None = None  # samples (n, c, h, w) that were drawn before from the same noise

    @property
    def key(self) -> str:
        """Its name in the output folder."""
        return f"{self.role}-{self.sampler}-{self.steps:04d}-scale-{self.guidance_scale:g}"

    def __str__(self) -> str:
        return f"{self.role}, {self.sampler}, {self.steps} step{'s' * (self.steps > 1)}, guidance scale {self.guidance_scale:g}"

    def draw(self, noise: Tensor, condition: Condition, batch_size: int, seed: int = 0, start: int = 0) -> Samples:
        """Samples for a condition (n, ...) from noise (n, c, h, w), of which the first has the position `start`.

        `seed` is for the noise that a stochastic sampler adds. Stored samples take no seconds.
        """
        if self.stored is not None:
            known = self.stored[start : start + len(noise)]
            return Samples(noise, known, self.steps, self.sampler, self.evaluations, 0.0)
        choices = {"steps": self.steps, "guidance_scale": self.guidance_scale, "noise": noise, "batch_size": batch_size}
        if self.budget is not None:
            return sample_baseline(self.model, self.sampler, condition, **choices)
        return self.model.sample_tensor(condition, seed=seed, **choices)


@dataclass(frozen=True)
class EvaluatedModels:
    """What is evaluated: students and stage one by role and steps, their teacher, and the run that they come from."""

    students: dict[tuple[str, int], Model]
    teacher: Model | None
    run: Path | None = None
    recipe: Recipe | None = None
    teacher_name: str | None = None

    @property
    def any(self) -> Model:
        """One of the models: all have the same classes, size and channels."""
        return self.teacher or next(iter(self.students.values()))

    @property
    def guidance_range(self) -> tuple[float, float]:
        """The guidance scales that all students serve: low and high; without students, and for a teacher, any."""
        ranges = [model.info.guidance_scale or (-math.inf, math.inf) for model in self.students.values()]
        return max((low for low, _ in ranges), default=-math.inf), min((high for _, high in ranges), default=math.inf)

    def to(self, device: Any) -> "EvaluatedModels":
        """The same, all networks on `device`."""
        for model in (*self.students.values(), *filter(None, (self.teacher,))):
            model.to(device).denoiser.network.requires_grad_(False)
        return self


def open_models(model: Any, against: Any, steps: Sequence[int] | None, variant: str | None = None) -> EvaluatedModels:
    """The models of a run folder (its rungs in `steps`, and stage one), of a model folder, a bundled name or a `Model`.

    `variant` is that of the teacher's weights. Without `steps`: those of a run that its recipe evaluates, or a student's own.

    Raises:
        InputError: nothing there, no student for any of the steps, or a teacher that does not belong to the student.
    """
    run = run_of(model)
    recipe = load_recipe(run / "recipe.toml") if run else None
    if run and recipe and Path(model) == run:
        students, teacher = models_of_run(run, recipe, steps)
    else:
        students, teacher = models_of(model, steps, variant if against is None else None)
    name = None if teacher is None else "itself"
    if isinstance(against, Model):
        teacher, name = against, "from Python"
    elif against is not None:
        teacher, name = open_model(against, variant=variant), str(against)
    elif teacher is None and run and recipe and (name := teacher_of_run(run, recipe)):
        teacher = open_model(name, revision=recipe.teacher.revision, variant=variant or recipe.teacher.variant)
    if teacher is not None:
        guidance = next((student.info.guidance for student in students.values() if student.info.guidance), {})
        teacher = guided_as(teacher, guidance)  # it and its stock samplers are guided as the students were taught
        check_teacher(teacher, name, students)
    return EvaluatedModels(students, teacher, run, recipe, name)


def run_of(model: Any) -> Path | None:
    """The run folder that a path is, or lies in."""
    if isinstance(model, Model) or not path_of("model", model).is_dir():
        return None
    folders = (Path(model), Path(model).resolve().parent)
    return next((f for f in folders if (f / "recipe.toml").is_file() and not (f / INFO).is_file()), None)


def models_of(model: Any, steps: Sequence[int] | None, variant: str | None) -> tuple[dict[tuple[str, int], Model], Model | None]:
    """(students, teacher) of one model."""
    opened = model if isinstance(model, Model) else open_model(model, variant=variant)
    own = opened.info.steps
    if opened.info.kind == "teacher":
        return {}, opened
    if opened.info.kind == "encoder":
        raise InputError("this is an encoder: it carries images to noise and draws none; name a student, a run or a teacher")
    if own is not None and steps and own not in steps:
        asked = ", ".join(map(str, steps))
        raise InputError(f"steps are {asked}, but this student was trained for {own}; name that: --steps {own}")
    return {("student", n): opened for n in ([own] if own is not None else steps or (64,))}, None


def models_of_run(run: Path, recipe: Recipe, steps: Sequence[int] | None) -> tuple[dict[tuple[str, int], Model], Model | None]:
    """(students, teacher) of a run folder; of a run that taught a teacher, no students."""
    rungs = rungs_in(run)
    chosen = steps or [n for n in recipe.evaluate.steps if n in rungs] or rungs
    students = {("student", n): open_model(rung_of(run, n)) for n in sorted(chosen if rungs else ())}
    if (run / "stage-one" / INFO).is_file():
        stage_one = open_model(run / "stage-one")
        students["stage-one", stage_one.info.steps or recipe.stage_two.ladder[0]] = stage_one
    return (students, None) if students else ({}, open_model(rung_of(run)))


def teacher_of_run(run: Path, recipe: Recipe) -> str | None:
    """The teacher that the recipe names, or the copy in the run folder; None where it names none.

    Raises:
        InputError: the recipe names a folder or file that is not here, and no hub id.
    """
    path, own = recipe.teacher.path, run / "teacher"
    if path is not None and (Path(path).exists() or bundled(f"{path}-teacher").is_dir()):
        return path
    if (own / INFO).is_file():
        return str(own)
    if path is not None and not HUB_ID.fullmatch(path):
        raise InputError(f"the run's teacher {path} is not here; name it with --against")
    return path


def check_teacher(teacher: Model, name: str | None, students: dict[tuple[str, int], Model]) -> None:
    """Raises InputError where the teacher is none, or makes other images than the students."""
    if teacher.info.kind != "teacher":
        raise InputError(f"--against is a {teacher.info.kind}; name the teacher, the guided model that the student was made from")
    for ((role, steps), student), what in product(students.items(), ("size", "channels", "classes", "process")):
        ours, theirs = getattr(student.info, what), getattr(teacher.info, what)
        if ours != theirs and not (what == "process" and ours == rescaled(theirs)):
            pair = f"; {theirs!r} and {ours!r}" if what in ("size", "channels") else ""
            raise InputError(f"{name} is not the teacher of {role} {steps}: their {what} differ{pair}; name its own with --against")


def rescaled(settings: dict[str, Any]) -> dict[str, Any] | None:
    """The process of students with `student.rescale_zero_terminal_snr`, from their teacher's; None where it has none."""
    process = process_of(settings)
    return process_settings(process.without_terminal_signal()) if isinstance(process, DiscreteBetas) else None


def configurations(
    models: EvaluatedModels, guidance_scale: Sequence[float], baselines: Sequence[str], budgets: Sequence[int],
    reference_steps: int, teacher_steps: Sequence[int] = (),
) -> list[Configuration]:  # fmt: skip
    """Every row of the table, the teacher's reference first at each guidance scale; none twice.

    `teacher_steps` are more numbers of steps in which the teacher's own sampler, DDIM, is measured.

    Raises:
        InputError: an unknown baseline, or a guidance scale or steps that a model was not trained for.
    """
    check_baselines(baselines)
    rows: dict[str, Configuration] = {}

    def add(row: Configuration) -> None:
        rows.setdefault(row.key, row)

    for scale in guidance_scale:
        if teacher := models.teacher:
            for steps in (reference_steps, *teacher_steps):
                evaluations, is_reference = evaluations_of("ddim", steps, scale), steps == reference_steps
                add(Configuration("teacher", teacher, "ddim", steps, scale, evaluations, reference=is_reference))
            for name, budget in product(baselines, budgets):
                if steps := steps_for(name, budget, scale):
                    add(Configuration("teacher", teacher, name, steps, scale, evaluations_of(name, steps, scale), budget))
        for (role, steps), model in models.students.items():
            low, high = model.info.guidance_scale or (scale, scale)
            if not low <= scale <= high:
                raise InputError(
                    f"guidance_scale {scale:g} is outside {low:g} to {high:g}, the range of {role} {steps}; leave it out"
                )
            add(Configuration(role, model, model.info.sampler, steps, scale, steps))
    return list(rows.values())
