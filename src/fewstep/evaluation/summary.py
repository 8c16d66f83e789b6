"""What an evaluation found, in one sentence: how many evaluations of a baseline one of the student is worth, and what is given up.

A student is to do what its teacher does, so what its evaluations are worth is measured by the distance to the teacher's own samples of many
steps. A distance to the data does not measure that: at high guidance scales it rewards whoever falls short of the guidance.
"""

import math
from typing import Any

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
    found = [against_baselines(student, baselines) if known else "", against_teacher(student, whole)]
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
