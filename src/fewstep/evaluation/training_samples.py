"""The pictures that a run drew while it trained, as strips for the report: updates across, guidance scales down, the teacher's at the end."""

from pathlib import Path
from typing import Any

from fewstep.training.sample_grids import FOLDER, TEACHER, Pictures, SampleGrid, read_grid

WIDTH = 42  # pixels of a picture: four of them, six times beside each other, fit the page
MOST = 5  # updates of a stage that are shown, the last among them
ORDER = ("teacher", "stage-one", "ladder", "steps")  # of stages, each by falling steps


def strips_of(run: Path) -> list[dict[str, Any]]:
    """For each stage of a run with pictures: `stage`, `steps`, `heads` of the columns, and `lines`, (guidance scale, PIL images)."""
    folders = [folder for folder in (run / FOLDER).glob("*/") if folder.name.partition("-")[0] != "encoder"]
    found = [(folder, grids_in(folder)) for folder in sorted(folders, key=place)]
    of_teacher = read_grid(run / FOLDER / TEACHER)
    return [strips_of_stage(folder.name, grids, of_teacher) for folder, grids in found if grids]


def place(folder: Path) -> tuple[int, int]:
    """Where a stage stands among the others."""
    kind, _, number = folder.name.partition("-")
    steps = int(number) if number.isdecimal() else 0
    name = folder.name if folder.name in ORDER else kind
    return (ORDER.index(name) if name in ORDER[:2] else 2, -steps)


def grids_in(folder: Path) -> list[SampleGrid]:
    """The grids of a stage in the order of updates, at most `MOST`, evenly taken; damaged files are left out."""
    grids = [grid for file in sorted(folder.glob("*.png")) if (grid := read_grid(file)) is not None and "update" in grid.facts]
    last = len(grids) - 1
    kept = sorted({round(last * i / (MOST - 1)) for i in range(MOST)}) if last >= MOST else range(len(grids))
    same = [grids[i] for i in kept]
    return [grid for grid in same if grid.rows == same[-1].rows and scales(grid) == scales(same[-1])]


def scales(grid: SampleGrid) -> list[float]:
    """The guidance scales of a grid's first model."""
    return [scale for model, scale, _ in grid.columns if model == grid.columns[0][0]]


def strips_of_stage(stage: str, grids: list[SampleGrid], of_teacher: SampleGrid | None) -> dict[str, Any]:
    """The heads and lines of a stage; the teacher's pictures are those of the same conditions and scales, if the run has any."""
    last = grids[-1]
    heads = [f"update {grid.facts['update']:,}" for grid in grids]
    columns = [grid.of(grid.columns[0][0]) for grid in grids]
    if of_teacher is not None and of_teacher.rows == last.rows and scales(of_teacher) == scales(last):
        heads.append(f"teacher, {of_teacher.facts.get('steps', '?')} steps")
        columns.append(of_teacher.columns)
    lines = [(f"{scale:g}", [beside(column[i][2]) for column in columns]) for i, scale in enumerate(scales(last))]
    return {"stage": stage, "steps": last.facts.get("steps"), "heads": heads, "lines": lines, "conditions": last.rows}


def beside(pictures: Pictures) -> Any:
    """PIL images beside each other, each `WIDTH` pixels wide."""
    from PIL import Image

    width, height = WIDTH, max(round(WIDTH * pictures[0].height / pictures[0].width), 1)
    whole = Image.new("RGBA", (len(pictures) * (width + 2) - 2, height))
    for k, picture in enumerate(pictures):
        whole.paste(picture.convert("RGBA").resize((width, height), Image.Resampling.LANCZOS), (k * (width + 2), 0))
    return whole
