"""What an evaluation found, in one sentence: how many evaluations of a baseline one of the student is worth, and what is given up."""

import math
from typing import Any

from fewstep.columns import spoken
from fewstep.contest import is_reference

Row = dict[str, Any]


def summary(rows: list[Row], reference_steps: int) -> str:
    """One sentence on the student of most steps at a middle guidance scale, measured by Fréchet distance."""
    scales = sorted({r["guidance_scale"] for r in rows if r["model"] == "student"})
    if not scales:
        return "No student was measured."
    scale = scales[(len(scales) - 1) // 2]
    here = [r for r in rows if r["guidance_scale"] == scale]
    student = max((r for r in here if r["model"] == "student"), key=lambda r: r["steps"])
    others = [r for r in here if r["model"] == "teacher"]
    whole = next((r for r in others if is_reference(r, reference_steps)), None)
    baselines = [r for r in others if r is not whole]
    several = student["evaluations"] > 1
    begins = f"At guidance scale {scale:g}, {student['evaluations']} evaluation{'s' * several} of the student"
    worth, above = against_baselines(student, baselines, "are" if several else "is"), against_teacher(student, whole)
    if not worth and not above:
        return f"{begins} give a Fréchet distance of {student['frechet']:.3g}; no teacher was there to compare with."
    return f"{begins} {', '.join(filter(None, (worth, above)))}." if worth else f"{begins} {'are' if several else 'is'} {above}."


def against_baselines(student: Row, baselines: list[Row], verb: str) -> str:
    """ "= 32 of DPM-Solver++": the least evaluations with which a baseline is as good; empty where there are none."""
    if not baselines:
        return ""
    good = [r for r in baselines if r["frechet"] <= student["frechet"]]
    if good:
        best = min(good, key=lambda r: (r["evaluations"], r["frechet"]))
        fewer = any(r["evaluations"] < best["evaluations"] for r in baselines)
        return f"{'=' if fewer else f'{verb} no better than'} {best['evaluations']} of {spoken(best['sampler'])}"
    names = {spoken(r["sampler"]) for r in baselines}
    most = max(r["evaluations"] for r in baselines)
    return f"{verb} better than {most} of {names.pop() if len(names) == 1 else 'every baseline'}"


def against_teacher(student: Row, whole: Row | None) -> str:
    """ "within 3 % of the teacher's 512": how far the Fréchet distance is above the teacher's at many steps."""
    if whole is None or not whole["frechet"] > 0 or not math.isfinite(whole["frechet"]):
        return ""
    above = 100 * (student["frechet"] / whole["frechet"] - 1)
    if above > 100:
        return f"{student['frechet'] / whole['frechet']:.1f} times the Fréchet distance of the teacher's {whole['evaluations']}"
    if above < -1:
        return f"{-above:.0f} % below the Fréchet distance of the teacher's {whole['evaluations']}"
    where = f"within {max(math.ceil(abs(above)), 1)} % of"
    return f"{where} the Fréchet distance of the teacher's {whole['evaluations']}"
