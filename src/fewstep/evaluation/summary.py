"""What an evaluation found, in one sentence: how many evaluations of a baseline one of the student is worth, and what is given up.

A student is to do what its teacher does, so what its evaluations are worth is measured by the distance to the teacher's own samples of many
steps. A distance to the data at one guidance scale does not measure that: at high scales it rewards whoever falls short of the guidance. Over several
scales it does, held against how well the samples fit their condition: on the curve of Fréchet distance against class likelihood or CLIP score.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from fewstep.evaluation.evaluation_run import is_reference
from fewstep.evaluation.results_table import readable

Row = dict[str, Any]


def summary(rows: list[Row], reference_steps: int) -> str:
    """One sentence at a middle guidance scale, on the student of fewest steps among those that are worth most."""
    scales = sorted({r["guidance_scale"] for r in rows if r["model"] == "student"})
    if not scales:
        return "No student was measured."
    scale = scales[(len(scales) - 1) // 2]
    here = [r for r in rows if r["guidance_scale"] == scale]
    whole = next((r for r in here if is_reference(r, reference_steps)), None)
    baselines = [r for r in here if r["model"] == "teacher" and r is not whole and nearness(r) is not None]
    students = sorted((r for r in here if r["model"] == "student"), key=lambda r: r["steps"])
    known = baselines and all(nearness(r) is not None for r in students)
    student = max(students, key=lambda r: outperformed(r, baselines)) if known else students[-1]
    several = student["evaluations"] > 1
    begins = f"At guidance scale {scale:g}, {student['evaluations']} evaluation{'s' * several} of the student"
    found = [
        against_baselines(student, baselines) if known else "",
        on_the_curve(student, rows, reference_steps),
        against_teacher(student, whole),
    ]
    if not any(found):
        return f"{begins} give a Fréchet distance of {student['frechet']:.3g}; no teacher was there to compare with."
    return f"{begins} {'are' if several else 'is'} {', '.join(filter(None, found))}."


def outperformed(student: Row, baselines: list[Row]) -> int:
    """Of each baseline the most evaluations below which, and with which, it is farther from the teacher's samples; of these the least, 0 for none."""
    found = []
    for sampler in {r["sampler"] for r in baselines}:
        rows = [r for r in baselines if r["sampler"] == sampler]
        as_good = min((r["evaluations"] for r in rows if nearness(r) <= nearness(student)), default=math.inf)
        found.append(max((r["evaluations"] for r in rows if r["evaluations"] < as_good), default=0))
    return min(found, default=0)


def against_baselines(student: Row, baselines: list[Row]) -> str:
    """ "better than 32 of every baseline in distance to the teacher's samples": what the student outperforms, else the least that is as good."""
    to, most = " in distance to the teacher's samples", outperformed(student, baselines)
    if not most:
        best = min((r for r in baselines if nearness(r) <= nearness(student)), key=lambda r: (r["evaluations"], nearness(r)))
        return f"no better than {best['evaluations']} of {readable(best['sampler'])}{to}"
    names = {readable(r["sampler"]) for r in baselines}
    return f"better than {most} of {names.pop() if len(names) == 1 else 'every baseline'}{to}"


def on_the_curve(student: Row, rows: list[Row], reference_steps: int) -> str:
    """ "better than 16 of every baseline on the curve ...": what the student outdoes over all scales; empty where no curves can be compared."""
    mine = [r for r in rows if (r["model"], r["steps"]) == ("student", student["steps"])]
    fit = next((key for key in ("class_nll", "clip_score", "score") if all(r.get(key) is not None for r in mine)), None)
    others = [r for r in rows if r["model"] == "teacher" and not is_reference(r, reference_steps)]
    if fit is None or len(mine) < 2 or not others:
        return ""
    worth: dict[str, int] = {}
    for sampler in {r["sampler"] for r in others}:
        for curve in budgets_of(r for r in others if r["sampler"] == sampler):
            gain = advantage(mine, curve, fit)
            if gain is None:
                return ""  # curves that do not lie beside each other
            if gain <= 0:
                break
            worth[sampler] = max(r["evaluations"] for r in curve)
        worth.setdefault(sampler, 0)
    least, against = min(worth.values()), {"class_nll": "class likelihood", "clip_score": "CLIP score", "score": "the score"}[fit]
    names = readable(next(iter(worth))) if len(worth) == 1 else "every baseline"
    what = f"better than {least} of {names}" if least else "no better than the fewest of the best baseline"
    return f"{what} on the curve of Fréchet distance against {against} over the scales"


def budgets_of(rows: Iterable[Row]) -> list[list[Row]]:
    """A sampler's rows as curves over the guidance scales: the fewest evaluations at each scale, the next, and so on."""
    scales: dict[float, list[Row]] = {}
    for row in sorted(rows, key=lambda r: r["evaluations"]):
        scales.setdefault(row["guidance_scale"], []).append(row)
    return [list(curve) for curve in zip(*scales.values(), strict=False)]


def advantage(mine: list[Row], other: list[Row], fit: str) -> float | None:
    """How far the curve `mine` lies below the other, in the logarithm of the Fréchet distance at equal `fit`: the mean over where both are.

    None where less than two points of either lie beside the other's curve, or a distance is not above 0.
    """
    if any(r.get(fit) is None or not r["frechet"] > 0 for r in (*mine, *other)):
        return None
    gains = []
    for points, line, sign in ((mine, other, 1), (other, mine, -1)):
        x, y = zip(*sorted((r[fit], math.log(r["frechet"])) for r in line), strict=True)
        beside = [r for r in points if x[0] <= r[fit] <= x[-1]]
        gains += [sign * (np.interp(r[fit], x, y) - math.log(r["frechet"])) for r in beside]
    return float(np.mean(gains)) if len(gains) > 1 else None


def nearness(row: Row) -> Any:
    """The Fréchet distance to the teacher's samples of many steps; None where it is not known."""
    return row.get("frechet_to_teacher")


def against_teacher(student: Row, whole: Row | None) -> str:
    """ "within 3 % of the teacher's 512": how far the Fréchet distance is above the teacher's at many steps."""
    if whole is None or not whole["frechet"] > 0 or not math.isfinite(whole["frechet"]):
        return ""
    times = student["frechet"] / whole["frechet"]
    above = 100 * (times - 1)
    where = f"within {max(math.ceil(abs(above)), 1)} % of" if above >= -1 else f"{-above:.0f} % below"
    return f"{where if above <= 100 else f'{times:.1f} times'} the Fréchet distance of the teacher's {whole['evaluations']}"
