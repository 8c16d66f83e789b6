"""A table of markdown."""

from collections.abc import Sequence


def markdown(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    rows = [heading, ["---"] * len(heading), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
