"""The PNG files of pictures while training: a grid that says itself what it holds and where, so that each picture can be taken out again."""

import json
import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fewstep.files import write_atomically
from fewstep.grids import grid_of

FOLDER = "samples"  # in a run
TEACHER = "teacher.png"  # in it
FACTS = "fewstep"  # the text in a PNG
LARGEST = 256  # pixels along a side: larger pictures are made smaller
SIDE_WIDTH, SIDE_LINES = 24, 4  # characters and lines of a condition beside its row
Pictures = list[Any]  # PIL images of one guidance scale, one for each condition


@dataclass(frozen=True)
class SampleGrid:
    """Columns of pictures, each of one model ("student", "teacher") at a guidance scale, with a row for each condition."""

    columns: list[tuple[str, float, Pictures]]
    rows: list[str]
    facts: dict[str, Any]  # stage, update, steps, evaluations of a picture

    def of(self, model: str) -> list[tuple[str, float, Pictures]]:
        """The columns of one model."""
        return [column for column in self.columns if column[0] == model]

    def write(self, file: Path) -> Any:
        """Write the grid; its PIL image.

        Raises:
            InputError: the disk is full or not writable.
        """
        from PIL.PngImagePlugin import PngInfo

        tops = [f"{model}\nscale {scale:g}" for model, scale, _ in self.columns]
        sides = ["\n".join(textwrap.wrap(row, SIDE_WIDTH)[:SIDE_LINES]) for row in self.rows]
        lines = [[column[2][i] for column in self.columns] for i in range(len(self.rows))]
        grid, info = grid_of(lines, sides, tops), PngInfo()
        known = {"rows": self.rows, "columns": [column[:2] for column in self.columns]}
        places = {"x": grid.x, "y": grid.y, "width": grid.width, "height": grid.height}
        info.add_text(FACTS, json.dumps(self.facts | known | places))
        write_atomically(file, partial(grid.image.save, format="PNG", pnginfo=info))
        return grid.image


def read_grid(file: Path) -> SampleGrid | None:
    """The grid of a file that `SampleGrid.write` wrote; None where there is none, or it is damaged."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
            facts = json.loads(image.text[FACTS])  # pyright: ignore[reportAttributeAccessIssue]
        x, y, width, height, rows, columns = (facts.pop(key) for key in ("x", "y", "width", "height", "rows", "columns"))
        found = [[image.crop((left, top, left + width, top + height)) for top in y] for left in x]
        return SampleGrid([(model, float(scale), one) for (model, scale), one in zip(columns, found, strict=True)], rows, facts)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, AttributeError):
        return None


def small(image: Any) -> Any:
    """The PIL image, or a smaller copy of it where it is larger than a grid's pictures are."""
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST))
    return image
