"""`fewstep evaluate`: is a student good enough, at how many steps, at which guidance scale, and what was given up?"""

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor

from fewstep.data import fingerprints
from fewstep.data.datasets import matched
from fewstep.data.loading import NAMED, Data, open_data
from fewstep.data.prompts import prompt_file
from fewstep.data.summary import announce
from fewstep.devices import best_device, check_device
from fewstep.errors import InputError, check_whole_number, shown
from fewstep.evaluation.accumulator import Accumulator, data_statistics
from fewstep.evaluation.classifier import cache_folder, hash_of
from fewstep.evaluation.clip_score import ClipScore
from fewstep.evaluation.configurations import Configuration, EvaluatedModels, configurations, open_models
from fewstep.evaluation.evaluation_run import EvaluationRun, with_ratios
from fewstep.evaluation.extrapolation import check_enough_to_extrapolate
from fewstep.evaluation.feature_files import INCEPTION, open_features
from fewstep.evaluation.features import Features
from fewstep.evaluation.latency import machine
from fewstep.evaluation.presets import default_batch_size, settings_of
from fewstep.evaluation.report import Grids, write_report
from fewstep.evaluation.sample_conditions import SampleConditions, sample_conditions
from fewstep.evaluation.scorer import Scorer
from fewstep.evaluation.statistics import KEPT
from fewstep.evaluation.summary import summary
from fewstep.evaluation.training_samples import strips_of
from fewstep.files import contents, os_errors, utf8_path_of, write_atomically
from fewstep.hashed import claim
from fewstep.locks import locked
from fewstep.models.model import Model
from fewstep.models.sampling import LARGEST_SEED
from fewstep.models.sounds import check_no_sound
from fewstep.progress import LiveLine
from fewstep.training.logging import entries_of
from fewstep.training.recipe import make_recipe, to_toml
from fewstep.training.settings import EvaluateSettings

SHOWN_BUDGET = 8  # the baselines' images in the report are those of the budget nearest to this
RECORD = "evaluation.json"  # in the output folder: what its rows share
FORMAT = 2  # of metrics.json; 2: with frechet_to_teacher


@os_errors()
def evaluate(
    model: Model | str | Path, data: Any, out: str | Path, *, against: Model | str | Path | None = None,
    variant: str | None = None, preset: str = "quick",
    inception: str | Path | None = None, batch_size: int | None = None, seed: int = 0, resize: bool = False,
    split: str | None = None, class_names: str | None = None, device: str | None = None, quiet: bool = False,
    score: str | Callable[..., Any] | None = None, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Measure a model, its teacher and baselines on the teacher, from the same noise; the content of `out/metrics.json`.

    `model` is a model folder, a run folder (its rungs in `steps`, and stage one) or a `Model`; `against` its teacher, by default
    that of the run, `variant` that of the teacher's weights. `data` is "digits", a path, or what `open_data` gives; `resize` crops and resizes it to the model's size,
    `split` names the part of it that is compared with, `class_names` is as `data.class_names` of a recipe. `settings` are keys of a recipe's [evaluate]: `steps`, `guidance_scale`,
    `baselines`, `budgets`, `reference_steps`, `samples`, `features`, `clip`, `prompts`, `bootstrap`, `extrapolate`. A key that is left out is that of
    the run's recipe, or without one there that of the `preset`: "quick", which evaluates networks no more often than the run's
    training did, or "full". `inception` is the file of FID's features. Without a `batch_size` it follows device and image size.
    `score` is a function of (images float32 (n, c, h, w) in [-1, 1], n prompts or names of classes) to n numbers, or its name "module:function":
    its mean and interval are columns. No recipe can name one, since it is code.

    Also writes `out/report.html`. The same call resumes; other steps, guidance scales, baselines and budgets in the same `out` add
    to what is there.

    Raises:
        InputError: something that cannot be used or does not belong together, images that are not finite, or `out` in use.
    """
    check_whole_number("batch_size", 1 if batch_size is None else batch_size, 1)
    check_whole_number("seed", seed, 0, LARGEST_SEED)
    check_device(device)
    out = utf8_path_of("folder", out)
    if inception is not None:
        if (other := settings.get("features")) is not None:
            raise InputError(f"features '{other}' and an Inception file are both given; name one of them")
        settings["features"] = f"{INCEPTION}{inception}"
    scorer = None if score is None else Scorer.open(score)
    given = {key: value for key, value in settings.items() if value is not None}
    make_recipe({"evaluate": given}, "fewstep evaluate")  # which checks them
    models = open_models(model, against, settings.get("steps"), variant)
    check_no_sound(models.any.info, "evaluate")
    chosen = settings_of(models, preset, settings)
    table = configurations(models, chosen.guidance_scale, chosen.baselines, chosen.budgets, chosen.reference_steps)
    examples, choices = (
        examples_of(data, models, resize, split, class_names),
        {"batch_size": batch_size, "seed": seed, "scorer": scorer},
    )
    announce(examples, quiet)
    if chosen.prompts is not None and models.any.info.condition == "text":
        announce(prompt_file(chosen.prompts, "evaluate.prompts"), quiet)
    with locked(out):
        metrics, grids = measure(models, table, chosen, examples, Path(out), device=device, quiet=quiet, **choices)
        metrics["model"] = f"{model.info.kind} from Python" if isinstance(model, Model) else str(model)
        write_results(Path(out), metrics, grids, models, f"Evaluation of {metrics['model']}")
    return metrics


def measure(
    models: EvaluatedModels, table: list[Configuration], settings: EvaluateSettings, examples: Any, out: Path, *,
    batch_size: int | None = None, seed: int = 0, device: str | None = None, quiet: bool = False,
    noise: Tensor | None = None, cache: Path | None = None, scorer: Scorer | None = None,
) -> tuple[dict[str, Any], Grids]:  # fmt: skip
    """(what `metrics.json` holds, the pictures of the report) of every configuration in `table`, measured against the examples.

    What is finished is kept in `out`. `noise` (samples, ...) is what samples begin with in place of that of the seed; `cache` is the
    folder of the data's classifier and statistics.
    """
    conditions = sample_conditions(models.any, examples, settings.prompts)
    state = PartialState(cpu=device == "cpu")
    place = best_device(str(state.device) if state.num_processes > 1 else device)
    batch_size = batch_size or default_batch_size(place, models.any.info.shape)
    line = LiveLine(every=10.0, quiet=quiet or not state.is_main_process)
    clip = None if settings.clip is None else ClipScore.open(settings.clip, str(place))
    cache = cache or cache_folder(examples)
    features, statistics = features_of(examples, conditions, settings, cache, str(place), line.quiet, clip)
    known = compatibility(models, settings, seed, features, examples, conditions)
    if not (out / RECORD).is_file() and out.exists() and (not out.is_dir() or contents(out)):
        raise InputError(
            f"{out} holds something else, for it has no {RECORD}; name a folder that is new or empty, or an evaluation to go on with"
        )
    known |= {"score": scorer and scorer.fingerprint}
    claim(out / RECORD, known, "an evaluation", state)
    run = EvaluationRun(
        out, state, conditions, features, statistics, settings.samples, batch_size, seed, settings.bootstrap, line,
        None if conditions.classes else clip, noise, scorer, settings.extrapolate,
    )  # fmt: skip
    models.to(place)
    run.plan(table)
    rows = with_ratios(run.measure(table), settings.reference_steps)
    facts = dict(examples.description)
    if not conditions.classes:  # of captions their number alone
        facts = {k: v for k, v in facts.items() if k != "classes"} | {"captions": len(examples.classes)}
    metrics = {
        "format": FORMAT, "summary": summary(rows, settings.reference_steps), "rows": rows, "model": None,
        "against": None if models.teacher is None else models.teacher_name,
        "data": facts | {"accuracy": statistics.mean("right", "labelled")},
        "features": {key: getattr(features, key) for key in ("name", "dimension", "held_out_accuracy", "fingerprint")},
        "settings": settings.model_dump(mode="json") | {
            "seed": seed, "batch_size": batch_size, "processes": state.num_processes, "score": scorer and scorer.name,
        },
        "machine": machine(place), "versions": {name: version(name) for name in ("fewstep", "torch", "diffusers")},
    }  # fmt: skip
    return metrics, grids_of(run, table)


def examples_of(data: Any, models: EvaluatedModels, resize: bool, split: str | None, class_names: str | None = None) -> Any:
    """The data, of the model's size, channels and classes; resized, and the part of it, as is asked for or as the run's recipe did.

    Raises:
        InputError: they cannot be opened, or are of another size or other classes.
    """
    if class_names not in (None, "match", "by-order"):
        raise InputError(f"class_names is {shown(class_names)}; give 'match' or 'by-order'")
    info = models.any.info
    channels, size = info.picture
    trained = models.recipe.data if models.recipe else None
    if not hasattr(data, "batch"):
        if (height := info.picture_shape[1]) != size:
            raise InputError(
                f"the model's pictures are {size}x{height}, and evaluate reads squares alone: give data of fewstep.Data"
            )
        known: dict[str, Any] = {"name": data} if data in NAMED and not Path(data).exists() else {"path": str(data)}
        if resize or (trained and (trained.size or trained.buckets)):
            known |= {"size": size, "channels": channels}
        if trained:
            columns = {"image_column", "label_column", "caption_column"}
            known |= trained.model_dump(include=columns | {"classes", "split", "layout"})
        known |= {} if split is None else {"split": split}
        try:
            data = open_data(**known, captions=info.condition == "text", report=lambda line: None)
        except InputError as error:
            if "differ in size" in str(error) or "not square" in str(error):
                raise InputError(f"{data}: the pictures differ in size, the model's is {size}; add --resize") from None
            raise
    if (data.size, data.channels) != (size, channels):
        found = f"{data.size}x{data.size} with {data.channels} channel{'s' * (data.channels > 1)}"
        raise InputError(f"the data are {found}, the model's images {size}x{size} with {channels}; give data that fit, or --resize")
    if info.condition == "class":
        data = matched(data, info.classes, class_names or (trained.class_names if trained else "match"))
        if len(data.classes) != len(info.classes):
            counts = f"the data's number of classes is {len(data.classes)}, the model's {len(info.classes)}"
            raise InputError(f"{counts}; give data that fit")
    return data


def features_of(
    examples: Any, conditions: SampleConditions, settings: EvaluateSettings, cache: Path, device: str, quiet: bool, clip: ClipScore | None
) -> tuple[Features, Accumulator]:  # fmt: skip
    """(features, the data's statistics in them); trained and computed by one process of a machine, and cached.

    Raises:
        InputError: they cannot be opened, there are fewer samples or data than features, or captions and no features but a classifier's.
    """
    choice = settings.features
    if not conditions.classes and choice == "classifier":
        if clip is None:
            raise InputError("features 'classifier' are for classes; of text name --clip MODEL, --inception FILE or --features")
        choice = "clip"
    with PartialState().local_main_process_first():
        features = open_features(choice, examples, cache, device, quiet, clip)
        check_enough(settings.samples, "samples", features)
        if settings.extrapolate:
            check_enough_to_extrapolate(min(settings.samples, KEPT), features.dimension)
        statistics = data_statistics(features, examples, cache, quiet=quiet)
    check_enough(statistics.moments.count, "images of data", features)
    return features, statistics


def check_enough(count: int, what: str, features: Features) -> None:
    """Raises InputError where so few samples or data have a singular covariance of these features."""
    if count <= features.dimension:
        raise InputError(
            f"{count} {what} have a singular covariance of {features.dimension} features; "
            f"at least {features.dimension + 1} are needed: give more, or name features of fewer dimensions"
        )


def compatibility(
    models: EvaluatedModels, settings: EvaluateSettings, seed: int, features: Features, examples: Any, conditions: SampleConditions
) -> dict[str, Any]:
    """What all rows of an output folder must share, and the weights that each role has there."""
    prompts = hashlib.sha256("\n".join(conditions.names).encode()).hexdigest()[:12]
    in_memory = isinstance(examples, Data)
    data = hash_of(examples)[:12] if in_memory else json.dumps(examples.description, sort_keys=True, default=str)
    roles = {f"{role} {steps}": model for (role, steps), model in models.students.items()} | {"teacher": models.teacher}
    weights = {role: fingerprints.of_weights(m.denoiser.network.state_dict())[:12] for role, m in roles.items() if m}
    known = settings.model_dump(include={"samples", "bootstrap", "extrapolate", "reference_steps", "clip"})
    known |= {"seed": seed, "features": f"{features.name} {features.fingerprint[:12]}"}
    return known | {"prompts": settings.prompts and prompts, "data": data} | weights


def grids_of(run: EvaluationRun, table: list[Configuration]) -> Grids:
    """A few samples of each way to draw them, all from the same noise: of baselines, those of one budget."""
    budgets = [c.budget for c in table if c.budget]
    budget = min(budgets, key=lambda b: abs(b - SHOWN_BUDGET)) if budgets else None
    shown = [c for c in table if c.role != "stage-one" and c.budget in (None, budget)]
    grids = {(c.sampler if c.budget else c.role, c.budget or c.steps, c.guidance_scale): run.kept(c).get("shown") for c in shown}
    return {key: samples.float() for key, samples in grids.items() if samples is not None}


def write_results(out: Path, metrics: dict[str, Any], grids: Grids, models: EvaluatedModels, title: str) -> None:
    """Write `metrics.json` and `report.html`, by the main process.

    Raises:
        InputError: the disk is full or not writable.
    """
    state = PartialState()
    if state.is_main_process:
        text = json.dumps(metrics, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        write_atomically(out / "metrics.json", lambda aside: aside.write_text(text, encoding="utf-8"))
        lines, strips = (entries_of(models.run / "log.jsonl"), strips_of(models.run)) if models.run else ([], [])
        write_report(out, metrics, grids, title, recipe=to_toml(models.recipe) if models.recipe else "", log=lines, training=strips)
    state.wait_for_everyone()
