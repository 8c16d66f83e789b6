"""Charts of results: quality against evaluations, quality against diversity, losses over updates."""

import base64
import io
import math
from typing import Any, NamedTuple

import numpy as np

from fewstep.evaluation.results_table import Row, order, readable

LIGHT = {"ground": "#ffffff", "ink": "#1c2127", "teacher, DDIM": "#b35300", "student, deterministic": "#0a5fc2"}
DARK = {"ground": "#14171b", "ink": "#e4e7eb", "teacher, DDIM": "#ffab5e", "student, deterministic": "#6db3ff"}
FAR = 4  # times the student's largest Fréchet distance: what is above runs out of the charts, for the table to tell
OTHERS = ("#8a63d2", "#2a9d6f", "#c2508f", "#7d8a1f", "#4a97a8", "#a8715a")  # for all other curves, on either ground
STYLE: dict[Any, Any] = {
    "axes.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left",
    "axes.titlesize": 10, "axes.titleweight": "bold", "axes.grid": True, "grid.alpha": 0.15, "grid.linewidth": 0.6, "font.size": 9,
    "legend.frameon": False, "legend.fontsize": 9, "lines.linewidth": 1.3, "lines.markersize": 5, "text.parse_math": False,
}  # fmt: skip


class Panel(NamedTuple):
    """One chart: log y unless `linear`, log x where `ticks` are given; curves by name, with a legend where ticks or notes are."""

    title: str
    x: str
    y: str
    curves: dict[str, list[tuple[float, float]]]
    values: list[float]  # that the y axis covers
    ticks: list[int] = []  # noqa: RUF012
    notes: list[str] = []  # noqa: RUF012 - what each point of every curve stands for
    linear: bool = False

    @property
    def has_legend(self) -> bool:
        """Whether its curves are named below it."""
        return bool(self.ticks or self.notes) or len(self.curves) > 1


def quality_panels(rows: list[Row]) -> list[Panel]:
    """Fréchet distance against evaluations, a panel for every guidance scale, all with the same axes."""
    scales: dict[float, dict[str, list[tuple[float, float]]]] = {}
    for row in sorted(rows, key=lambda r: (r["guidance_scale"], order(r["model"], 0), r["evaluations"])):
        if row["model"] != "stage-one" and (row.get("frechet") or 0) > 0 and math.isfinite(row["frechet"]):
            curves = scales.setdefault(row["guidance_scale"], {})
            curves.setdefault(f"{row['model']}, {readable(row['sampler'])}", []).append((row["evaluations"], row["frechet"]))
    points = [point for curves in scales.values() for curve in curves.values() for point in curve]
    ticks = [2**i for i in range(20) if points and min(points)[0] / 2 < 2**i < max(points)[0] * 2]
    students = [y for curves in scales.values() for name, curve in curves.items() if name.startswith("student") for _, y in curve]
    most = FAR * max(students, default=math.inf)
    known, values = ("network evaluations an image", "Fréchet distance"), [y for _, y in points if y <= most]
    return [Panel(f"guidance scale {s:g}", *known, curves, values, ticks) for s, curves in scales.items()]


def diversity_panels(rows: list[Row]) -> list[Panel]:
    """Quality against diversity over guidance scales (2210.03142, figure 6); none where fewer than two scales were measured."""
    scales = sorted({r["guidance_scale"] for r in rows})
    found: dict[str, dict[float, Row]] = {}
    for row in sorted(rows, key=lambda r: (order(r["model"], 0), -r["steps"])):
        if name := compared(row, rows):
            found.setdefault(name, {})[row["guidance_scale"]] = row
    whole = {name: curve for name, curve in found.items() if len(scales) > 1 and set(curve) == set(scales)}
    panels = []
    for title, across, up, linear in (
        (
            "Fréchet against class likelihood",
            ("class_nll", "class negative log-likelihood, nats"),
            ("frechet", "Fréchet distance"),
            False,
        ),
        ("Fréchet against CLIP score", ("clip_score", "CLIP score"), ("frechet", "Fréchet distance"), False),
        ("Fréchet against score", ("score", "score"), ("frechet", "Fréchet distance"), False),
        ("Fréchet against Inception", ("inception_score", "Inception Score"), ("frechet", "Fréchet distance"), False),
        ("precision against recall", ("recall", "recall"), ("precision", "precision"), True),
    ):
        curves: dict[str, list[Any]] = {n: [(c[s].get(across[0]), c[s].get(up[0])) for s in scales] for n, c in whole.items()}
        curves = {n: points for n, points in curves.items() if all(v is not None and math.isfinite(v) for p in points for v in p)}
        values = [y for points in curves.values() for _, y in points]
        if values and (linear or min(values) > 0):
            panels.append(Panel(title, across[1], up[1], curves, values, [], [f"{s:g}" for s in scales], linear))
    return panels


def compared(row: Row, rows: list[Row]) -> str | None:
    """The curve that a row belongs to: the teacher's most steps, a solver at its most evaluations, a student; else None."""
    teacher = [r for r in rows if r["model"] == "teacher"]
    if row["model"] == "student":
        return f"student, {row['steps']} step{'s' * (row['steps'] > 1)}"
    if row["model"] == "teacher" and row["steps"] == max(r["steps"] for r in teacher) and row["sampler"] == "ddim":
        return "teacher, DDIM"
    at_scale = [
        r["evaluations"] for r in teacher if (r["sampler"], r["guidance_scale"]) == (row.get("sampler"), row["guidance_scale"])
    ]
    if row["model"] == "teacher" and row["sampler"] != "ddim" and row["evaluations"] == max(at_scale):
        return f"{readable(row['sampler'])} in {max(r['evaluations'] for r in teacher if r['sampler'] == row['sampler'])}"
    return None


def loss_panels(log: list[dict]) -> list[Panel]:
    """The loss of every stage over its updates."""
    return loss_panels_of({"": log})


def loss_panels_of(logs: dict[str, list[dict]]) -> list[Panel]:
    """The loss of every stage over its updates, a curve for each log by its name."""
    stages: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, line in ((name, line) for name, log in logs.items() for line in log):
        if (line.get("loss") or 0) > 0 and math.isfinite(line["loss"]):
            stages.setdefault(line["stage"], {}).setdefault(name, []).append((line["update"], line["loss"]))
    return [
        Panel(
            readable(stage),
            "update",
            "loss",
            {name: sorted(c) for name, c in curves.items()},
            [y for c in curves.values() for _, y in c],
        )
        for stage, curves in stages.items()
    ]


def chart(panels: list[Panel], colours: dict[str, str]) -> Any:
    """The panels, at most four in a row, as one PIL image; taller where legends stand below."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    down, across = -(-len(panels) // 4), min(len(panels), 4)
    tall = 2.8 + 0.18 * max((-(-len(p.curves) // 2) for p in panels if p.has_legend), default=0)  # inches
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    with rc_context(STYLE | dict.fromkeys(inks, colours["ink"])):
        figure = Figure((3.5 * across, tall * down), dpi=160, facecolor=colours["ground"], layout="constrained")
        for i, panel in enumerate(panels):
            draw_panel(figure.add_subplot(down, across, i + 1), panel, colours)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def draw_panel(axes: Any, panel: Panel, colours: dict[str, str]) -> None:
    """Draw one panel; a log y axis covers at least a factor of five."""
    from matplotlib.ticker import LogLocator

    others, named = iter(OTHERS * 9), bool(panel.ticks or panel.notes)
    for (name, points), marker in zip(panel.curves.items(), "os^Dv<>Pp" * 9, strict=False):
        colour = colours.get(name) or (next(others) if name else colours["student, deterministic"])
        label = name.removeprefix("teacher, ").removesuffix(", deterministic")[:30]
        axes.plot(*zip(*points, strict=True), label=label, color=colour, marker=marker if named or len(points) == 1 else "")
        for point, note in zip(points, panel.notes, strict=False):
            axes.annotate(note, point, (3, 3), textcoords="offset points", fontsize=6.5, color=colour)
    axes.set(xlabel=panel.x, ylabel=panel.y, title=panel.title)
    if not panel.linear:
        middle = math.sqrt(min(panel.values) * max(panel.values))
        low, high = min(min(panel.values) / 1.3, middle / 2.3), max(max(panel.values) * 1.3, middle * 2.3)
        axes.set(yscale="log", ylim=(low, high))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
    if panel.ticks:
        axes.set(xscale="log", xlim=(panel.ticks[0] / 1.3, panel.ticks[-1] * 1.3))
        axes.set_xticks(panel.ticks, [str(tick) for tick in panel.ticks], fontsize=8)
    axes.minorticks_off()
    if panel.has_legend:
        spaces: dict[str, Any] = {"columnspacing": 1.2, "labelspacing": 0.3, "handlelength": 1.6}
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.22), ncols=2, fontsize=7.5, **spaces)


def inline(image: Any) -> str:
    """A PIL image as an address that holds it."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
