"""Drawn pictures as files, for every command that draws: one PNG an image, grid.png and samples.json, and the line that is printed.
Sounds are WAV files, without a grid.

Each writer raises an InputError where the folder holds something else or cannot be written.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.api import Model
from fewstep.files import check_new, usual_mode, written_whole
from fewstep.grids import labelled_grid
from fewstep.method.conditioning import Condition, leaf
from fewstep.models.sampling import Samples
from fewstep.models.sounds import Sound
from fewstep.progress import LiveLine

FRAME = 1000 / 16  # milliseconds, of a video
SHOWN = 100  # pictures in the grid of `fewstep sample`, at most
LONGEST = 24  # characters of a name in a label
LABELS = {"guidance_scale": "scale ", "class": "class ", "strength": "strength ", "seed": "seed ", "frame": "frame "}


def write_samples(
    out: Path, model: Model, condition: Condition, record: dict[str, Any], choices: dict[str, Any], batch_size: int, raw: bool
) -> str:
    """Sample for a condition (n, ...) into `out`; the line to print. `record` is put into samples.json beside the choices."""
    check_new(out)
    line, total, what = LiveLine(), len(leaf(condition)), "sounds" if model.info.makes_sounds else "images"
    drawn = model.sample_tensor(
        condition, batch_size=batch_size, progress=lambda done: line.show(f"{done}/{total} {what}", done == total), **choices
    )
    images = drawn.images()
    record = record | choices | facts_of(drawn) | {"guidance_scale": model.scale_or_own(choices["guidance_scale"])}
    grid = None if isinstance(images[0], Sound) else grid_of(images)
    tensors = {"noise": drawn.noise.float(), "samples": drawn.samples} if raw else {}
    return write_files(out, images, grid, record, [drawn], tensors)


def grid_of(images: list[Any]) -> Any:
    """The first of the images in a grid that is about square, or of videos with a row for each."""
    shown = images[:SHOWN]
    side = math.ceil(math.sqrt(len(shown)))
    rows = shown if isinstance(shown[0], list) else [shown[i : i + side] for i in range(0, len(shown), side)]
    return labelled_grid(rows, times=max(1, 32 // rows[0][0].width), margin=1)


@dataclass(frozen=True)
class Row:
    """One row of a grid of combinations: the PIL images that it begins with, and what is recorded of it."""

    before: list[Any]
    facts: dict[str, Any]


def write_combinations(
    out: Path,
    rows: list[Row],
    columns: list[dict[str, Any]],
    seeds: list[int],
    draw: Callable[..., Samples],
    titles: list[str],
    record: dict[str, Any],
) -> str:
    """Draw every row with every column's settings from every seed into `out`; the line to print.

    `draw(seed=..., **column)` gives one picture for each row; `titles` stand over the pictures that rows begin with.
    """
    line, total, drawn = LiveLine(), len(rows) * len(columns) * len(seeds), {}
    for j, seed in product(range(len(columns)), seeds):
        drawn[j, seed] = draw(seed=seed, **columns[j])
        done = len(rows) * len(drawn)
        line.show(f"{done}/{total} images", done == total)
    shown = {key: samples.images() for key, samples in drawn.items()}
    images, results, lines, sides = [], [], [], []
    for (i, row), seed in product(enumerate(rows), seeds):
        images += (new := [shown[j, seed][i] for j in range(len(columns))])
        lines.append(row.before + new)
        sides.append(label_of(row.facts | ({"seed": seed} if len(seeds) > 1 else {})))
        for j, column in enumerate(columns):
            facts = row.facts | column | {"seed": seed, "evaluations": drawn[j, seed].evaluations}
            results.append({"file": f"{len(results):05d}.png"} | facts)
    first, seconds = drawn[0, seeds[0]], sum(samples.seconds for samples in drawn.values())
    record = record | {"steps": first.steps, "sampler": first.sampler, "seconds": seconds, "results": results}
    return write_files(out, images, labelled_grid(lines, sides, [*titles, *map(label_of, columns)]), record, [*drawn.values()])


def write_frames(out: Path, ends: list[Any], drawn: Samples, record: dict[str, Any]) -> str:
    """Write the frames between two PIL images into `out`, in one row of the grid with these; the line to print."""
    frames = drawn.images()
    grid = labelled_grid([[ends[0], *frames, ends[1]]], tops=["from", *(f"frame {i}" for i in range(len(frames))), "to"])
    return write_files(out, frames, grid, record | facts_of(drawn), [drawn])


def facts_of(drawn: Samples) -> dict[str, Any]:
    """What samples.json has of one sampling run."""
    return {name: getattr(drawn, name) for name in ("steps", "sampler", "evaluations", "seconds")}


def write_files(
    out: Path, images: list[Any], grid: Any, record: dict[str, Any], drawn: list[Samples], tensors: dict[str, Tensor] | None = None
) -> str:
    """Write 00000.png, ... (of videos, which are lists of PIL images, animated ones; of sounds .wav), grid.png, samples.json, samples.safetensors.

    The line to print says how many images were drawn, for how many evaluations each, in what time.
    """
    with written_whole(out) as aside:
        for i, image in enumerate(images):
            first, *rest = image if isinstance(image, list) else [image]
            if isinstance(first, Sound):
                first.save(aside / f"{i:05d}.wav")
                continue
            first.save(aside / f"{i:05d}.png", **({"save_all": True, "append_images": rest, "duration": FRAME} if rest else {}))
        if grid is not None:
            grid.save(aside / "grid.png")
        if tensors:
            from safetensors.torch import save_file

            save_file(tensors, aside / "samples.safetensors")
            usual_mode(aside / "samples.safetensors")
        (aside / "samples.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    n, counts = len(images), {samples.evaluations for samples in drawn}
    each = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(max(counts))
    each += f" evaluation{'s' if max(counts) != 1 else ''} of the network each"
    time = 1000 * sum(samples.seconds for samples in drawn) / n
    what, place = ("sound", out) if grid is None else ("image", out / "grid.png")
    return f"{n} {what}{'s' if n != 1 else ''}, {each}, {time:.2f} ms {'a' if grid is None else 'an'} {what}: {place}"


def label_of(facts: dict[str, Any]) -> str:
    """The label of a row or column, a line a fact: "strength 0.5", "class 3", "cat.png"."""
    return "\n".join(
        LABELS.get(key, "") + (f"{value:g}" if isinstance(value, float) else str(value)[:LONGEST]) for key, value in facts.items()
    )
