"""`fewstep compare`: models side by side on one page, drawn from the same noise, with their facts, their settings and what was measured of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fewstep.devices import best_device
from fewstep.errors import InputError, check_number, check_whole_number, shown
from fewstep.evaluation.charts import DARK, LIGHT, loss_panels_of, quality_panels
from fewstep.evaluation.configurations import run_of
from fewstep.evaluation.differences import Source, comparable_rows, differing_settings, facts_of
from fewstep.evaluation.presets import default_batch_size
from fewstep.evaluation.report import image_of_grid, strip, template
from fewstep.evaluation.results_table import columns, span, tables
from fewstep.files import check_new, os_errors, utf8_path_of, written_whole
from fewstep.models.metadata import INFO, Info, is_run, name_of, read_info, rung_of, rungs_in
from fewstep.models.model import DEFAULT_STEPS
from fewstep.models.pretrained import local_folder, open_model
from fewstep.models.sampling import Samples, initial_noise
from fewstep.models.sounds import check_no_sound
from fewstep.progress import LiveLine
from fewstep.training.logging import entries_of

IMAGES = 8  # of each model at each guidance scale
ANY_SCALES = (1.0, 2.0, 5.0)  # where every model takes any


@dataclass(frozen=True)
class Column:
    """A model of the page: the name of what was given, its folder, the steps that it is drawn in, and the run that it is of."""

    name: str
    path: str
    folder: Path
    info: Info
    steps: int
    run: Path | None

    @property
    def title(self) -> str:
        """ "mine, 4 steps"."""
        return f"{self.name}, {self.steps} step{'s' * (self.steps != 1)}"


@os_errors()
def compare(
    models: Sequence[str | Path], out: str | Path, *, steps: Sequence[int] | None = None, teacher_steps: int = DEFAULT_STEPS,
    guidance_scale: Sequence[float] | None = None, class_labels: Sequence[int | str] | None = None, prompts: Sequence[str] | None = None,
    num_images: int | None = None, batch_size: int | None = None, seed: int = 0, device: str | None = None, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Draw model folders, run folders (their students, of them those of `steps`) and stock pipelines from the same noise; the record of it.

    Writes `compare.html`, one page that needs nothing else, `grid.png` and `compare.json` (what is returned) into the new folder `out`.
    Models that take any number of steps are drawn in `teacher_steps`. Without `guidance_scale` ends and middle of the range that all of
    them have; without labels all classes in turn. Where runs were evaluated on the same data, their curves and figures are on the page.

    Raises:
        InputError: fewer than two models, or such as have other pictures or conditions, or what one of them does not take.
    """
    check_new(out := utf8_path_of("folder", out))
    check_whole_number("teacher_steps", teacher_steps, 1)
    for name, values in (("steps", steps), ("guidance_scale", guidance_scale)):
        if not isinstance(values, list | tuple | None):
            raise InputError(f"{name} is {shown(values)}; give a list of numbers, or leave it out")
    for one in steps or ():
        check_whole_number("steps", one, 1)
    for one in guidance_scale or ():
        check_number("guidance_scale", one, 0, 1e6)
    found = check_alike(columns_of(models, steps, teacher_steps))
    scales, info, place = scales_of(found, guidance_scale), found[0].info, best_device(device)
    words, count = words_of(info, class_labels, prompts, num_images)
    choices = {
        "noise": initial_noise((count, *info.shape), seed),
        "seed": seed,
        "batch_size": batch_size or default_batch_size(place, info.shape),
    }
    drawn: list[dict[float, Samples]] = []
    facts, line = [], LiveLine(quiet=quiet)
    for number, column in enumerate(found):
        model = open_model(column.folder, place)
        condition = model.labels_or_prompts(words, count)
        drawn.append(
            {scale: model.sample_tensor(condition, steps=column.steps, guidance_scale=scale, **choices) for scale in scales}
        )
        drawn[-1] = {scale: replace(one, samples=one.pictures().float(), decode=lambda x: x) for scale, one in drawn[-1].items()}
        facts.append(
            {"title": column.title, "path": column.path, "folder": str(column.folder)} | facts_of(column.info, model, drawn[-1])
        )
        line.show(f"{number + 1} of {len(found)} models", number + 1 == len(found))
    record: dict[str, Any] = {
        "models": facts, "guidance_scale": scales, "labels_or_prompts": words, "images": count, "seed": seed, "rms": distances(found, drawn),
        "settings": differing_settings({c.name: c.run for c in found if c.run}),
        "versions": {name: version(name) for name in ("fewstep", "torch", "diffusers")},
    }  # fmt: skip
    record["summary"] = summary(record, found)
    grid = grid_of(found, drawn, scales)
    html, text = page(record, found, grid), json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    with written_whole(out) as aside:
        (aside / "compare.html").write_text(html, encoding="utf-8")
        (aside / "compare.json").write_text(text, encoding="utf-8")
        image_of_grid(grid).save(aside / "grid.png")
    return record


def words_of(
    info: Info, class_labels: Sequence[int | str] | None, prompts: Sequence[str] | None, num_images: int | None
) -> tuple[list[int | str], int]:
    """(labels or prompts, number of images); raises InputError where these are not what the models take."""
    if num_images is not None:
        check_whole_number("num_images", num_images, 1)
    if info.condition == "text":
        if not prompts or class_labels:
            raise InputError("these models take prompts; name at least one (--prompt), and no class")
        return list(prompts), num_images or len(prompts)
    if prompts:
        raise InputError("these models take classes, and prompts are given; name classes (--class-label), or leave them out")
    return list(class_labels or range(len(info.classes))), num_images or IMAGES


def columns_of(models: Sequence[str | Path], steps: Sequence[int] | None, teacher_steps: int) -> list[Column]:
    """A column for each model, of a run for each of its students; names that are taken twice are paths."""
    if not isinstance(models, list | tuple):
        raise InputError(f"models are {shown(models)}; give a list of paths")
    opened = [(str(path), local_folder(path)) for path in models]
    names = [name_of(path) for path, _ in opened]
    found = []
    for (path, folder), short in zip(opened, names, strict=True):
        name = path if names.count(short) > 1 else short
        folders = [folder]
        if is_run(folder):
            rungs = rungs_in(folder)
            if rungs and steps and not set(steps) & set(rungs):
                raise InputError(
                    f"run {path} has students for {', '.join(map(str, sorted(rungs)))} steps, none for --steps {steps}"
                )
            folders = [rungs[n] for n in sorted(rungs, reverse=True) if not steps or n in steps] or [rung_of(folder)]
        for one in folders:
            info = read_info(one) if (one / INFO).is_file() else open_model(one).info
            found.append(Column(name, path, one, info, info.steps or teacher_steps, run_of(one)))
    if len(found) < 2:
        raise InputError(f"{len(found)} model{'s' * (len(found) != 1)} to compare; name two or more, or a run of several students")
    return found


def check_alike(found: list[Column]) -> list[Column]:
    """The columns, once it is known that they draw the same kind of pictures; raises InputError where they do not."""
    first = found[0]
    for column in found:
        info = column.info
        if info.kind == "encoder":
            raise InputError(f"{column.folder} is an encoder, which draws nothing; name a student, a teacher or a run")
        check_no_sound(info, "compare")
        if len(info.shape) != 3:
            raise InputError(f"{column.path} draws videos, and pictures are compared; sample them with fewstep sample")
        for what in ("picture_shape", "shape", "condition", "classes"):
            ours, theirs = getattr(info, what), getattr(first.info, what)
            if ours != theirs:
                pair = f"{len(ours)} and {len(theirs)}, or of other names" if what == "classes" else f"{ours} and {theirs}"
                raise InputError(
                    f"{column.path} and {first.path} differ in {what.replace('_', ' ')} ({pair}); compare models of the same kind"
                )
    return found


def scales_of(found: list[Column], asked: Sequence[float] | None) -> list[float]:
    """The guidance scales asked for, else ends and middle of the range that all have; raises InputError where one has no such scale."""
    ranges = [column.info.guidance_scale for column in found if column.info.guidance_scale]
    low, high = max((r[0] for r in ranges), default=0.0), min((r[1] for r in ranges), default=0.0)
    if asked:
        for column in found:
            for scale in asked:
                least, most = column.info.guidance_scale or (scale, scale)
                if not least <= scale <= most:
                    raise InputError(
                        f"guidance_scale {scale:g} is outside {least:g} to {most:g}, the range of {column.title}; leave it out"
                    )
        return sorted({float(scale) for scale in asked})
    if low > high:
        raise InputError("these models have no guidance scale in common; compare such as have")
    return sorted({low, (low + high) / 2, high}) if ranges else list(ANY_SCALES)


def distances(found: list[Column], drawn: list[dict[float, Samples]]) -> list[dict[str, Any]]:
    """For each model but the first the root mean square distance at each scale (pixels from -1 to 1) from the pictures of another.

    That is the model of the first path with as many steps, where there is one, else the first model.
    """
    rows = []
    for i in range(1, len(found)):
        alike = [k for k in range(i) if found[k].path == found[0].path != found[i].path and found[k].steps == found[i].steps]
        other = alike[0] if alike else 0
        rms = [
            float((one.samples.clamp(-1, 1) - drawn[other][scale].samples.clamp(-1, 1)).square().mean().sqrt())
            for scale, one in drawn[i].items()
        ]
        rows.append({"title": found[i].title, "from": found[other].title, "rms": rms})
    return rows


def grid_of(found: list[Column], drawn: list[dict[float, Samples]], scales: list[float]) -> dict[str, Any]:
    """As `report.grid`, of these columns."""
    heads = []
    for column, samples in zip(found, drawn, strict=True):
        counts = span(one.evaluations for one in samples.values())
        steps = f"{column.steps} step{'s' * (column.steps != 1)}"
        heads.append((column.info.kind, [column.name, steps, f"{counts} evaluation{'s' * (counts != '1')}"]))
    lines = [(f"{scale:g}", [strip(one[scale].samples, len(found)) for one in drawn]) for scale in scales]
    return {"columns": heads, "lines": lines}


def page(record: dict[str, Any], found: list[Column], grid: dict[str, Any]) -> str:
    """The page's HTML; all that comes from outside is escaped."""
    sources: dict[str, Source] = {}
    for column in found:
        sources[column.name] = column.folder, column.run, {*sources.get(column.name, ("", "", set()))[2], column.steps}
    rows, why = comparable_rows(sources)
    logs = {name: entries_of(run / "log.jsonl") for name, (_, run, _) in sources.items() if run}
    shown = columns(rows)
    return template("compare.html.j2").render(
        record, title=" | ".join(dict.fromkeys(column.name for column in found)), grid=grid, rows=rows, why=why,
        heads=[column[1] for column in shown], groups=tables(rows, shown)[0] if rows else [], quality=quality_panels(rows),
        losses=loss_panels_of(logs), light=LIGHT, dark=DARK,
    )  # fmt: skip


def summary(record: dict[str, Any], found: list[Column]) -> str:
    """One sentence: which other model's pictures are nearest to those of the first, at a middle guidance scale."""
    middle = len(record["guidance_scale"]) // 2
    others = [row for row, column in zip(record["rms"], found[1:], strict=True) if column.path != found[0].path] or record["rms"]
    nearest = min(others, key=lambda row: row["rms"][middle])
    where = f"From the same noise at guidance scale {record['guidance_scale'][middle]:g}"
    return f"{where}, the pictures of {nearest['title']} are rms {nearest['rms'][middle]:.3f} from those of {nearest['from']}."
