"""A table of results: its columns, and every figure as the text that a page or a terminal shows."""

import math
from collections.abc import Iterable
from typing import Any

DASH = "–"
NAMES = {
    "ddim": "DDIM", "dpm++": "DPM-Solver++", "unipc": "UniPC", "heun": "Heun", "euler": "Euler", "stage-one": "stage one",
}  # fmt: skip

Row = dict[str, Any]
Column = tuple[str, str, str, str | int]

COLUMNS: tuple[Column, ...] = (  # key, head on the page, head in text ("": not there), kind (a measure: the digits that its smallest value shows)
    ("model", "model", "model", "word"), ("sampler", "sampler", "sampler", "word"),
    ("steps", "steps", "steps", "count"), ("evaluations", "evaluations", "evaluations", "count"),
    ("frechet", "Fréchet distance", "Fréchet", 3), ("interval", "95 % interval", "", "range"),
    ("frechet_extrapolated", "Fréchet distance, infinite samples", "infinite", 3), ("mind", "MIND", "", 3),
    ("ratio", "ratio to teacher", "ratio", 3), ("frechet_to_teacher", "Fréchet distance to teacher", "to teacher", 3),
    ("inception_score", "Inception Score", "", 3), ("kid", "KID × 1000", "", 2),
    ("precision", "precision", "precision", "share"), ("recall", "recall", "recall", "share"),
    ("class_accuracy", "class accuracy", "accuracy", "share"), ("class_nll", "class NLL, nats", "", 2),
    ("rms_to_teacher", "rms to teacher", "rms to teacher", 3), ("psnr_to_teacher", "PSNR to teacher, dB", "", 3),
    ("sharpness", "sharpness", "", 3), ("saturation", "saturation", "", 3), ("diversity", "diversity", "", 3),
    ("diversity_ratio", "diversity, ratio to teacher", "", 3),
    ("clip_score", "CLIP score", "CLIP", 3),
    ("score", "score", "score", 3), ("score_interval", "95 % interval of the score", "", "range"),
    ("seconds_per_image", "ms an image", "ms", 2), ("samples", "samples", "samples", "count"),
)  # fmt: skip
ALWAYS = {
    "model", "sampler", "steps", "evaluations", "frechet", "class_accuracy", "rms_to_teacher", "seconds_per_image", "samples",
}  # fmt: skip


def columns(rows: list[Row], text: bool = False, brief: bool = False) -> list[Column]:
    """The columns that these rows fill; in text only the most important, and in a brief one `ALWAYS` alone."""
    filled = {c[0] for c in COLUMNS if not brief and any(value(r, c[0]) is not None for r in rows)} | ALWAYS
    return [c for c in COLUMNS if (c[2] or not text) and c[0] in filled]


def value(row: Row, key: str) -> Any:
    """What a column shows of a row, in the column's unit."""
    if key == "interval":
        return None if row.get("frechet_low") is None else (row["frechet_low"], row["frechet_high"])
    if key == "score_interval":
        return None if row.get("score_low") is None else (row["score_low"], row["score_high"])
    found = row.get(key)
    return 1000 * found if found is not None and key in ("seconds_per_image", "kid") else found


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


def readable(name: str) -> str:
    """A stage, model or sampler by the name to read: "steps-0004" is "to 4 steps"."""
    stage, _, steps = name.rpartition("-")
    if steps.isdecimal():
        return {"steps": "", "encoder": "encoder "}.get(stage, f"{stage} ") + f"to {int(steps)} step{'s' * (int(steps) != 1)}"
    return NAMES.get(name, name)


def order(model: str, steps: int) -> tuple[int, str, int]:
    """Sort key: the teacher, then what lies between, then the student; many steps first."""
    return {"teacher": 0, "student": 2}.get(model, 1), model, -steps


def tables(rows: list[Row], shown: list[Column]) -> tuple[list[tuple[str, list[list[str]]]], list[list[str]]]:
    """The table's cells as text, (guidance scale, lines) in order, and stage one's lines, which begin with the scale."""
    main, stage_one = [r for r in rows if r["model"] != "stage-one"], [r for r in rows if r["model"] == "stage-one"]
    main.sort(key=lambda r: (r["guidance_scale"], order(r["model"], 0), str(r.get("sampler")), -r["steps"]))
    scales: dict[str, list[list[str]]] = {}
    for row, line in zip(main, cells(main, shown), strict=True):
        scales.setdefault(f"{row['guidance_scale']:g}", []).append(line)
    stage_one.sort(key=lambda r: r["guidance_scale"])
    own = [[f"{row['guidance_scale']:g}", *line[1:]] for row, line in zip(stage_one, cells(stage_one, shown), strict=True)]
    return list(scales.items()), own


def cells(rows: list[Row], shown: list[Column]) -> list[list[str]]:
    """The text of every cell; a measure has the same number of decimals in all rows."""
    decimals = {key: places((value(r, key) for r in rows), kind) for key, _, _, kind in shown if isinstance(kind, int)}
    decimals |= {"interval": decimals.get("frechet", 2), "score_interval": decimals.get("score", 2)}

    def cell(found: Any, key: str, kind: str | int) -> str:
        if found is None or kind == "word":
            return DASH if found is None else readable(found)
        if kind == "range":
            return " to ".join(number(end, decimals[key]) for end in found)
        return f"{number(100 * found, 1)}%" if kind == "share" else number(found, decimals.get(key, 0))

    return [[cell(value(row, key), key, kind) for key, _, _, kind in shown] for row in rows]


def text_table(rows: list[Row], brief: bool = False) -> str:
    """The report's table as plain text, narrow enough for a terminal, with stage one's rows last."""
    shown = columns(rows, text=True, brief=brief)
    groups, own = tables(rows, shown)
    own = [("stage one: guidance in one evaluation, no steps saved yet", [[f"scale {o[0]}", *o[1:]] for o in own])] if own else []
    parts = [(f"guidance scale {scale}", lines) for scale, lines in groups] + own
    head = [short for _, _, short, _ in shown]
    widths = [max(map(len, texts)) for texts in zip(head, *(line for _, lines in parts for line in lines), strict=True)]

    def aligned(texts: list[str]) -> str:
        placed = zip(texts, widths, shown, strict=True)
        return "  ".join(t.ljust(w) if kind == "word" else t.rjust(w) for t, w, (*_, kind) in placed).rstrip()

    return "\n".join([aligned(head)] + [line for name, lines in parts for line in ["", name, *map(aligned, lines)]])
