"""The report of a run or of an evaluation: one page that needs no network, and its picture and its chart beside it."""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.evaluation.charts import DARK, LIGHT, chart, diversity_panels, inline, loss_panels, quality_panels
from fewstep.evaluation.results_table import NAMES, Row, columns, order, pair, readable, span, tables
from fewstep.files import write_atomically
from fewstep.models.sampling import to_images
from fewstep.progress import clock

WIDTH, LEAST, MOST = 1200, 48, 128  # pixels: of the whole picture, of an image in it

# samples (n, c, h, w) by model, steps and guidance scale; of a baseline by its name and the evaluations that it was given
Grids = dict[tuple[str, int, float], Tensor]


def write_report(
    run: Path,
    metrics: dict[str, Any],
    grids: Grids,
    title: str,
    *,
    recipe: str,
    log: list[dict],
    training: Sequence[dict[str, Any]] = (),
) -> Path:
    """Write `run/report.html`, with `run/grid.png` and `run/quality.png` beside it; the path of the page.

    `metrics` is what `metrics.json` holds; `grids` are samples (n, c, h, w) in [-1, 1] by model, steps and guidance scale, all from
    the same noise; `recipe` is the resolved TOML; `log` the lines of `log.jsonl`; `training` the strips of
    `training_samples.strips_of`. Pictures of which nothing is known are left out.

    Raises:
        InputError: the disk is full or not writable; what was there is kept.
    """
    rows = metrics.get("rows", [])
    html = page(metrics, rows, grids, title, recipe, log, training)
    if grids:
        write_atomically(run / "grid.png", partial(grid_image(grids, rows).save, format="PNG"))
    if panels := quality_panels(rows):
        write_atomically(run / "quality.png", partial(chart(panels, LIGHT).save, format="PNG"))
    write_atomically(run / "report.html", lambda aside: aside.write_text(html, encoding="utf-8"))
    return run / "report.html"


def page(
    metrics: dict[str, Any],
    rows: list[Row],
    grids: Grids,
    title: str,
    recipe: str,
    log: list[dict],
    training: Sequence[dict[str, Any]] = (),
) -> str:
    """The page's HTML; all that comes from outside is escaped."""
    shown = columns(rows)
    return template("report.html.j2").render(
        metrics, title=title, recipe=recipe, heads=[column[1] for column in shown], tables=tables(rows, shown),
        grid=grid(grids, rows), samples=span(row.get("samples") for row in rows),
        quality=quality_panels(rows), diversity=diversity_panels(rows), losses=loss_panels(log), training=training, light=LIGHT, dark=DARK,
    )  # fmt: skip


def template(name: str) -> Any:
    """A template of a page, with what pages are made of as filters."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("fewstep.evaluation"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"inline": inline, "pair": pair, "readable": readable, "clock": clock, "chart": chart}
    return environment.get_template(name)


def grid(grids: Grids, rows: Iterable[Row]) -> dict[str, Any]:
    """`columns`: (model, the head's lines), from the teacher's many steps to the student's one; `lines`: (guidance scale, strips)."""
    configurations, columns = sorted({key[:2] for key in grids}, key=lambda key: order(*key)), []
    for model, steps in configurations:
        counts = span(row.get("evaluations") for row in rows if (row["model"], row["steps"]) == (model, steps))
        head = [f"{steps} step{'s' * (steps != 1)}"] + [f"{counts} evaluation{'s' * (counts != '1')}"] * bool(counts)
        columns.append((model, [readable(model), *([f"{steps} evaluations"] if model in NAMES else head)]))  # those are baselines
    lines = []
    for scale in sorted({key[2] for key in grids}):
        found = [grids.get((*configuration, scale)) for configuration in configurations]
        lines.append((f"{scale:g}", [None if x is None else strip(x, len(columns)) for x in found]))
    return {"columns": columns, "lines": lines}


def strip(x: Tensor, columns: int) -> Any:
    """One image of samples x (n, c, h, w): as many beside each other as fit so many columns into `WIDTH` and fill their rows."""
    from PIL import Image

    images = [image.convert("RGBA") for image in to_images(x.detach().float().nan_to_num())]
    factor = max(-(-LEAST // x.shape[3]), 1) if x.shape[3] <= MOST else MOST / x.shape[3]
    width, height = round(x.shape[3] * factor), max(round(x.shape[2] * factor), 1)
    fitting = range(1, max(WIDTH // (columns * (width + 8)), 1) + 1)
    across = max(n for n in fitting if len(images) % n == 0)
    whole = Image.new("RGBA", (across * (width + 2) - 2, len(images) // across * (height + 2) - 2))
    resampling = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    for k, image in enumerate(images):
        whole.paste(image.resize((width, height), resampling), (k % across * (width + 2), k // across * (height + 2)))
    return whole


def grid_image(grids: Grids, rows: Iterable[Row] = ()) -> Any:
    """The picture as one PIL image: guidance scales downwards, models and steps across, the same noise at the same place of a cell.

    `rows` of the metrics say how many evaluations the column heads give.
    """
    return image_of_grid(grid(grids, list(rows)))


def image_of_grid(content: dict[str, Any]) -> Any:
    """One PIL image of what `grid` gives."""
    from PIL import Image, ImageDraw, ImageFont

    font, gap, left, top = ImageFont.load_default(14), 14, 90, 76
    strips = [image for _, images in content["lines"] for image in images if image]
    words = [line for _, head in content["columns"] for line in head]
    width = math.ceil(max(*(image.width for image in strips), *map(font.getlength, words))) + gap
    height = max(image.height for image in strips) + gap
    size = left + width * len(content["columns"]), top + height * len(content["lines"])
    draw = ImageDraw.Draw(whole := Image.new("RGB", size, LIGHT["ground"]))
    for i, (model, head) in enumerate(content["columns"]):
        ink = LIGHT["student, deterministic" if model == "student" else "ink"]
        draw.multiline_text((left + width * i, gap), "\n".join(head), ink, font)
    for j, (scale, images) in enumerate(content["lines"]):
        draw.multiline_text((gap, top + height * j), f"guidance\nscale {scale}", LIGHT["ink"], font)
        for i, image in enumerate(images):
            if image:
                whole.paste(image, (left + width * i, top + height * j), image)
    return whole
