"""Tables of Markdown."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from benchmarks.command import Row


def markdown(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [heading, ["---"] * len(heading), *lines])


def grid(
    rows: list[Row],
    heading: list[str],
    line: Callable[[Row], Hashable],
    start: Callable[[Any, list[Row]], list[str]],
    cell: Callable[[Row], str],
    order: Callable[[Any], Any] | None = None,
    columns: dict[Any, str] | None = None,
    column: Callable[[Row], Hashable] = lambda row: row["guidance_scale"],
) -> str:
    """A table of a line for each value of `line` (in `order`, else as they come) and a column for each guidance scale.

    A line begins with the cells `start(value, its rows)`, and has `cell(row)` in the column of each row. `columns` and `column` put
    something else in place of the guidance scale: headings by value, and a row's value.
    """
    columns = columns or {scale: f"scale {scale:g}" for scale in sorted({row["guidance_scale"] for row in rows})}
    groups: dict[Any, dict[Any, Row]] = {}
    for row in rows:
        groups.setdefault(line(row), {})[column(row)] = row
    lines = [
        [*start(value, list(groups[value].values())), *(cell(groups[value][c]) if c in groups[value] else "" for c in columns)]
        for value in (sorted(groups, key=order) if order else groups)
    ]
    return markdown([*heading, *columns.values()], lines)


def most(rows: list[Row]) -> str:
    """The most evaluations of the rows."""
    return str(max(row["evaluations"] for row in rows))


def bold(text: str, when: bool) -> str:
    """The text, in bold when asked."""
    return f"**{text}**" if when else text
