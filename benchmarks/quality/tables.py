"""The tables of quality: mixtures, digits, variants of the method, evaluations, emoji."""

from typing import Any

from benchmarks.command import Row
from benchmarks.markdown import bold, grid, markdown, most
from benchmarks.quality.class_curves import SCALES, lower_by

METHODS = ("student", "perfect student", "ddim", "euler", "dpm++", "unipc", "heun")  # of the mixtures
DIGITS = {("teacher", 256): "teacher, 256 steps", ("teacher", 8): "teacher, 8 steps"} | {
    ("student", n): f"student, {n} step{'s' * (n > 1)}" for n in (4, 2, 1)
}


def distances(row: Row) -> str:
    """Fréchet distance / root-mean-square distance to the teacher."""
    return f"{row['frechet']:.3f} / {row['rms_to_teacher']:.3f}"


def mixtures(result: Row) -> str:
    """What the students of 4 and of 1 step are worth in a baseline's evaluations, then all: rms error of all and of the median."""
    rows, parts = result["rows"], [mixtures_summary(result["rows"])]
    columns = {budget: str(budget) for budget in sorted({row["budget"] for row in rows})}
    for student in result["students"]:
        table = grid(
            [row for row in rows if row["dimensions"] == student["dimensions"]], ["scale", "method"],
            lambda row: (row["guidance_scale"], METHODS.index(row["method"])),
            lambda key, _: [f"{key[0]:g}", bold(METHODS[key[1]], key[1] == 0)],
            lambda row: f"{row['rms']:.2g} / {row['median']:.2g}", lambda key: key, columns, lambda row: row["budget"],
        )  # fmt: skip
        title = f"{student['dimensions']} dimensions, spread of the data {student['spread']:.2f}, student of {student['parameters']:,} weights"
        parts.append(f"**{title}**\n\n{table}")
    return "\n\n".join(parts)


def mixtures_summary(rows: list[Row]) -> str:
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


def digits_full(result: Row) -> str:
    """Fréchet distances of teacher, stage one and students at each guidance scale, then the ratios to the teacher's 256 steps with the goals."""
    whole = grid(
        result["rows"], ["model, steps", "evaluations"], lambda row: (row["model"], row["steps"]),
        lambda key, rows: [bold(f"{key[0]}, {key[1]}", key[0] == "student"), most(rows)], lambda row: f"{row['frechet']:.3f}",
        lambda key: (("teacher", "stage-one", "student").index(key[0]), -key[1]),
    )  # fmt: skip
    ratios = sorted(result["ratios"], key=lambda row: -row["steps"])
    cells = [
        {"line": (f"{r['steps']} step{'s' * (r['steps'] > 1)}", f"{r['goal']:g}"), "text": bold(f"{r['ratio']:.3f}", r["ratio"] <= r["goal"])} | r
        for r in ratios
    ]  # fmt: skip
    for name, key in (("rms to the teacher, 4 steps", "rms"), ("rms of the teacher's 8 steps", "rms_of_ddim_8")):
        cells += [{"line": (name, ""), "text": f"{r[key]:.4f}"} | r for r in ratios if r["steps"] == 4]
    heading = ["ratio to 256 steps", "goal"]
    return f"{whole}\n\n{grid(cells, heading, lambda row: row['line'], lambda line, _: [*line], lambda row: row['text'])}"


def choosing(result: Row) -> str:
    """A line a guidance scale, a column a model of digits and its steps; the Fréchet distance and the class accuracy in each cell."""
    return grid(
        result["rows"], ["guidance scale"], lambda row: row["guidance_scale"], lambda scale, _: [f"{scale:g}"],
        lambda row: f"{row['frechet']:.3f}, {row['class_accuracy']:.1%}", lambda scale: scale, DIGITS, lambda row: (row["model"], row["steps"]),
    )  # fmt: skip


def evaluation(result: Row) -> str:
    """A line a configuration of `fewstep evaluate`: Fréchet distance as a ratio to the teacher's / to its samples / rms to it.

    Lines of several networks stand side by side.
    """
    rows = result["rows"]
    order = list(dict.fromkeys((row["model"], row["sampler"]) for row in rows))
    networks = list(dict.fromkeys(row.get("network") for row in rows))

    def start(key: Any, found: list[Row]) -> list[str]:
        name = "**student**" if key[0] == "student" else " ".join(key[:2])
        return [*([key[3]] if key[3] else []), name, str(key[2]), most(found)]

    def cell(row: Row) -> str:
        away = (row.get(key) for key in ("frechet_to_teacher", "rms_to_teacher"))
        return f"{row['ratio']:.3f}" + "".join(f" / {value:.3f}" for value in away if value is not None)

    heading = [*(["network"] if networks != [None] else []), "model and sampler", "steps", "evaluations"]
    return grid(
        rows, heading, lambda row: (row["model"], row["sampler"], row["steps"], row.get("network")), start, cell,
        lambda key: (order.index(key[:2]), -key[2], networks.index(key[3])),
    )  # fmt: skip


def own_images(result: Row) -> str:
    """What the recipe own-images takes, and at each guidance scale the Fréchet distance and accuracy of teacher, students and stock samplers."""
    teach, distil = (result[key]["cpu_seconds"] / 60 for key in ("teach", "distill"))
    table = grid(
        [row for row in result["rows"] if row["model"] != "stage-one"], ["", "evaluations"],
        lambda row: (row["model"], row["sampler"], row["steps"]),
        lambda key, rows: [
            f"**student**, {key[2]} steps" if key[0] == "student" else f"teacher by {key[1]}, {key[2]} steps",
            " or ".join(map(str, sorted({row["evaluations"] for row in rows}))),
        ],
        lambda row: f"{row['frechet']:.3g}, {row['class_accuracy']:.0%}", lambda key: (key[0] == "student", -key[2], key[1]),
    )  # fmt: skip
    return f"Of one core's time, teaching took {teach:.1f} minutes and distilling {distil:.1f}.\n\n{table}"


def trials(result: Row) -> str:
    """A row a trial of stage one: its updates, and its error at each guidance scale."""
    scales = list(result["rows"][0]["errors"])
    lines = [[row["trial"], f"{row['updates']:,}", *(f"{row['errors'][s]:.4f}" for s in scales)] for row in result["rows"]]
    return markdown(["stage one", "updates", *(f"scale {s}" for s in scales)], lines)


def method_variants(result: Row) -> str:
    """For each number of steps a line a variant: evaluations, Fréchet distance / rms to the teacher's many steps."""
    order = list(dict.fromkeys(row["variant"] for row in result["rows"]))
    return grid(
        result["rows"], ["steps", "variant", "evaluations"], lambda row: (row["steps"], order.index(row["variant"])),
        lambda key, rows: [str(key[0]), bold(order[key[1]], order[key[1]] == "ours"), most(rows)], distances, lambda key: key,
    )  # fmt: skip


def ladders(result: Row) -> str:
    """A line a ladder: its updates, what the whole distillation takes in evaluations of the teacher, and the quality where it was measured."""
    lines, first = [], result["rows"][0]["evaluations"]
    for row in result["rows"]:
        reached = f"{row['reached']} of {row['goals']}" if "goals" in row else ""
        known = row.get("frechet", {})
        frechet = " / ".join(f"{known[steps]:.2f}" if steps in known else "none" for steps in ("4", "2", "1")) if known else ""
        lines.append(
            [
                ", ".join(map(str, row["ladder"])), f"{row['updates']:,}", f"{row['evaluations'] / 1e3:,.0f} k",
                f"{row['evaluations'] / first:.2f}", reached, frechet,
            ]
        )  # fmt: skip
    heading = [
        "ladder",
        "updates",
        "evaluations",
        "of the recipe's",
        "goals reached",
        f"Fréchet distance at scale {result['guidance_scale']:g}, 4 / 2 / 1 steps",
    ]
    return markdown(heading, lines)


def emoji(result: Row) -> str:
    """For each set of captions a line a sampler, at each guidance scale the share found / Fréchet distance / rms to the teacher.

    The evaluations are the most: those of a guided teacher are twice its steps.
    """
    parts = []

    def line(row: Row) -> tuple[str, int]:
        if row["model"] != "teacher":
            return f"{row['model']}, {row['steps']} step{'s' * (row['steps'] > 1)}", row["evaluations"]
        return f"teacher, {row['sampler']}", row["budget"] or 2 * row["steps"]

    def cell(row: Row) -> str:
        rms = "" if row["rms_to_teacher"] is None else f" / {row['rms_to_teacher']:.3f}"
        return f"{row['found']:.1%} / {row['frechet']:.4f}{rms}"

    for captions, real in result["real"].items():
        rows = [row for row in result["rows"] if row["captions"] == captions]
        title = f"{captions} captions; real pictures: found {real['found']:.1%}, Fréchet distance {real['frechet']:.4f}"
        table = grid(rows, ["", "evaluations"], line, lambda key, _: [bold(key[0], "student" in key[0]), str(key[1])], cell)
        parts.append(f"**{title}**\n\n{table}")
    return "\n\n".join(parts)


def teacher_distance(result: Row) -> str:
    """Fréchet distance to the teacher's samples of each way to distil, a column a number of steps and a guidance scale."""
    variants = result["variants"]
    keys = sorted({(-row["steps"], row["guidance_scale"]) for known in variants.values() for row in known["rows"]})
    lines = []
    for name, known in variants.items():
        found = {(-row["steps"], row["guidance_scale"]): row["frechet"] for row in known["rows"]}
        lines.append([name, f"{known['evaluations']:,}", *(f"{found[key]:.3f}" for key in keys)])
    heads = [f"{-steps} step{'s' * (steps < -1)}, scale {scale:g}" for steps, scale in keys]
    return markdown(["students, times the quickstart's updates", "evaluations", *heads], lines)


def critic(result: Row) -> str:
    """Each student's figures at the three guidance scales."""
    columns = {
        "to the teacher's samples": ("frechet", ".4f"), "of pixels": ("frechet_of_pixels", ".4f"), "ratio to the data": ("ratio_to_data", ".3f"),
        "precision": ("precision", ".3f"), "recall": ("recall", ".3f"), "diversity": ("diversity", ".3f"),
    }  # fmt: skip
    lines = []
    for name, known in result["variants"].items():
        cells = [" / ".join(format(row[key], form) for row in known["rows"]) for key, form in columns.values()]
        lines.append([name, f"{known['updates']:,}", f"{known.get('evaluations', 0):,}", *cells])
    return markdown(["steps: student", "updates", "evaluations", *columns], lines)


def guidance_rules(result: Row) -> str:
    """A line a rule for the teacher and the students of each number of steps: Fréchet distance / class NLL at each scale, and how far its curve is below plain guidance's."""
    lines = []
    for model, steps in dict.fromkeys((row["model"], row["steps"]) for known in result["rules"].values() for row in known["rows"]):
        curves = {
            name: [r for r in known["rows"] if (r["model"], r["steps"]) == (model, steps)]
            for name, known in result["rules"].items()
        }
        named = f"{model}, {steps} step{'s' * (steps > 1)}"
        lines += [
            [named, name, *curve_cells(curve), percent_below(curve, curves["plain"]) if "plain" in curves else ""]
            for name, curve in curves.items()
            if curve
        ]
    return markdown(["", "rule", *(f"scale {s:g}" for s in SCALES), "curve below plain"], lines)


def curve_cells(curve: list[Row]) -> list[str]:
    """Fréchet distance / class NLL at each of the scales shown."""
    return [f"{r['frechet']:.3f} / {r['class_nll']:.3f}" for r in curve if r["guidance_scale"] in SCALES]


def percent_below(curve: list[Row], other: list[Row]) -> str:
    """By how much a curve's Fréchet distance is smaller than another's at equal class NLL; empty for the same curve."""
    gain = None if curve == other else lower_by(curve, other)
    return "" if gain is None else f"{100 * gain:+.0f} %"


def to_reach(result: Row) -> str:
    """Lines for each student of digits: what each figure is at scales 1, 2 and 5, with the goal beside."""
    goals, figures, lines = result["goals"], result["figures"], []
    low, high = goals["diversity"]
    for steps in dict.fromkeys(row["steps"] for row in figures):
        rows = [row for row in figures if row["steps"] == steps]
        goal = goals["ratio"][str(steps)]
        worth = [
            bold(str(row["worth"] or f"less than {min(map(int, row['best']))}"), row["worth"] >= goals["worth"]) for row in rows
        ]
        ratio = [bold(f"{row['ratio']:.3f}", row["ratio"] <= goal) for row in rows]
        diversity = [bold(f"{row['diversity_ratio']:.3f}", low <= row["diversity_ratio"] <= high) for row in rows]
        nearness = [f"{row['frechet_to_teacher']:.4f}" for row in rows]
        name = f"{steps} step{'s' * (steps > 1)}"
        lines += [
            [name, "Fréchet distance to the teacher's samples", *nearness, ""],
            [name, "worth so many evaluations of every baseline", *worth, str(goals["worth"]) if steps == 4 else ""],
            [name, "ratio to the teacher's own distance to the data", *ratio, f"{goal:g}"],
            [name, "diversity, ratio to the teacher's", *diversity, f"{low:g} to {high:g}"],
        ]
    scales = {row["guidance_scale"]: row["samples"] for row in figures}
    return markdown(["student", "", *(f"scale {s:g}, {n:,} samples" for s, n in sorted(scales.items())), "goal"], lines)


def small_samples(result: Row) -> str:
    """A line a measure, a column a number of samples: bias / spread / power."""
    return grid(
        result["rows"], ["measure"], lambda row: row["measure"], lambda name, _: [name],
        lambda row: f"{row['bias']:.2f} / {row['spread']:.2f} / {row['power']:.1f}",
        columns={n: f"{n:,}" for n in sorted({row["samples"] for row in result["rows"]})}, column=lambda row: row["samples"],
    )  # fmt: skip


def scale_by_step(result: Row) -> str:
    """A line a schedule of scales: Fréchet distance / class NLL at each s, and how far its curve is below that of one scale."""
    usual = result["schedules"]["s s s s"]["rows"]
    lines = [[name, *curve_cells(k["rows"]), percent_below(k["rows"], usual)] for name, k in result["schedules"].items()]
    return markdown(["scales", *(f"s = {s:g}" for s in SCALES), "curve below one scale's"], lines)
