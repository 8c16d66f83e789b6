"""The tables of docs/results.md and other pages, from benchmarks/results/*.json, so that no figure there is typed by hand.

    python benchmarks/results_page.py            writes the tables anew
    python benchmarks/results_page.py --check    exits with 1 where a page does not have them

A page is written by hand but for what stands between the lines `<!-- table: NAME -->` and `<!-- end -->`. For a section of your own
write such a pair of lines there, and add to TABLES the function that makes the text of it from benchmarks/results/NAME.json.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emoji_table import emoji_table
from markdown_table import markdown
from uses_tables import editing_table, inpainting_table, style_table

PAGES = [
    Path(__file__).parents[1] / "docs" / f"{name}.md" for name in ("results", "digits", "editing", "inpainting", "style-transfer")
]
RESULTS = Path(__file__).parent / "results"
Result = dict[str, Any]


def write_result(path: Path, result: Result, device: Any = "cpu") -> None:
    """Write what a benchmark found as JSON, after the command, the date and the machine."""
    import torch

    from fewstep.evaluation.latency import machine

    known = {"command": " ".join(["python", *sys.argv]), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known | {"machine": machine(torch.device(device))} | result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}", file=sys.stderr)


def run_main(main: Callable[[], int | None]) -> None:
    """Run a benchmark as a command; what is wrong with what it was given is one line, exit code 2. Interrupted it exits with 130."""
    from fewstep.errors import InputError
    from fewstep.training.trainer import Interrupted

    try:
        sys.exit(main())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(130)


def mixtures_table(result: Result) -> str:
    """What the students of 4 and of 1 step are worth in a baseline's evaluations, then all: rms error of all and of the median."""
    rows, parts = result["rows"], [worth_table(result["rows"])]
    budgets = sorted({row["budget"] for row in rows})
    for student in result["students"]:
        here = [row for row in rows if row["dimensions"] == student["dimensions"]]
        lines = []
        for scale, method in sorted(
            {(row["guidance_scale"], row["method"]) for row in here}, key=lambda k: (k[0], METHODS.index(k[1]))
        ):
            cells = {r["budget"]: r for r in here if (r["method"], r["guidance_scale"]) == (method, scale)}
            errors = [f"{cells[b]['rms']:.2g} / {cells[b]['median']:.2g}" if b in cells else "" for b in budgets]
            lines.append([f"{scale:g}", f"**{method}**" if method == "student" else method, *errors])
        title = f"{student['dimensions']} dimensions, spread of the data {student['spread']:.2f}, student of {student['parameters']:,} weights"
        parts.append(f"**{title}**\n\n{markdown(['scale', 'method', *map(str, budgets)], lines)}")
    return "\n\n".join(parts)


METHODS = ("student", "perfect student", "ddim", "euler", "dpm++", "unipc", "heun")


def worth_table(rows: list[Result]) -> str:
    """A row a student of 4 or 1 steps: its errors, and the fewest evaluations with which a baseline's are no larger."""
    lines = []
    for row in (r for r in rows if r["method"] == "student" and r["steps"] in (4, 1)):
        known = ("dimensions", "guidance_scale")
        others = [r for r in rows if "student" not in r["method"] and all(r[key] == row[key] for key in known)]
        line = [str(row["dimensions"]), f"{row['guidance_scale']:g}", str(row["evaluations"])]
        for measure in ("rms", "median"):
            enough = sorted((r["evaluations"], r[measure], r["method"]) for r in others if r[measure] <= row[measure])
            line += [f"{row[measure]:.2g}", f"{enough[0][0]} ({enough[0][2]})" if enough else "more than were tried"]
        lines.append([*line, f"{row['far']:.1%}"])
    heading = ["dimensions", "scale", "student's evaluations", "rms error", "a baseline needs", "median error", "a baseline needs"]
    return markdown([*heading, "above 0.1"], lines)


def headline_table(result: Result) -> str:
    """Seconds an image of teacher and student with the ratios of wall clock, of CPU time and of evaluations; the quality of both."""
    heading = ["batch", "teacher, s an image", "student, s an image", "ratio of wall clock", "of single batches", "of CPU time"]
    heading += ["of evaluations", "share in wall clock", "in CPU time", "goal", "a guided call costs, in student's calls"]
    speed = [
        [
            str(row["batch_size"]), f"{row['teacher_seconds']:.3f}", f"{row['student_seconds']:.6f}",
            f"**{row['ratio']:.0f}**", f"{min(row['ratios']):.0f} to {max(row['ratios']):.0f}", f"{row['cpu_ratio']:.0f}",
            f"{row['ratio_of_evaluations']:.0f}", f"{row['share']:.2f}", f"{row['cpu_share']:.2f}", f"{row['goal']:g}",
            f"{calls['guided_call_over_student_call']:.2f}",
        ]
        for row, calls in zip(result["speed"], result["calls"], strict=True)
    ]  # fmt: skip
    quality = []
    for row in result["quality"]:
        known = [row["model"], str(row["steps"]), str(row["evaluations"]), str(row["samples"])]
        quality.append([*known, f"{row['frechet']:.3f}", f"{row['inception_score']:.2f}", f"{row['class_accuracy']:.1%}"])
    measures = ["model", "steps", "evaluations", "samples", "Fréchet distance", "Inception Score", "class accuracy"]
    return f"{markdown(heading, speed)}\n\n{markdown(measures, quality)}"


def digits_full_table(result: Result) -> str:
    """Fréchet distances of teacher, stage one and students at each guidance scale, then the ratios to the teacher's 256 steps with the goals."""
    rows, ratios = result["rows"], result["ratios"]
    scales = sorted({row["guidance_scale"] for row in rows})
    kinds = sorted({(r["model"], r["steps"]) for r in rows}, key=lambda k: (("teacher", "stage-one", "student").index(k[0]), -k[1]))
    lines = []
    for model, steps in kinds:
        cells = {r["guidance_scale"]: r for r in rows if (r["model"], r["steps"]) == (model, steps)}
        evaluations = max(cells[s]["evaluations"] for s in scales)
        name = f"**{model}, {steps}**" if model == "student" else f"{model}, {steps}"
        lines.append([name, str(evaluations), *(f"{cells[s]['frechet']:.3f}" for s in scales)])
    whole = markdown(["model, steps", "evaluations", *(f"scale {s:g}" for s in scales)], lines)
    lines = []
    for steps in sorted({r["steps"] for r in ratios}, reverse=True):
        cells = {r["guidance_scale"]: r for r in ratios if r["steps"] == steps}
        shown = [
            f"**{cells[s]['ratio']:.3f}**" if cells[s]["ratio"] <= cells[s]["goal"] else f"{cells[s]['ratio']:.3f}" for s in scales
        ]
        lines.append([f"{steps} step{'s' if steps > 1 else ''}", f"{cells[scales[0]]['goal']:g}", *shown])
    four = {r["guidance_scale"]: r for r in ratios if r["steps"] == 4}
    for name, key in (("rms to the teacher, 4 steps", "rms"), ("rms of the teacher's 8 steps", "rms_of_ddim_8")):
        lines.append([name, "", *(f"{four[s][key]:.4f}" for s in scales)])
    return f"{whole}\n\n{markdown(['ratio to 256 steps', 'goal', *(f'scale {s:g}' for s in scales)], lines)}"


def evaluate_table(result: Result) -> str:
    """A row a configuration of `fewstep evaluate`, at each guidance scale: Fréchet distance as a ratio to the teacher's / to its samples / rms to it.

    Rows of several networks stand side by side.
    """
    rows, lines = result["rows"], []
    scales = sorted({row["guidance_scale"] for row in rows})
    order = list(dict.fromkeys((r["model"], r["sampler"]) for r in rows))
    networks = list(dict.fromkeys(r.get("network") for r in rows))
    most = {key: max(r["evaluations"] for r in rows if config_of(r) == key) for key in {config_of(r) for r in rows}}
    for key in sorted(most, key=lambda k: (order.index(k[:2]), -k[2], networks.index(k[3]))):
        cells = {r["guidance_scale"]: r for r in rows if config_of(r) == key}
        far = {s: "".join(f" / {r[m]:.3f}" for m in TO_TEACHER if r.get(m) is not None) for s, r in cells.items()}
        name = "**student**" if key[0] == "student" else " ".join(key[:2])
        shown = [f"{cells[s]['ratio']:.3f}{far[s]}" if s in cells else "" for s in scales]
        lines.append([*([key[3]] if key[3] else []), name, str(key[2]), str(most[key]), *shown])
    several = ["network"] if networks != [None] else []
    return markdown([*several, "model and sampler", "steps", "evaluations", *(f"scale {s:g}" for s in scales)], lines)


TO_TEACHER = ("frechet_to_teacher", "rms_to_teacher")


def config_of(row: Result) -> tuple[str, str, int, str | None]:
    """What tells configurations apart but for the guidance scale."""
    return row["model"], row["sampler"], row["steps"], row.get("network")


def trials_table(result: Result) -> str:
    """A row a trial of stage one: its updates, and its error at each guidance scale."""
    scales = list(result["rows"][0]["errors"])
    lines = [[row["trial"], f"{row['updates']:,}", *(f"{row['errors'][s]:.4f}" for s in scales)] for row in result["rows"]]
    return markdown(["stage one", "updates", *(f"scale {s}" for s in scales)], lines)


def variants_table(result: Result) -> str:
    """For each number of steps a row a variant: evaluations, and at each guidance scale Fréchet distance / rms to the teacher's many steps."""
    rows, lines = result["rows"], []
    scales = sorted({row["guidance_scale"] for row in rows})
    order = list(dict.fromkeys(row["variant"] for row in rows))
    for steps, name in sorted({(r["steps"], r["variant"]) for r in rows}, key=lambda k: (k[0], order.index(k[1]))):
        cells = {r["guidance_scale"]: r for r in rows if (r["steps"], r["variant"]) == (steps, name)}
        evaluations = max(r["evaluations"] for r in cells.values())
        found = [f"{cells[s]['frechet']:.3f} / {cells[s]['rms_to_teacher']:.3f}" if s in cells else "" for s in scales]
        lines.append([str(steps), f"**{name}**" if name == "ours" else name, str(evaluations), *found])
    return markdown(["steps", "variant", "evaluations", *(f"scale {s:g}" for s in scales)], lines)


def overhead_table(result: Result) -> str:
    """A row a measurement: seconds with fewstep and by the bare network in a plain loop, their ratio and its goal."""
    lines = [
        [row["what"], str(row["batch_size"]), f"{row['seconds']:.4f}", f"{row['bare_seconds']:.4f}", f"{row['ratio']:.3f}", f"{row['goal'] or ''}"]
        for row in result["rows"]
    ]  # fmt: skip
    return markdown(["what", "batch", "seconds with fewstep", "bare network", "ratio", "goal"], lines)


def recipes_table(result: Result) -> str:
    """A row a variant and model, the teacher first: at each guidance scale Fréchet distance / rms to the teacher's many steps."""
    teacher = [row for row in next(iter(result.values()))["rows"] if row["model"] == "teacher"]
    scales, lines = sorted({row["guidance_scale"] for row in teacher}), []
    for name, rows in [("", teacher), *((name, [r for r in v["rows"] if r["model"] != "teacher"]) for name, v in result.items())]:
        for model, steps in dict.fromkeys((row["model"], row["steps"]) for row in rows):
            cells = {r["guidance_scale"]: r for r in rows if (r["model"], r["steps"]) == (model, steps)}
            found = [f"{cells[scale]['frechet']:.3f} / {cells[scale]['rms_to_teacher']:.3f}" for scale in scales]
            lines.append([name, f"{model}, {steps}", *found])
    return markdown(["variant", "model, steps", *(f"scale {scale:g}" for scale in scales)], lines)


TABLES: dict[str, Callable[[Result], str]] = {
    "mixtures": mixtures_table,
    "headline": headline_table,
    "digits-full": digits_full_table,
    "digits-evaluate": evaluate_table,
    "fashion-evaluate": evaluate_table,
    "fashion-latent": evaluate_table,
    "cifar10-evaluate": evaluate_table,
    "stage-one-trials": trials_table,
    "overhead": overhead_table,
    "digits-variants": recipes_table,
    "method-variants": variants_table,
    "editing": editing_table,
    "inpainting": inpainting_table,
    "style-transfer": style_table,
    "emoji": emoji_table,
    "emoji-editing": editing_table,
}


def rendered(page: str, results: Path = RESULTS) -> str:
    """The page with its tables made anew; where a result is not there yet the table stays as it is.

    Raises:
        KeyError: the page names a table that TABLES does not have.
    """

    def fill(found: re.Match[str]) -> str:
        name, path = found[1], results / f"{found[1]}.json"
        if not path.is_file():
            return found[0]
        table = TABLES[name](json.loads(path.read_text(encoding="utf-8")))
        return f"<!-- table: {name} -->\n\n{table}\n\n<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->.*?<!-- end -->", fill, page, flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    behind = 0
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = rendered(before)
        if check:
            print(f"{page} is {'up to date' if before == after else 'behind the results: python benchmarks/results_page.py'}")
            behind |= before != after
        else:
            page.write_text(after, encoding="utf-8")
            print(page)
    return int(behind)


if __name__ == "__main__":
    sys.exit(main())
