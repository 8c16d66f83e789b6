"""The table of the emoji, from benchmarks/results/emoji.json."""

from typing import Any

from markdown_table import markdown


def emoji_table(result: dict[str, Any]) -> str:
    """For each set of captions a row a way to draw: evaluations, and at each guidance scale share found / Fréchet distance / rms to the teacher."""
    rows, parts = result["rows"], []
    scales = sorted({row["guidance_scale"] for row in rows})
    for captions in dict.fromkeys(row["captions"] for row in rows):
        here = [row for row in rows if row["captions"] == captions]
        lines = []
        for name, budget in dict.fromkeys(map(way_of, here)):
            found = {row["guidance_scale"]: row for row in here if way_of(row) == (name, budget)}
            cells = [cell_of(found[scale]) if scale in found else "" for scale in scales]
            lines.append([f"**{name}**" if "student" in name else name, str(budget), *cells])
        real = result["real"][captions]
        title = f"{captions} captions; real pictures: found {real['found']:.1%}, Fréchet distance {real['frechet']:.4f}"
        parts.append(f"**{title}**\n\n{markdown(['', 'evaluations', *(f'scale {s:g}' for s in scales)], lines)}")
    return "\n\n".join(parts)


def way_of(row: dict[str, Any]) -> tuple[str, int]:
    """What drew a row's pictures, and with how many evaluations at most: those of a guided teacher are twice its steps at every scale."""
    if row["model"] != "teacher":
        return (f"{row['model']}, {row['steps']} step{'s' * (row['steps'] > 1)}", row["evaluations"])
    return (f"teacher, {row['sampler']}", row["budget"] or 2 * row["steps"])


def cell_of(row: dict[str, Any]) -> str:
    """The three figures of a row."""
    rms = "" if row["rms_to_teacher"] is None else f" / {row['rms_to_teacher']:.3f}"
    return f"{row['found']:.1%} / {row['frechet']:.4f}{rms}"
