"""`fewstep evaluate`: is a student good enough, at how many steps, at which guidance scale, and what was given up?"""

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import PartialState

from fewstep.data import fingerprints
from fewstep.data.loading import NAMED, Data, open_data
from fewstep.devices import best_device
from fewstep.errors import InputError
from fewstep.evaluation.classifier import cache_folder, hash_of
from fewstep.evaluation.clip_score import ClipScore
from fewstep.evaluation.configurations import Contender, Subject, contenders, open_subject
from fewstep.evaluation.evaluation_run import Contest, with_ratios
from fewstep.evaluation.features import open_features
from fewstep.evaluation.labels import Wanted, wanted_of
from fewstep.evaluation.latency import machine
from fewstep.evaluation.metrics import check_enough
from fewstep.evaluation.reference_statistics import reference
from fewstep.evaluation.report import Grids, write_report
from fewstep.evaluation.summary import summary
from fewstep.files import write_atomically
from fewstep.models.model import Model
from fewstep.progress import LiveLine
from fewstep.training.recipe import make_recipe, to_toml
from fewstep.training.settings import EvaluateSettings

SCALES = (1.0, 2.0, 5.0)  # where no recipe names guidance scales
SHOWN_BUDGET = 8  # the baselines' images in the report are those of the budget nearest to this
FORMAT = 2  # of metrics.json; 2: with frechet_to_teacher


def evaluate(
    model: "Model | str | Path",
    data: Any,
    out: str | Path,
    *,
    against: "Model | str | Path | None" = None,
    steps: Sequence[int] | None = None,
    guidance_scale: Sequence[float] | None = None,
    baselines: Sequence[str] | None = None,
    budgets: Sequence[int] | None = None,
    features: str | None = None,
    inception: str | Path | None = None,
    clip: str | None = None,
    prompts: str | None = None,
    samples: int | None = None,
    bootstrap: int | None = None,
    reference_steps: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    resize: bool = False,
    split: str | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure a model, its teacher and baselines on the teacher, from the same noise; what `out/metrics.json` holds.

    `model` is a model folder, a run folder (its rungs in `steps`, and stage one) or a `Model`; `against` its teacher, by default
    that of the run. `data` is "digits", a path, or what `open_data` gives; `resize` crops and resizes it to the model's size,
    `split` names the part of it that is compared with. What is left out comes from [evaluate] of the run's recipe, or is as there
    by default. A model of text is asked for the data's captions, or for the `prompts` of a text file; `clip` names the CLIP model
    that scores them. Also writes `out/report.html`. The same call resumes; other steps, guidance scales, baselines and budgets in
    the same `out` add to what is there.

    Raises:
        InputError: something that cannot be used or does not belong together, images that are not finite, or `out` in use.
    """
    asked = {
        "samples": samples, "steps": steps, "guidance_scale": guidance_scale, "baselines": baselines, "budgets": budgets,
        "features": features_choice(features, inception), "clip": clip, "prompts": prompts, "bootstrap": bootstrap, "reference_steps": reference_steps,
    }  # fmt: skip
    if batch_size < 1 or seed < 0:
        raise InputError(f"batch_size is {batch_size} and seed {seed}; at least 1 and 0 are needed")
    subject = open_subject(model, against, steps)
    settings = settings_of(subject, asked)
    table = contenders(subject, settings.guidance_scale, settings.baselines, settings.budgets, settings.reference_steps)
    examples = examples_of(data, subject, resize, split)
    wanted = wanted_of(subject.any, examples, settings.prompts)
    state = PartialState(cpu=device == "cpu")
    place = best_device(str(state.device) if state.num_processes > 1 else device)
    line = LiveLine(every=10.0, quiet=quiet or not state.is_main_process)
    score = None if settings.clip is None else ClipScore.open(settings.clip, str(place))
    extractor, measured = features_of(examples, wanted, settings, state, str(place), line.quiet, score)
    folder = claim(Path(out), claims(subject, settings, seed, extractor, examples, wanted), state)
    score = None if wanted.classes else score
    contest = Contest(
        folder, state, wanted, extractor, measured, settings.samples, batch_size, seed, settings.bootstrap, line, score
    )
    subject.to(place)
    contest.plan(table)
    rows = with_ratios([*map(contest.row, table), *contest.earlier(table)], settings.reference_steps)
    processes = {"seed": seed, "batch_size": batch_size, "processes": state.num_processes}
    metrics = {
        "format": FORMAT, "summary": summary(rows, settings.reference_steps), "rows": rows,
        "model": name_of(model), "against": None if subject.teacher is None else subject.teacher_name,
        "data": said_of(examples, wanted) | {"accuracy": measured.accuracy}, "features": described(extractor),
        "settings": settings.model_dump(mode="json") | processes,
        "machine": machine(place), "versions": {name: version(name) for name in ("fewstep", "torch", "diffusers")},
    }  # fmt: skip
    if state.is_main_process:
        write_results(folder, metrics, subject, grids_of(contest, table))
    state.wait_for_everyone()
    return metrics


def said_of(examples: Any, wanted: Wanted) -> dict[str, Any]:
    """What the results say of the data; of captions their number alone."""
    known = examples.description
    return known if wanted.classes else {k: v for k, v in known.items() if k != "classes"} | {"captions": len(examples.classes)}


def described(extractor: Any) -> dict[str, Any]:
    """What the results say of the features."""
    known = {"name": extractor.name, "dimension": extractor.dimension}
    return known | {"held_out_accuracy": extractor.accuracy_of, "fingerprint": extractor.fingerprint}


def features_choice(features: str | None, inception: str | Path | None) -> str | None:
    """The features' name in one word.

    Raises:
        InputError: both are given.
    """
    if inception is not None and features is not None:
        raise InputError(f"features '{features}' and an Inception file are both given; name one of them")
    return features if inception is None else f"inception={inception}"


def settings_of(subject: Subject, asked: dict[str, Any]) -> EvaluateSettings:
    """What was asked for, over [evaluate] of the run's recipe, over the defaults.

    Raises:
        InputError: a value out of its bounds.
    """
    base = subject.recipe.evaluate if subject.recipe else EvaluateSettings(guidance_scale=SCALES)
    given = {key: list(v) if isinstance(v, tuple) else v for key, v in asked.items() if v is not None}
    return make_recipe({"evaluate": base.model_dump() | given}, "fewstep evaluate").evaluate


def examples_of(data: Any, subject: Subject, resize: bool, split: str | None) -> Any:
    """The data, of the model's size, channels and classes; resized, and the part of it, as is asked for or as the run's recipe did.

    Raises:
        InputError: they cannot be opened, or are of another size.
    """
    info = subject.any.info
    channels, size = info.picture
    if not hasattr(data, "batch"):
        known: dict[str, Any] = {"name": data} if data in NAMED and not Path(data).exists() else {"path": str(data)}
        trained = subject.recipe.data if subject.recipe else None
        if resize or (trained and trained.size):
            known |= {"size": size, "channels": channels}
        if trained:
            known |= {
                key: getattr(trained, key)
                for key in ("classes", "image_column", "label_column", "caption_column", "split", "layout")
            }
        known |= {} if split is None else {"split": split}
        known["captions"] = info.condition == "text"
        try:
            data = open_data(**known)
        except InputError as error:
            if "differ in size" in str(error) or "not square" in str(error):
                raise InputError(f"{data}: the pictures differ in size, the model's is {size}; add --resize") from None
            raise
    if (data.size, data.channels) != (size, channels):
        found = f"{data.size}x{data.size} with {data.channels} channel{'s' * (data.channels > 1)}"
        raise InputError(f"the data are {found}, the model's images {size}x{size} with {channels}; give data that fit, or --resize")
    if info.condition == "class" and len(data.classes) != len(info.classes):
        raise InputError(
            f"the data's number of classes is {len(data.classes)}, the model's {len(info.classes)}; give data that fit"
        )
    if info.condition == "class" and tuple(data.classes) != info.classes and set(data.classes) == set(info.classes):
        raise InputError(
            f"the data's classes are the model's in another order, {', '.join(data.classes[:3])}, ...: sort the data's labels as the model's"
        )
    return data


def features_of(
    examples: Any, wanted: Wanted, settings: EvaluateSettings, state: PartialState, device: str, quiet: bool, clip: ClipScore | None
) -> tuple[Any, Any]:
    """(features, the data's reference in them); trained and computed by one process of a machine, and cached.

    Raises:
        InputError: they cannot be opened, there are fewer samples or data than features, or captions and no features but a classifier's.
    """
    cache, choice = cache_folder(examples), settings.features
    if not wanted.classes and choice == "classifier":
        if clip is None:
            raise InputError(
                "features 'classifier' are for classes; for a model of text name --clip MODEL, --inception FILE or --features"
            )
        choice = "clip"
    with state.local_main_process_first():
        extractor = open_features(choice, examples, cache, device, quiet, clip)
        check_enough(settings.samples, extractor.dimension)
        measured = reference(extractor, examples, cache, quiet=quiet)
    if measured.count <= extractor.dimension:
        raise InputError(
            f"{measured.count} images of data have a singular covariance of {extractor.dimension} features; "
            f"at least {extractor.dimension + 1} are needed: give more data, or name features of fewer dimensions"
        )
    return extractor, measured


def claims(
    subject: Subject, settings: EvaluateSettings, seed: int, extractor: Any, examples: Any, wanted: Wanted
) -> dict[str, Any]:
    """What all rows of an output folder must share, and the weights that each role has there."""
    known = {
        "samples": settings.samples,
        "seed": seed,
        "bootstrap": settings.bootstrap,
        "reference_steps": settings.reference_steps,
    }
    known |= {"features": extractor.name + " " + extractor.fingerprint[:12], "data": data_name(examples)}
    asked = hashlib.sha256("\n".join(wanted.names).encode()).hexdigest()[:12]
    known |= {"clip": settings.clip, "prompts": settings.prompts and asked}
    models = {f"{role} {steps}": model for (role, steps), model in subject.students.items()}
    if subject.teacher is not None:
        models["teacher"] = subject.teacher
    return known | {role: weights_hash(model) for role, model in models.items()}


def data_name(examples: Any) -> str:
    """A short hash of data in memory; of streamed ones what is said of them."""
    return hash_of(examples)[:12] if isinstance(examples, Data) else json.dumps(examples.description, sort_keys=True, default=str)


def weights_hash(model: Model) -> str:
    """A short hash of the network's weights."""
    return fingerprints.of_weights(model.denoiser.network.state_dict())[:12]


def claim(out: Path, known: dict[str, Any], state: PartialState) -> Path:
    """The output folder, made if new, with what its rows share written into it.

    Raises:
        InputError: it holds something else, or the evaluation of something else, naming the key that changed.
    """
    path, before = out / "evaluation.json", {}
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            raise InputError(f"{path} is damaged; name another --out") from None
        for key, value in known.items():
            if before.get(key, value) != value:
                raise InputError(
                    f"{out} holds an evaluation with {key} {before[key]!r}, not {value!r}; put it back, or name another --out"
                )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something else; name a folder that is new or empty, or an evaluation to go on with")
    state.wait_for_everyone()
    if state.is_main_process:
        write_atomically(path, lambda aside: aside.write_text(json.dumps(before | known, indent=1) + "\n", encoding="utf-8"))
    state.wait_for_everyone()
    return out


def name_of(model: Any) -> str:
    """What a model is called in the results."""
    return f"{model.info.kind} from Python" if isinstance(model, Model) else str(model)


def grids_of(contest: Contest, table: list[Contender]) -> Grids:
    """A few samples of each way to draw them, all from the same noise: of baselines, those of one budget."""
    budgets = [c.budget for c in table if c.budget]
    budget = min(budgets, key=lambda b: abs(b - SHOWN_BUDGET)) if budgets else None
    grids: Grids = {}
    for c in table:
        shown = contest.shown(c) if c.role != "stage-one" and (c.budget is None or c.budget == budget) else None
        if shown is not None:
            grids[c.sampler if c.budget else c.role, c.budget or c.steps, c.guidance_scale] = shown
    return grids


def write_results(out: Path, metrics: dict[str, Any], subject: Subject, grids: Grids) -> None:
    """Write `metrics.json` and `report.html`.

    Raises:
        InputError: the disk is full or not writable.
    """
    text = json.dumps(metrics, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(out / "metrics.json", lambda aside: aside.write_text(text, encoding="utf-8"))
    log = subject.run / "log.jsonl" if subject.run else None
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")] if log and log.is_file() else []
    recipe = to_toml(subject.recipe) if subject.recipe else ""
    write_report(out, metrics, grids, f"Evaluation of {metrics['model']}", recipe=recipe, log=lines)
