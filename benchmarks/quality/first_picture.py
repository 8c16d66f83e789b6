"""The README's first picture: some rows of docs/emoji.png, with their labels.   python -m benchmarks.quality.first_picture

All columns stay, the good and the bad. docs/emoji.png is made by `benchmarks.quality.emoji`.
"""

from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
HEADER, LEFT, FIRST, PITCH = (95, 134), 0, 138, 79.21  # of docs/emoji.png, in pixels: captions, labels, first row, distance of rows
ROWS = (0, 4, 2, 10, 14, 12, 15, 19, 17)  # teacher, 4 steps, 1 step at guidance scales 1, 4, 8
GAP = 12  # between scales


def main() -> None:
    """Write docs/students.png."""
    from PIL import Image

    with Image.open(DOCS / "emoji.png") as opened:
        whole = opened.convert("RGB")
    tops = [round(FIRST + PITCH * row) for row in ROWS]
    height = HEADER[1] - HEADER[0] + round(len(ROWS) * PITCH) + 2 * GAP
    made = Image.new("RGB", (whole.width, height), "white")
    made.paste(whole.crop((LEFT, HEADER[0], whole.width, HEADER[1])), (0, 0))
    for number, top in enumerate(tops):
        place = HEADER[1] - HEADER[0] + round(number * PITCH) + GAP * (number // 3)
        made.paste(whole.crop((LEFT, top, whole.width, top + round(PITCH) - 1)), (0, place))
    made = made.quantize(192, dither=Image.Dither.NONE)
    made.save(DOCS / "students.png", optimize=True)


if __name__ == "__main__":
    main()
