"""Run folders and the two calls that fill them: `teach` and `distill`, for commands and from Python."""

from pathlib import Path
from typing import Any

from fewstep.data.latent_cache import CachedData
from fewstep.errors import InputError
from fewstep.files import write_atomically
from fewstep.models.denoiser import Denoiser
from fewstep.models.lora import has_adapters
from fewstep.models.model import Model
from fewstep.models.pretrained import WriteCard, open_model
from fewstep.training.distill import distill_model, teacher_around, train_teacher
from fewstep.training.examples import ToCache, free, masked, negative_prompts_of, open_examples, prepared, to_cache
from fewstep.training.recipe import Recipe, arguments, first_difference, load_recipe, to_toml
from fewstep.training.settings import TeacherSettings
from fewstep.training.trainer import Trainer


def write_cache(
    recipe: str | Path | Recipe | None,
    out: str | Path,
    *,
    changes: dict[str, Any] | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> CachedData:
    """Write what the recipe's teacher is distilled on, encoded, into the folder `out`. The same call resumes and mends.

    Raises:
        InputError: recipe, teacher or data cannot be used, the folder holds something else, or the disk is full.
    """
    settings = load_recipe(recipe, changes)
    if settings.data.cache is not None:
        raise InputError("data.cache names a cache that is there already: leave it out, or distil with it")
    model = teacher_of(settings.teacher.path, None, settings.teacher)
    return to_cache(settings, model).written(Path(out), settings, device, quiet, again=True)


def open_run(out: str | Path, recipe: Recipe) -> Path:
    """The run folder `out`, made if new, with the resolved recipe in it.

    Raises:
        InputError: it holds something else, or a run of another recipe (naming the key that changed).
    """
    run = Path(out)
    known = run / "recipe.toml"
    if known.is_file():
        changed = first_difference(load_recipe(known), recipe)
        if changed:
            raise InputError(f"run {run} was begun with another recipe: {changed}; put it back, or name another --out")
    elif run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise InputError(f"{run} holds something else; name a folder that is new or empty, or a run to go on with")
    text = to_toml(recipe, run)
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not known.is_file():
            write_atomically(known, lambda aside: aside.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot write the run folder {run}: {error.strerror}; name another --out") from None
    return run


def teach(
    recipe: str | Path | Recipe,
    out: str | Path,
    *,
    changes: dict[str, Any] | None = None,
    device: str | None = None,
    quiet: bool = False,
    write_card: WriteCard | None = None,
) -> Model:
    """Train a guided teacher by a recipe into the run folder `out`; its model folder is `out/teacher`. The same call resumes.

    With `teach.start` the model of that folder is trained on, of whatever family: its network alone, text encoder and VAE stay.

    Raises:
        InputError: recipe, data or folder cannot be used.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    settings = load_recipe(recipe, changes)
    start = None if settings.teach.start is None else teacher_of(settings.teach.start, None)
    if start is None:
        examples = masked(open_examples(settings), settings)
        run = open_run(out, settings)
    else:
        if start.info.kind != "teacher":
            raise InputError("teach.start is a student or an encoder, and the denoising loss would undo it; name a teacher")
        run, examples = prepare_run(out, settings, start, None, device, quiet)
        if isinstance(examples, CachedData):
            free(start)
    trainer = Trainer(run, examples, settings.train, device, quiet)
    try:
        return train_teacher(settings, examples, trainer, start, write_card)
    finally:
        trainer.close()


def distill(
    teacher: "Model | Denoiser | str | Path | None" = None,
    data: Any = None,
    *,
    out: str | Path,
    recipe: str | Path | Recipe | None = None,
    steps: int | None = None,
    guidance_scale: tuple[float, float] | None = None,
    changes: dict[str, Any] | None = None,
    device: str | None = None,
    quiet: bool = False,
    write_card: WriteCard | None = None,
) -> Model:
    """Distil a guided teacher into a student of `steps` steps for every guidance scale in the range; returns that student.

    `teacher` is a model, its folder, or a `Denoiser` around a network of one's own; `data` a path or what `open_data` gives; each
    may come from the recipe instead. Every rung's student is a model folder in the run folder `out`. The same call resumes.

    Raises:
        InputError: recipe, teacher, data or folder cannot be used, or do not belong together.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    settings = load_recipe(recipe, arguments(recipe, teacher, data, steps, guidance_scale) | (changes or {}))
    model = teacher_of(teacher if teacher is not None else settings.teacher.path, data, settings.teacher)
    run, examples = prepare_run(out, settings, model, data, device, quiet)
    negatives = negative_prompts_of(settings, model)
    if isinstance(examples, CachedData):
        free(model)
    trainer = Trainer(run, examples, settings.train, device, quiet)
    try:
        name, student = list(distill_model(settings, model, examples, trainer, negatives, write_card).items())[
            len(settings.stage_two.ladder) - 1
        ]
        return open_model(run / name, student.denoiser.device) if has_adapters(student.denoiser.network) else student
    finally:
        trainer.close()


def prepare_run(out: str | Path, settings: Recipe, model: Model, data: Any, device: str | None, quiet: bool) -> tuple[Path, Any]:
    """The run folder, and what the model is trained on, of `data` or of the recipe's; its cache is written first where it needs one.

    Raises:
        InputError: data or folder cannot be used, or the data do not fit the model.
    """
    examples = prepared(data, settings, model)
    if not isinstance(examples, ToCache):
        check_match(model, examples)
    run = open_run(out, settings)
    if isinstance(examples, ToCache):
        examples = examples.written(run / "cache", settings, device, quiet)
        check_match(model, examples)
    return run, examples


def teacher_of(teacher: Any, data: Any, settings: TeacherSettings | None = None) -> Model:
    """A `Model` of whatever `distill` was given; the settings say which revision and variant of a hub id.

    Raises:
        InputError: nothing was given, or a folder that cannot be opened.
    """
    if teacher is None:
        raise InputError("no teacher is given; name one: --teacher FOLDER, or [teacher] path in the recipe (bundled: digits)")
    if isinstance(teacher, Denoiser):
        return own_model(teacher, data)
    if isinstance(teacher, Model):
        return teacher
    settings = settings or TeacherSettings()
    return open_model(teacher, revision=settings.revision, variant=settings.variant)


def own_model(denoiser: Denoiser, data: Any) -> Model:
    """A teacher around a network of one's own; it takes its classes, size and channels from `data`.

    Raises:
        InputError: `data` is not what `open_data` gives.
    """
    from fewstep.models.families.own import Own

    if not all(hasattr(data, name) for name in ("batch", "classes", "size", "channels", "description")):
        raise InputError("a network of one's own needs data = fewstep.open_data(...), which says its classes, size and channels")
    denoiser.network.eval()
    return teacher_around(denoiser, Own(denoiser.network, denoiser.call), data)


def check_match(teacher: Model, data: Any) -> None:
    """Data and teacher must have the same image size, channels and number of classes.

    Raises:
        InputError: they do not.
    """
    info, (x, _) = teacher.info, data.batch(0, 1)
    classes = len(getattr(data, "classes", info.classes)) if info.condition == "class" else 0
    whole = [("shape", tuple(x.shape[1:]), info.shape)] if info.latent_shape else []
    for what, ours, theirs in (
        *whole, ("size", x.shape[-1], info.size), ("channels", x.shape[1], info.channels), ("number of classes", classes, len(info.classes)),
    ):  # fmt: skip
        if ours != theirs:
            raise InputError(
                f"the data's {what} is {ours}, the teacher's {theirs}; give data that fits the teacher (data.size, data.channels)"
            )
