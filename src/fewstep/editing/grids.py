"""Pictures in a grid, with labels beside its rows and over its columns."""

from collections.abc import Sequence
from typing import Any

SIDE = 64  # pixels: smaller pictures are enlarged, so that their labels can be read
MARGIN = 4


def labelled_grid(
    rows: list[list[Any]], sides: Sequence[str] = (), tops: Sequence[str] = (), times: int | None = None, margin: int = MARGIN
) -> Any:
    """One PIL image of rows of PIL images on white, `sides` left of the rows and `tops` over the columns where they are given.

    Every picture is shown at the size of the first, enlarged `times`; without it until its shorter side has `SIDE` pixels.
    """
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
    pen = ImageDraw.Draw(grid)
    for j, text in enumerate(tops):
        pen.multiline_text((left + sum(widths[:j]), margin), text, fill="black", font=font)
    for i, text in enumerate(sides):
        pen.multiline_text((margin, head + below * i), text, fill="black", font=font)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            grid.paste(image.resize((width, height), Image.Resampling.NEAREST), (left + sum(widths[:j]), head + below * i))
    return grid
