"""What editing, inpainting and translation write: every picture, one labelled grid of all of them, and what each was asked for."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.errors import InputError
from fewstep.models.sampling import Samples
from fewstep.progress import LiveLine

SIDE = 64  # pixels: what is smaller is enlarged in the grid, so that its label can be read
MARGIN = 4
LONGEST = 24  # characters of a name in a label


@dataclass(frozen=True)
class Row:
    """One line of the grid: the pictures that it starts with, and what is recorded of it."""

    before: list[Any]  # PIL images
    facts: dict[str, Any]


def write_sheet(
    out: Path,
    rows: list[Row],
    columns: list[dict[str, Any]],
    seeds: list[int],
    ask: Callable[..., Samples],
    titles: list[str],
    record: dict[str, Any],
) -> str:
    """Ask for every row in every column from every seed and write the pictures into `out`; a line that says what was done.

    `ask(seed=..., **column)` gives one picture for each row; `titles` stand over the pictures that rows start with.

    Raises:
        InputError: `out` cannot be written, or whatever `ask` raises.
    """
    answers = ask_all(ask, columns, seeds, len(rows))
    shown = {key: drawn.images() for key, drawn in answers.items()}
    pictures, results, lines, sides = [], [], [], []
    for i, row in enumerate(rows):
        for seed in seeds:
            line = [shown[j, seed][i] for j in range(len(columns))]
            for j, column in enumerate(columns):
                facts = {**row.facts, **column, "seed": seed, "evaluations": answers[j, seed].evaluations}
                results.append({"file": f"{len(results):05d}.png", **facts})
            pictures += line
            lines.append([*row.before, *line])
            sides.append(title(row.facts | ({"seed": seed} if len(seeds) > 1 else {})))
    sheet = labelled_grid(lines, sides, [*titles, *(title(column) for column in columns)])
    first, seconds = answers[0, seeds[0]], sum(drawn.seconds for drawn in answers.values())
    known = record | {"steps": first.steps, "sampler": first.sampler, "seconds": seconds}
    write_files(out, pictures, sheet, known | {"results": results})
    return done_line(out, len(results), sorted({result["evaluations"] for result in results}), seconds)


def ask_all(
    ask: Callable[..., Samples], columns: list[dict[str, Any]], seeds: list[int], rows: int
) -> dict[tuple[int, int], Samples]:
    """The answers by number of the column and by seed, with progress on stderr."""
    line, answers, total = LiveLine(), {}, rows * len(columns) * len(seeds)
    for j, column in enumerate(columns):
        for seed in seeds:
            answers[j, seed] = ask(seed=seed, **column)
            made = rows * len(answers)
            line.show(f"{made}/{total} images", made == total)
    return answers


def write_frames(out: Path, ends: list[Any], drawn: Samples, record: dict[str, Any]) -> str:
    """The frames between two pictures, in one line of the grid with the pictures at its ends; a line that says what was done.

    Raises:
        InputError: `out` cannot be written.
    """
    frames = drawn.images()
    tops = ["from", *(title({"frame": i}) for i in range(len(frames))), "to"]
    sheet = labelled_grid([[ends[0], *frames, ends[1]]], [""], tops)
    known = record | {"steps": drawn.steps, "sampler": drawn.sampler, "evaluations": drawn.evaluations, "seconds": drawn.seconds}
    write_files(out, frames, sheet, known)
    return done_line(out, len(frames), [drawn.evaluations], drawn.seconds)


def done_line(out: Path, images: int, counts: list[int], seconds: float) -> str:
    """How many images, for how many evaluations each, in what time."""
    each = (
        f"{counts[0]} evaluation{'s' if counts[0] != 1 else ''}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} evaluations"
    )
    return f"{images} image{'s' if images != 1 else ''}, {each} of the network each, {1000 * seconds / images:.2f} ms an image: {out / 'grid.png'}"


def write_files(out: Path, pictures: list[Any], grid: Any, record: dict[str, Any]) -> None:
    """00000.png, ..., grid.png and samples.json.

    Raises:
        InputError: they cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(pictures):
            image.save(out / f"{i:05d}.png")
        grid.save(out / "grid.png")
        (out / "samples.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error}; free some space or name another --out") from None


def title(facts: dict[str, Any]) -> str:
    """What stands beside a row or over a column, a line a fact: "strength 0.5", "class 3", "cat.png"."""
    words = {
        "guidance_scale": "scale ",
        "class": "class ",
        "prompt": "",
        "strength": "strength ",
        "seed": "seed ",
        "frame": "frame ",
    }
    values = {key: f"{value:g}" if isinstance(value, float) else str(value)[:LONGEST] for key, value in facts.items()}
    return "\n".join(words.get(key, "") + value for key, value in values.items())


def labelled_grid(rows: list[list[Any]], sides: list[str], tops: list[str]) -> Any:
    """One PIL image of rows of pictures on white, `sides` left of each row and `tops` over each column; small ones enlarged."""
    from PIL import Image, ImageDraw, ImageFont

    font, pen = ImageFont.load_default(), ImageDraw.Draw(Image.new("L", (1, 1)))
    boxes = {text: pen.multiline_textbbox((0, 0), text, font=font) for text in {*sides, *tops}}
    left = max(int(boxes[text][2]) for text in sides) + 2 * MARGIN
    head = max(int(boxes[text][3]) for text in tops) + 2 * MARGIN
    picture = rows[0][0]
    times = -(-SIDE // min(picture.size))
    width, height = (times * side if times > 1 else side for side in picture.size)
    widths = [max(width, int(boxes[text][2])) + MARGIN for text in tops]
    below = max(height, *(int(boxes[text][3]) for text in sides)) + MARGIN
    mode = "L" if all(image.mode in ("L", "1") for row in rows for image in row) else "RGB"
    grid = Image.new(mode, (left + sum(widths), head + below * len(rows)), "white")
    pen = ImageDraw.Draw(grid)
    for j, text in enumerate(tops):
        pen.multiline_text((left + sum(widths[:j]), MARGIN), text, fill="black", font=font)
    for i, (side, row) in enumerate(zip(sides, rows, strict=True)):
        pen.multiline_text((MARGIN, head + below * i), side, fill="black", font=font)
        for j, image in enumerate(row):
            grid.paste(image.resize((width, height), Image.Resampling.NEAREST), (left + sum(widths[:j]), head + below * i))
    return grid
