"""Tables of measured figures on pages other than results.md, from the JSON of benchmarks/results/."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
COLUMNS = (("teacher", 256), ("teacher", 8), ("student", 4), ("student", 2), ("student", 1))


def result(name: str) -> dict[str, Any]:
    """What a benchmark found."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(heading: list[str], lines: list[list[str]]) -> str:
    """Markdown of a table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [heading, ["---"] * len(heading), *lines])


def choosing() -> str:
    """A row a guidance scale, a column a model of digits and its steps; the Fréchet distance and the class accuracy in each cell."""
    found = {(row["model"], row["steps"], row["guidance_scale"]): row for row in result("digits-full")["rows"]}
    lines = []
    for scale in sorted({key[2] for key in found}):
        cells = [found[model, steps, scale] for model, steps in COLUMNS]
        lines.append([f"{scale:g}", *(f"{c['frechet']:.3f}, {c['class_accuracy']:.1%}" for c in cells)])
    return table(["guidance scale", *(f"{model}, {n} step{'s' * (n > 1)}" for model, n in COLUMNS)], lines)


def own_images() -> str:
    """What the recipe own-images takes, and a row a guidance scale: Fréchet distance of teacher, students and stock samplers."""
    found = result("own-images")
    minutes = {key: found[key]["cpu_seconds"] / 60 for key in ("teach", "distill")}
    took = f"Of one core's time, teaching took {minutes['teach']:.1f} minutes and distilling {minutes['distill']:.1f}."
    rows = {(row["model"], row["sampler"], row["steps"], row["guidance_scale"]): row for row in found["rows"]}
    kinds = sorted({key[:3] for key in rows if key[0] != "stage-one"}, key=lambda k: (k[0] == "student", -k[2], k[1]))
    scales = sorted({key[3] for key in rows})
    lines = []
    for kind in kinds:
        cells = [rows.get((*kind, scale)) for scale in scales]
        used = sorted({cell["evaluations"] for cell in cells if cell})
        name = f"**student**, {kind[2]} steps" if kind[0] == "student" else f"teacher by {kind[1]}, {kind[2]} steps"
        shown = [f"{cell['frechet']:.3g}, {cell['class_accuracy']:.0%}" if cell else "" for cell in cells]
        lines.append([name, " or ".join(map(str, used)), *shown])
    return f"{took}\n\n{table(['', 'evaluations', *(f'scale {scale:g}' for scale in scales)], lines)}"
