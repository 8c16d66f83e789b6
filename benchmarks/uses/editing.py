"""Editing: fidelity to the picture against agreement with the new class, over strengths, of students and of their teacher.

    fewstep distill digits-uses --out runs/digits-uses
    python -m benchmarks.uses.editing --run runs/digits-uses --picture docs/editing.png

Every picture is to become another class. A student of N steps edits with i evaluations at strength i/N. Beside it stand the teacher with 64
guided steps (two evaluations each), the teacher with as many evaluations, guided and not, and, as bounds, the picture as it is. All answers
begin with the same noise. Writes benchmarks/results/editing.json.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.command import Row, run_main, write_result
from benchmarks.uses import tables
from benchmarks.uses.subject import SHOWN, Subject, distance, measured, models_of, run_parser, subject, unchanged
from fewstep import Model
from fewstep.editing.sdedit import edit
from fewstep.errors import InputError
from fewstep.grids import labelled_grid
from fewstep.models.sampling import Samples, to_images

REFERENCE = 64  # guided steps of the teacher that the others are compared with
COLOURS = {2: "#e07a9b", 4: "#d1495b", 8: "#8c2336", "teacher": "#1f6fb2", "reference": "#1b2330"}


class Editor:
    """Edits a subject's pictures, each configuration once."""

    def __init__(self, tried: Subject, scale: float) -> None:
        self.tried, self.scale = tried, scale
        shape = (len(tried.images), *tried.teacher.info.shape)
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.kept: dict[Any, Samples] = {}

    def answer(self, model: Model, steps: int, start: int, guided: bool = True) -> Samples:
        """The edit that takes the last `start` of `steps` steps."""
        key = (id(model), steps, start, guided)
        if key not in self.kept:
            choices = {"strength": start / steps, "steps": steps, "guidance_scale": self.scale if guided else 1.0}
            self.kept[key] = edit(model, self.tried.images, self.tried.others, noise=self.noise, **choices)
        return self.kept[key]

    def row(self, model: Model, steps: int, start: int, guided: bool = True) -> Row:
        """What is measured of it, and its distance to the teacher's many steps at the same strength."""
        drawn = self.answer(model, steps, start, guided)
        many = REFERENCE * start // steps
        reference = self.answer(self.tried.teacher, REFERENCE, many)
        return self.tried.measures(drawn, self.tried.others) | {"rms_to_teacher": distance(drawn, reference)}


def jobs_of(editor: Editor, by_steps: dict[int, Model]) -> list[tuple[Row, Any]]:
    """Students of 2, 4 and 8 steps, and the teacher with 64, 8, 4 and 2 steps, at every strength i/8 that their grid has."""
    few = [steps for steps in by_steps if steps in (2, 4, 8)]
    configurations = [("student", by_steps[steps], steps, True) for steps in few]
    configurations += [("teacher", editor.tried.teacher, steps, True) for steps in (REFERENCE, 8, 4, 2)]
    configurations += [("teacher, not guided", editor.tried.teacher, steps, False) for steps in few]
    jobs = []
    for name, model, steps, guided in configurations:
        for start in range(1, steps + 1):
            if steps == REFERENCE and start % (REFERENCE // 8):
                continue
            known = {"model": name, "steps": steps, "strength": start / steps, "guidance_scale": editor.scale if guided else 1.0}
            jobs.append((known, lambda m=model, n=steps, i=start, g=guided: editor.row(m, n, i, g)))
    return jobs


def bounds(tried: Any) -> list[Row]:
    """The picture as it is, under what it is to become."""
    return [{"model": "the picture itself", "steps": 0, "strength": 0.0} | tried.measures(unchanged(tried.images), tried.others)]


def chart(panel: Any, rows: list[Row], measure: str, title: str) -> None:
    """The share that became of the target class against nearness, a curve a model, its strengths beside the points of the reference."""
    for name, steps in dict.fromkeys((row["model"], row["steps"]) for row in rows if row["strength"]):
        curve = sorted((r["strength"], r[measure], r["class_accuracy"]) for r in rows if (r["model"], r["steps"]) == (name, steps))
        if name == "teacher, not guided":
            continue
        reference, student = steps == REFERENCE, name == "student"
        colour = COLOURS[steps if student else "reference" if reference else "teacher"]
        style = {"color": colour, "marker": "o" if student else "s", "ms": 4, "lw": 1.6 if student or reference else 0.9}
        label = f"student, {steps} steps" if student else f"teacher, 2 x {steps}"
        panel.plot(
            [c[1] for c in curve],
            [c[2] for c in curve],
            label=label,
            ls="-" if student or reference else {8: "-.", 4: "--"}.get(steps, ":"),
            **style,
        )
        for strength, x, y in curve[:4] if reference else []:
            panel.annotate(f"{strength:g}", (x, y), (5, 4), textcoords="offset points", fontsize=7, color=colour)
    panel.set(xlabel=title, ylabel="share that is of the new class", ylim=(-0.03, 1.03))
    panel.grid(alpha=0.2)


def draw(rows: list[Row], editor: Editor, by_steps: dict[int, Model], path: Path) -> None:
    """The figure: two charts above, pictures and their edits below."""
    import io

    import matplotlib
    from PIL import Image

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.4), dpi=90)
    chart(panels[0], rows, "psnr", "PSNR to the picture, dB")
    chart(panels[1], rows, "edges", "correlation of edges with the picture's")
    panels[1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    below, file = sheet(editor, by_steps), io.BytesIO()
    figure.savefig(file, format="png")
    plt.close(figure)
    above = Image.open(file).convert("RGB")
    whole = Image.new("RGB", (max(above.width, below.width), above.height + below.height + 8), "white")
    whole.paste(above)
    whole.paste(below.convert("RGB"), ((whole.width - below.width) // 2, above.height + 8))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save(path, optimize=True)


def sheet(editor: Editor, by_steps: dict[int, Model]) -> Any:
    """Pictures and their edits, those of a student of 4 steps over those of the teacher with 64."""
    few = 4 if 4 in by_steps else max(by_steps)
    tried = editor.tried

    def shown(x: Tensor) -> list[Any]:
        return to_images(x[:SHOWN])

    lines, sides = [shown(tried.images)], ["picture"]
    for start in range(max(1, few // 2), few + 1):
        for name, model, steps, evaluations in (
            ("student", by_steps[few], few, start),
            ("teacher", tried.teacher, REFERENCE, 2 * REFERENCE * start // few),
        ):
            lines.append(shown(editor.answer(model, steps, start * steps // few).pictures()))
            sides.append(f"strength {start / few:g}\n{name}, {evaluations}")
    return labelled_grid(lines, sides, tried.titles[:SHOWN])


def main(words: list[str] | None = None) -> None:
    parser = run_parser(__doc__, "editing", images=300)
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--again", action="store_true", help="only draw the picture, from the result that is there")
    args = parser.parse_args(words)
    tried, by_steps = subject(args.run, args.images, args.teacher, args.data), models_of(args.run)
    if not {2, 4, 8} & set(by_steps):
        raise InputError(f"{args.run} has no student of 2, 4 or 8 steps; distil with one of them on the ladder")
    editor = Editor(tried, args.guidance_scale)
    if args.again:
        draw(json.loads(args.out.read_text(encoding="utf-8"))["rows"], editor, by_steps, args.picture)
        return
    rows = bounds(tried) + measured(jobs_of(editor, by_steps))
    result = {"guidance_scale": args.guidance_scale, "pictures": tried.facts(), "rows": rows}
    if args.picture:
        draw(rows, editor, by_steps, args.picture)
    write_result(args.out, result)
    print(tables.editing(result))


if __name__ == "__main__":
    run_main(main)
