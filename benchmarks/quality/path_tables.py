"""The tables of what students taught by the teacher's paths reach."""

from collections.abc import Callable

from benchmarks.command import Row
from benchmarks.markdown import bold, grid, markdown


def emoji_paths(result: Row) -> str:
    """For each set of captions and number of steps a line a way to distil, at each guidance scale what `benchmarks.quality.emoji_paths` measures."""
    return by_ways(
        result["variants"], {"captions": "captions", "steps": "steps", "way": "students, times the updates"},
        lambda row: f"{row['frechet_to_teacher']:.4f} / {row['frechet']:.4f} / {row['rms_to_teacher']:.3f} / {row['found']:.1%}",
    )  # fmt: skip


def image_paths(result: Row, of: str) -> str:
    """For each number of steps of a recipe's students a line a way to distil, at each guidance scale what `benchmarks.quality.image_paths` measures.

    A goal that is reached is bold; what a student is worth is left out where no baselines were measured.
    """
    goals = result[of]["goals"]
    low, high = goals["diversity"]

    def cell(row: Row) -> str:
        ratio = bold(f"{row['ratio']:.3f}", row["ratio"] <= goals["ratio"][str(row["steps"])])
        diversity = bold(f"{row['diversity_ratio']:.3f}", low <= row["diversity_ratio"] <= high)
        worth = (
            [bold(str(row["worth"] or f"< {min(map(int, row['best']))}"), row["worth"] >= goals["worth"])] if row["best"] else []
        )
        return " / ".join([f"{row['frechet_to_teacher']:.3f}", *worth, ratio, diversity])

    return by_ways(result[of]["ways"], {"steps": "steps", "way": "students"}, cell)


def by_ways(ways: Row, heads: dict[str, str], cell: Callable[[Row], str]) -> str:
    """A line for each value of the keys of `heads`, of which `way` is the way to distil, with the evaluations that it took; fewer steps come last."""
    rows = [row | {"way": way, "total": known["evaluations"]} for way, known in ways.items() for row in known["rows"]]
    return grid(
        rows, [*heads.values(), "evaluations of the distillation"], lambda row: (*(row[key] for key in heads), row["total"]),
        lambda key, _: [*map(str, key[:-1]), f"{key[-1]:,}"], cell,
        lambda key: [-value if isinstance(value, int) else value for value in key[:-2]],
    )  # fmt: skip


def low_scale(result: Row) -> str:
    """A line a way to teach the student of 4 steps on, and what it has at scale 1."""
    columns = {
        "new paths": ("paths", ",d"), "updates": ("updates", ",d"), "Fréchet distance to the teacher's samples": ("frechet_to_teacher", ".4f"),
        "ratio to the data": ("ratio", ".3f"), "rms": ("rms_to_teacher", ".4f"),
    }  # fmt: skip
    lines = [[name, *(format(row[key], form) for key, form in columns.values())] for name, row in result["variants"].items()]
    return markdown(["taught on by", *columns], lines)
