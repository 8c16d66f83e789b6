"""Run folders and the two calls that fill them: `teach` and `distill`, for commands and from Python."""

from contextlib import closing
from pathlib import Path
from typing import Any

from fewstep.data.batch_order import InBuckets
from fewstep.data.latent_cache import CachedData
from fewstep.data.summary import announce
from fewstep.devices import best_device, check_device
from fewstep.errors import InputError
from fewstep.files import contents, os_errors, utf8_path_of
from fewstep.models.denoiser import Denoiser, check_finite
from fewstep.models.half_weights import DTYPES
from fewstep.models.lora import has_adapters
from fewstep.models.metadata import INFO
from fewstep.models.model import Model
from fewstep.models.pretrained import guided_as, open_model, save_model
from fewstep.training.distill import check_teacher, distill_model, teacher_around, train_teacher
from fewstep.training.examples import ToCache, free, masked, negative_prompts_of, open_examples, prepared, to_cache
from fewstep.training.memory_estimate import check_disk, check_memory
from fewstep.training.recipe import RECIPE, Recipe, first_difference, load_recipe, write_recipe
from fewstep.training.sharing import check_launch
from fewstep.training.stage_settings import TeacherSettings
from fewstep.training.trainer import Save, Trainer

CACHE = "cache"  # in a run folder


@os_errors()
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
    examples = to_cache(settings, model)
    announce(examples.rows, quiet)
    return examples.written(utf8_path_of("folder", out), settings, device, quiet, again=True)


def open_run(out: str | Path, recipe: Recipe) -> Path:
    """The run folder `out`, made if new, with the resolved recipe in it. Raises InputError as `check_run` does."""
    write_recipe(run := check_run(out, recipe), recipe)
    return run


@os_errors()
def check_run(out: str | Path, recipe: Recipe) -> Path:
    """The run folder `out`: new, or a run of this recipe, or of any where nothing has been trained yet. Nothing is written.

    Raises:
        InputError: it holds something else, or a run of another recipe (naming the key that changed).
    """
    run = utf8_path_of("folder", out)
    known = run / RECIPE
    if known.is_file():
        changed = first_difference(load_recipe(known), recipe)
        if changed and ((run / "checkpoint").is_dir() or any(run.glob(f"*/{INFO}"))):
            raise InputError(f"run {run} was begun with another recipe ({known}): {changed}; put it back, or name another --out")
    elif (run / "checkpoint").is_dir() or any(run.glob(f"*-*/{INFO}")):
        raise InputError(
            f"{known} is missing, so it is not known by what recipe {run} was begun; copy it again, or name another --out"
        )
    elif run.exists() and (not run.is_dir() or any(path.name != CACHE for path in contents(run))):
        raise InputError(f"{run} holds something else; name a folder that is new or empty, or a run to go on with")
    return run


def teach(recipe: Recipe, out: str | Path, device: str | None = None, quiet: bool = False, save: Save = save_model) -> Model:
    """As `fewstep.teach`, by a recipe in hand; `save` writes the model's folder."""
    check_device(device)
    check_launch(recipe.train)
    start = None if recipe.teach.start is None else teacher_of(recipe.teach.start, None)
    if start is None:
        run, examples = check_run(out, recipe), masked(open_examples(recipe), recipe)
        announce(examples, quiet)
    elif start.info.kind != "teacher":
        raise InputError(
            "teach.start is a student or an encoder, and the denoising loss would undo it; train its teacher on, as by a LoRA (teacher.lora), and distil that with student.start naming this one's run"
        )
    else:
        run, examples = prepare_run(out, recipe, start, None, device, quiet)
    with closing(Trainer(run, examples, recipe.train, device, quiet, save)) as trainer:
        return train_teacher(recipe, examples, trainer, start)


def distill(
    recipe: Recipe,
    teacher: Any,
    data: Any,
    out: str | Path,
    device: str | None = None,
    quiet: bool = False,
    save: Save = save_model,
) -> Model:
    """As `fewstep.distill`, by a recipe in hand; `save` writes each stage's model folder."""
    check_device(device)
    check_launch(recipe.train)
    model = teacher_of(teacher if teacher is not None else recipe.teacher.path, data, recipe.teacher)
    check_teacher(model)
    negatives = negative_prompts_of(recipe, model, quiet)
    check_memory(recipe, model, best_device(device))
    check_disk(recipe, model, check_run(out, recipe))
    run, examples = prepare_run(out, recipe, model, data, device, quiet)
    with closing(Trainer(run, examples, recipe.train, device, quiet, save)) as trainer:
        held, model = [model], None  # handed over: from here on `distill_model` alone holds the teacher
        student = distill_model(recipe, held.pop(), examples, trainer, negatives)
    ladder = recipe.stage_two.ladder
    name = f"steps-{ladder[-1]:04d}" if len(ladder) > 1 else "stage-one"
    if has_adapters(student.denoiser.network):
        place = student.denoiser.device
        del student  # which holds the base
        return open_model(run / name, place, dtype=None)
    return student


def prepare_run(out: str | Path, settings: Recipe, model: Model, data: Any, device: str | None, quiet: bool) -> tuple[Path, Any]:
    """The run folder, and what the model is trained on, of `data` or of the recipe's; its cache is written first where it needs one.

    Raises:
        InputError: data or folder cannot be used, or the data do not fit the model.
    """
    examples, run = prepared(data, settings, model), check_run(out, settings)
    if isinstance(examples, ToCache):
        announce(examples.rows, quiet)
        examples = examples.written(run / CACHE, settings, device, quiet)
        check_match(model, examples)
    else:
        check_match(model, examples)
        announce(examples, quiet)
    if isinstance(examples, CachedData):
        free(model)
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
    if not isinstance(teacher, Model):
        chosen = {} if settings is None else settings.model_dump(include={"revision", "variant", "lora", "force"})
        dtype = None if settings is None or settings.dtype is None else DTYPES[settings.dtype]
        teacher = open_model(teacher, **chosen, dtype=dtype)
    return guided_as(teacher, settings.rule) if settings else teacher


def own_model(denoiser: Denoiser, data: Any) -> Model:
    """A teacher around a network of one's own; it takes its classes, size and channels from `data`.

    Raises:
        InputError: `data` is not what `open_data` gives.
    """
    from fewstep.models.families.own import Own

    if not all(hasattr(data, name) for name in ("batch", "classes", "size", "channels", "description")):
        raise InputError("a network of one's own needs data = fewstep.open_data(...), which says its classes, size and channels")
    check_finite(denoiser.network, "the teacher's network")
    denoiser.network.eval()
    return teacher_around(denoiser, Own(denoiser.network, denoiser.call), data)


def check_match(teacher: Model, data: Any) -> None:
    """Raises InputError where data and teacher differ in image size, channels or number of classes."""
    info, (x, _) = teacher.info, data.batch(0, 1)
    classes = len(getattr(data, "classes", info.classes)) if info.condition == "class" else 0
    sizes = [("shape", tuple(x.shape[1:]), info.shape)] if info.latent_shape else []
    sizes += [("size", x.shape[-1], info.size)]
    for what, ours, theirs in (
        *([] if isinstance(data, InBuckets) and data.buckets else sizes), ("channels", x.shape[1], info.channels), ("number of classes", classes, len(info.classes)),
    ):  # fmt: skip
        if ours != theirs:
            raise InputError(
                f"the data's {what} is {ours}, the teacher's {theirs}; give data that fits the teacher (data.size, data.channels)"
            )
