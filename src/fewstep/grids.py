"""Pictures in a grid, with labels beside its rows and over its columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SIDE = 64  # pixels: smaller pictures are enlarged, so that their labels can be read
MARGIN = 4


@dataclass(frozen=True)
class Grid:
    """A PIL image of pictures in rows and columns, and where they are in it."""

    image: Any
    x: tuple[int, ...]  # the left edge of each column's pictures
    y: tuple[int, ...]  # the upper edge of each row's
    width: int  # of a picture
    height: int


def labelled_grid(
    rows: list[list[Any]], sides: Sequence[str] = (), tops: Sequence[str] = (), times: int | None = None, margin: int = MARGIN
) -> Any:
    """One PIL image of rows of PIL images on white, `sides` left of the rows and `tops` over the columns where they are given.

    Every picture is shown at the size of the first, enlarged `times`; without it until its shorter side has `SIDE` pixels.
    """
    return grid_of(rows, sides, tops, times, margin).image


def grid_of(
    rows: list[list[Any]], sides: Sequence[str] = (), tops: Sequence[str] = (), times: int | None = None, margin: int = MARGIN
) -> Grid:
    """As `labelled_grid`, with the places of the pictures."""
    from PIL import Image, ImageDraw, ImageFont

    sides, tops = ([text.encode(errors="backslashreplace").decode() for text in texts] for texts in (sides, tops))  # of any path
    font, pen, columns = ImageFont.load_default(), ImageDraw.Draw(Image.new("L", (1, 1))), max(map(len, rows))
    boxes = {text: pen.multiline_textbbox((0, 0), text, font=font)[2:] for text in {*sides, *tops}}
    left = max((int(boxes[text][0]) + 2 * margin for text in sides), default=0)
    head = max((int(boxes[text][1]) + 2 * margin for text in tops), default=0)
    times = times or max(1, -(-SIDE // min(rows[0][0].size)))
    width, height = (times * side for side in rows[0][0].size)
    widths = [max(width, int(boxes[text][0])) + margin for text in tops] or [width + margin] * columns
    below = max([height, *(int(boxes[text][1]) for text in sides)]) + margin
    mode = "L" if all(image.mode in ("L", "1") for row in rows for image in row) else "RGB"
    grid = Image.new(mode, (left + sum(widths) - margin, head + below * len(rows) - margin), "white")
    x, y = tuple(left + sum(widths[:j]) for j in range(columns)), tuple(head + below * i for i in range(len(rows)))
    pen = ImageDraw.Draw(grid)
    for place, text in zip(x, tops, strict=False):
        pen.multiline_text((place, margin), text, fill="black", font=font)
    for place, text in zip(y, sides, strict=False):
        pen.multiline_text((margin, place), text, fill="black", font=font)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            grid.paste(image.resize((width, height), Image.Resampling.NEAREST), (x[j], y[i]))
    return Grid(grid, x, y, width, height)
