"""What an evaluation found, in one sentence: how many evaluations of a baseline one of the student is worth, and what is given up.

A student is to do what its teacher does, so what its evaluations are worth is judged by the distance to the teacher's own samples of many
steps. A distance to the data is no judge of that: at high guidance scales it rewards whoever falls short of the guidance.
"""

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
    several = student["evaluations"] > 1
    begins = f"At guidance scale {scale:g}, {student['evaluations']} evaluation{'s' * several} of the student"
    worth = against_baselines(student, [r for r in others if r is not whole], "are" if several else "is")
    above = against_teacher(student, whole)
    if not worth and not above:
        return f"{begins} give a Fréchet distance of {student['frechet']:.3g}; no teacher was there to compare with."
    return f"{begins} {', '.join(filter(None, (worth, above)))}." if worth else f"{begins} {'are' if several else 'is'} {above}."


def against_baselines(student: Row, baselines: list[Row], verb: str) -> str:
    """ "= 32 of DPM-Solver++ in distance to the teacher's samples": the least evaluations with which a baseline is as good.

    Empty where there are no baselines, or nothing is known of their distance to the teacher's samples.
    """
    mine, baselines = nearness(student), [r for r in baselines if nearness(r) is not None]
    if not baselines or mine is None:
        return ""
    to, good = " in distance to the teacher's samples", [r for r in baselines if nearness(r) <= mine]
    if good:
        best = min(good, key=lambda r: (r["evaluations"], nearness(r)))
        fewer = any(r["evaluations"] < best["evaluations"] for r in baselines)
        return f"{'=' if fewer else f'{verb} no better than'} {best['evaluations']} of {spoken(best['sampler'])}{to}"
    names = {spoken(r["sampler"]) for r in baselines}
    most = max(r["evaluations"] for r in baselines)
    return f"{verb} better than {most} of {names.pop() if len(names) == 1 else 'every baseline'}{to}"


def nearness(row: Row) -> Any:
    """The Fréchet distance to the teacher's samples of many steps; None where it is not known."""
    return row.get("frechet_to_teacher")


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
