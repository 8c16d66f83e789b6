"""The report of a run: one page that needs no network, its picture, its chart, and the same table as plain text."""

import base64
import io
import math
from collections.abc import Iterable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from fewstep.checkpoint import write_atomically
from fewstep.model import to_images
from fewstep.progress import clock

DASH = "–"
WIDTH, LEAST, MOST = 1200, 48, 128  # pixels: of the whole picture, of an image in it
LIGHT = {"ground": "#ffffff", "ink": "#1c2127", "teacher, DDIM": "#b35300", "student, deterministic": "#0a5fc2"}
DARK = {"ground": "#14171b", "ink": "#e4e7eb", "teacher, DDIM": "#ffab5e", "student, deterministic": "#6db3ff"}
OTHERS = ("#8a63d2", "#2a9d6f", "#c2508f", "#7d8a1f")  # for all other curves, on either ground
STYLE: dict[Any, Any] = {
    "axes.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left",
    "axes.titlesize": 10, "axes.titleweight": "bold", "axes.grid": True, "grid.alpha": 0.15, "grid.linewidth": 0.6, "font.size": 9,
    "legend.frameon": False, "legend.fontsize": 9, "lines.linewidth": 1.3, "lines.markersize": 5, "text.parse_math": False,
}  # fmt: skip

Row = dict[str, Any]
Grids = dict[tuple[str, int, float], Tensor]

COLUMNS = (  # key, head on the page, head in text, kind (a measure: the digits that its smallest value shows)
    ("model", "model", "model", "word"), ("sampler", "sampler", "sampler", "word"),
    ("steps", "steps", "steps", "count"), ("evaluations", "evaluations", "evaluations", "count"),
    ("frechet", "Fréchet distance", "Fréchet", 3), ("class_accuracy", "class accuracy", "accuracy", "share"),
    ("rms_to_teacher", "rms to teacher", "rms to teacher", 3), ("milliseconds", "ms an image", "ms", 2),
    ("samples", "samples", "samples", "count"),
)  # fmt: skip


class Panel(NamedTuple):
    """One chart: log y, log x where `ticks` are given; curves by name."""

    title: str
    x: str
    y: str
    curves: dict[str, list[tuple[float, float]]]
    values: list[float]  # that the y axis covers
    ticks: list[int] = []  # noqa: RUF012


def write_report(run: Path, metrics: dict[str, Any], grids: Grids, title: str, *, recipe: str, log: list[dict]) -> Path:
    """Write `run/report.html`, with `run/grid.png` and `run/quality.png` beside it; the path of the page.

    `metrics` is what `metrics.json` holds; `grids` are samples (n, c, h, w) in [-1, 1] by model, steps and guidance scale, all from
    the same noise; `recipe` is the resolved TOML; `log` the lines of `log.jsonl`. Pictures of which nothing is known are left out.

    Raises:
        InputError: the disk is full or not writable; what was there is kept.
    """
    rows = metrics.get("rows", [])
    html = page(metrics, rows, grids, title, recipe, log)
    if grids:
        write_atomically(run / "grid.png", partial(grid_image(grids, rows).save, format="PNG"))
    if panels := quality_panels(rows):
        write_atomically(run / "quality.png", partial(chart(panels, LIGHT).save, format="PNG"))
    write_atomically(run / "report.html", lambda aside: aside.write_text(html, encoding="utf-8"))
    return run / "report.html"


def page(metrics: dict[str, Any], rows: list[Row], grids: Grids, title: str, recipe: str, log: list[dict]) -> str:
    """The page's HTML; all that comes from outside is escaped."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("fewstep"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"inline": inline, "pair": pair, "spoken": spoken, "clock": clock, "chart": chart}
    return environment.get_template("report.html.j2").render(
        metrics, title=title, recipe=recipe, heads=[column[1] for column in COLUMNS], tables=tables(rows),
        grid=grid(grids, rows), samples=span(row.get("samples") for row in rows),
        quality=quality_panels(rows), losses=loss_panels(log), light=LIGHT, dark=DARK,
    )  # fmt: skip


def places(values: Iterable[float | None], digits: int = 3) -> int:
    """Decimals, 0 to 4, that show so many significant digits of the smallest of the values other than zero."""
    sizes = [abs(v) for v in values if v is not None and math.isfinite(v) and v != 0]
    return min(max(digits - 1 - math.floor(math.log10(min(sizes))), 0), 4) if sizes else 2


def number(value: float | None, decimals: int = 0) -> str:
    """The value as text; a dash for None and for what is not a number."""
    return f"{value:,.{decimals}f}" if value is not None and math.isfinite(value) else DASH


def pair(one: float | None, other: float | None) -> tuple[str, str]:
    """Two figures to be compared, with as many decimals as it takes to tell them apart."""
    first = places((one, other))
    texts = [(number(one, decimals), number(other, decimals)) for decimals in range(first, 10)]
    return next((t for t in texts if t[0] != t[1]), texts[0])


def span(counts: Iterable[int | None]) -> str:
    """What the counts are: "1,000", "256 or 512", or "1 to 512"; empty where there is none."""
    found = sorted({count for count in counts if count is not None})
    return (" or " if len(found) == 2 else " to ").join(number(count) for count in found[:: max(len(found) - 1, 1)])


def spoken(name: str) -> str:
    """A stage, model or sampler by the name to read: "steps-0004" is "to 4 steps"."""
    stage, _, steps = name.rpartition("-")
    if steps.isdecimal():
        return {"steps": "", "encoder": "encoder "}.get(stage, f"{stage} ") + f"to {int(steps)} step{'s' * (int(steps) != 1)}"
    return {"ddim": "DDIM", "stage-one": "stage one"}.get(name, name)


def order(model: str, steps: int) -> tuple[int, str, int]:
    """Sort key: the teacher, then what lies between, then the student; many steps first."""
    return {"teacher": 0, "student": 2}.get(model, 1), model, -steps


def tables(rows: list[Row]) -> tuple[list[tuple[str, list[list[str]]]], list[list[str]]]:
    """The table's cells as text, (guidance scale, lines) in order, and stage one's lines, which begin with the scale."""
    main, stage_one = [r for r in rows if r["model"] != "stage-one"], [r for r in rows if r["model"] == "stage-one"]
    main.sort(key=lambda r: (r["guidance_scale"], order(r["model"], 0), str(r.get("sampler")), -r["steps"]))
    scales: dict[str, list[list[str]]] = {}
    for row, line in zip(main, cells(main), strict=True):
        scales.setdefault(f"{row['guidance_scale']:g}", []).append(line)
    stage_one.sort(key=lambda r: r["guidance_scale"])
    own = [[f"{row['guidance_scale']:g}", *line[1:]] for row, line in zip(stage_one, cells(stage_one), strict=True)]
    return list(scales.items()), own


def cells(rows: list[Row]) -> list[list[str]]:
    """The text of every cell; a measure has the same number of decimals in all rows."""
    decimals = {key: places((r.get(key) for r in rows), kind) for key, _, _, kind in COLUMNS if isinstance(kind, int)}

    def cell(value: Any, key: str, kind: str | int) -> str:
        if value is None or kind == "word":
            return DASH if value is None else spoken(value)
        return f"{number(100 * value, 1)}%" if kind == "share" else number(value, decimals.get(key, 0))

    return [[cell(row.get(key), key, kind) for key, _, _, kind in COLUMNS] for row in rows]


def text_table(rows: list[Row]) -> str:
    """The report's table as plain text of at most 100 columns, with stage one's rows last."""
    groups, own = tables(rows)
    own = [("stage one: guidance in one evaluation, no steps saved yet", [[f"scale {o[0]}", *o[1:]] for o in own])] if own else []
    parts = [(f"guidance scale {scale}", lines) for scale, lines in groups] + own
    head = [short for _, _, short, _ in COLUMNS]
    widths = [max(map(len, texts)) for texts in zip(head, *(line for _, lines in parts for line in lines), strict=True)]

    def aligned(texts: list[str]) -> str:
        columns = zip(texts, widths, COLUMNS, strict=True)
        return "  ".join(t.ljust(w) if kind == "word" else t.rjust(w) for t, w, (*_, kind) in columns).rstrip()

    return "\n".join([aligned(head)] + [line for name, lines in parts for line in ["", name, *map(aligned, lines)]])


def grid(grids: Grids, rows: Iterable[Row]) -> dict[str, Any]:
    """`columns`: (model, the head's lines), from the teacher's many steps to the student's one; `lines`: (guidance scale, strips)."""
    configurations, columns = sorted({key[:2] for key in grids}, key=lambda key: order(*key)), []
    for model, steps in configurations:
        counts = span(row.get("evaluations") for row in rows if (row["model"], row["steps"]) == (model, steps))
        head = [spoken(model), f"{steps} step{'s' * (steps != 1)}", f"{counts} evaluation{'s' * (counts != '1')}"]
        columns.append((model, head if counts else head[:2]))
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
    for image, (j, i) in zip(images, product(range(len(images) // across), range(across)), strict=True):
        resampling = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
        whole.paste(image.resize((width, height), resampling), (i * (width + 2), j * (height + 2)))
    return whole


def grid_image(grids: Grids, rows: Iterable[Row] = ()) -> Any:
    """The picture as one PIL image: guidance scales downwards, models and steps across, the same noise at the same place of a cell.

    `rows` of the metrics say how many evaluations the column heads give.
    """
    from PIL import Image, ImageDraw, ImageFont

    font, gap, left, top, content = ImageFont.load_default(14), 14, 90, 76, grid(grids, list(rows))
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


def quality_panels(rows: list[Row]) -> list[Panel]:
    """Fréchet distance against evaluations, a panel for every guidance scale, all with the same axes."""
    scales: dict[float, dict[str, list[tuple[float, float]]]] = {}
    for row in sorted(rows, key=lambda r: (r["guidance_scale"], order(r["model"], 0), r["evaluations"])):
        if row["model"] != "stage-one" and (row.get("frechet") or 0) > 0 and math.isfinite(row["frechet"]):
            curves = scales.setdefault(row["guidance_scale"], {})
            curves.setdefault(f"{row['model']}, {spoken(row['sampler'])}", []).append((row["evaluations"], row["frechet"]))
    points = [point for curves in scales.values() for curve in curves.values() for point in curve]
    ticks = [2**i for i in range(20) if points and min(points)[0] / 2 < 2**i < max(points)[0] * 2]
    known = "network evaluations an image", "Fréchet distance"
    return [Panel(f"guidance scale {s:g}", *known, curves, [y for _, y in points], ticks) for s, curves in scales.items()]


def loss_panels(log: list[dict]) -> list[Panel]:
    """The loss of every stage over its updates."""
    stages: dict[str, list[tuple[float, float]]] = {}
    for line in log:
        if (line.get("loss") or 0) > 0 and math.isfinite(line["loss"]):
            stages.setdefault(line["stage"], []).append((line["update"], line["loss"]))
    return [Panel(spoken(s), "update", "loss", {"": sorted(c)}, [y for _, y in c]) for s, c in stages.items()]


def chart(panels: list[Panel], colours: dict[str, str]) -> Any:
    """The panels, at most four in a row, as one PIL image."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    down, across = -(-len(panels) // 4), min(len(panels), 4)
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    with rc_context(STYLE | dict.fromkeys(inks, colours["ink"])):
        figure = Figure((3.5 * across, 2.8 * down), dpi=160, facecolor=colours["ground"])
        for i, panel in enumerate(panels):
            corner = (i % across + 0.2) / across, (down - 1 - i // across + 0.18) / down
            draw_panel(figure.add_axes((*corner, 0.77 / across, 0.7 / down)), panel, colours)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")


def draw_panel(axes: Any, panel: Panel, colours: dict[str, str]) -> None:
    """Draw one panel."""
    others = iter(OTHERS * 9)
    for (name, points), marker in zip(panel.curves.items(), "os^Dv<>Pp" * 9, strict=False):
        colour = colours.get(name) or (next(others) if name else colours["student, deterministic"])
        axes.plot(*zip(*points, strict=True), label=name, color=colour, marker=marker if panel.ticks else "")
    low, high = min(panel.values) / 1.3, max(panel.values) * 1.3
    low, high = min(low, math.sqrt(low * high) / 2.3), max(high, math.sqrt(low * high) * 2.3)  # a factor of five at least
    high *= (high / low) ** 0.5 if panel.ticks else 1  # room for the legend
    parts = (1, 2, 5) if high < 1000 * low else (1,)
    marks = [part * 10.0**e for e in range(math.floor(math.log10(low)), 19) for part in parts if low <= part * 10.0**e <= high]
    axes.set(xlabel=panel.x, ylabel=panel.y, title=panel.title, yscale="log", ylim=(low, high))
    axes.set_yticks(marks, [f"{mark:g}" for mark in marks])
    if panel.ticks:
        axes.set(xscale="log", xlim=(panel.ticks[0] / 1.3, panel.ticks[-1] * 1.3))
        axes.set_xticks(panel.ticks, [str(tick) for tick in panel.ticks], fontsize=8)
        axes.legend(loc="upper right")
    axes.minorticks_off()


def inline(image: Any) -> str:
    """A PIL image as an address that holds it."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
