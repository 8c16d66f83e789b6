"""Inpainting: what is filled in, held against the pictures as they were and against all of the data, students and their teachers.

    python -m benchmarks.uses.subject --split runs/digits-split
    fewstep teach digits-inpainting --set data.path=runs/digits-split/train.npz --out runs/digits-inpainting-teacher
    fewstep distill digits-inpainting --set data.path=runs/digits-split/train.npz --set teacher.path=runs/digits-inpainting-teacher \
      --out runs/digits-inpainting
    fewstep distill digits-uses --out runs/digits-uses
    python -m benchmarks.uses.inpainting --run runs/digits-inpainting --student runs/digits-uses --picture docs/inpainting.png

Methods: (a) the network sees mask and picture (--run); (b) any model, the known part put back at each step's noise level (--student);
(b) with the network of (a), for which nothing is known. Each with students of 4 and 2 steps, the teacher with 64 steps, and the teacher
with as many evaluations as the students. Boxes, strokes and half-planes as masks, the same for all. The error inside the mask is to
the picture as it was; the Fréchet distance is of the filled pictures to the training data, in the features of a digit classifier. Writes
benchmarks/results/inpainting.json.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.command import Row, run_main, write_result
from benchmarks.uses import tables
from benchmarks.uses.subject import SHOWN, Subject, measured, models_of, run_parser, subject, unchanged
from fewstep import Model
from fewstep.data.masks import random_masks
from fewstep.editing.inpainting import condition_of, inpaint
from fewstep.errors import InputError
from fewstep.evaluation.metrics import Statistics, frechet_distance
from fewstep.grids import labelled_grid
from fewstep.models.sampling import Samples, to_images

KINDS = {"box": 1 / 3, "stroke": 1 / 3, "half": 1 / 3}
REFERENCE = 64  # steps of the teacher that the others are compared with
SEES, PUT_BACK, UNTOLD = "(a) the network sees the mask", "(b) the known part is put back", "(b) with the network of (a)"


@dataclass(frozen=True)
class Method:
    """A way to fill in: a teacher, its students by steps, and whether their network takes the mask."""

    name: str
    teacher: Model
    by_steps: dict[int, Model]
    takes_mask: bool


class Filler:
    """Fills in a subject's pictures, `repeats` times each from different noise, each configuration once."""

    def __init__(self, tried: Subject, repeats: int) -> None:
        self.tried, n, size = tried, len(tried.labels), tried.images.shape[-1]
        self.x, self.labels = tried.images.repeat(repeats, 1, 1, 1), tried.labels.repeat(repeats)
        self.masks = random_masks(n * repeats, size, seed=1, shares=KINDS)
        self.noise = torch.randn(self.x.shape, generator=torch.Generator().manual_seed(0))
        self.data = Statistics.of(tried.classifier(tried.data.images().float() / 127.5 - 1))
        self.kept: dict[Any, Samples] = {}

    def answer(self, method: Method, by: str, steps: int, scale: float) -> Samples:
        """The pictures filled in under their own classes."""
        key = (method.name, by, steps, scale)
        if key not in self.kept:
            model = method.by_steps[steps] if by == "student" else method.teacher
            condition: Any = self.labels
            if method.takes_mask:
                condition = condition_of(model, self.x, self.masks, self.labels.tolist())
            choices = {"steps": steps, "guidance_scale": scale, "noise": self.noise}
            self.kept[key] = inpaint(model, self.x, self.masks, condition, **choices)
        return self.kept[key]

    def row(self, drawn: Samples) -> Row:
        """Fréchet distance to the data, error inside the mask, and the share that is of the picture's class."""
        x, classifier = drawn.samples.clamp(-1, 1), self.tried.classifier
        features, inside = classifier(x), self.masks.expand_as(x)
        error = float((x - self.x)[inside].square().mean().sqrt())
        known = {"evaluations": drawn.evaluations, "frechet": frechet_distance(Statistics.of(features), self.data)}
        return known | {"error": error, "class_accuracy": classifier.class_accuracy(features, self.labels)}


def configurations(method: Method, scale: float) -> Iterator[tuple[str, int]]:
    """(teacher or student, steps): the teacher with many steps, then students and, with as many evaluations, the teacher."""
    yield "teacher", REFERENCE
    for steps in sorted({4, 2} & set(method.by_steps), reverse=True):
        yield "student", steps
        yield "teacher", steps if scale == 1 else steps // 2


def jobs_of(filler: Filler, methods: list[Method], scales: list[float]) -> list[tuple[Row, Any]]:
    """The pictures as they were, then every method at every scale."""
    asis = unchanged(filler.x)
    jobs: list[tuple[Row, Any]] = [({"method": "", "by": "the pictures as they were", "steps": 0}, lambda: filler.row(asis))]
    for method in methods:
        for scale in scales:
            for by, steps in configurations(method, scale):
                known = {"method": method.name, "guidance_scale": scale, "by": by, "steps": steps}
                jobs.append((known, lambda m=method, b=by, n=steps, s=scale: filler.row(filler.answer(m, b, n, s))))
    return jobs


def draw(filler: Filler, methods: list[Method], scale: float, path: Path) -> None:
    """The figure: pictures, their masks laid over, and what each method fills in."""
    covered = torch.where(filler.masks, 0.0, filler.x)

    def shown(x: Tensor) -> list[Any]:
        return to_images(x[:SHOWN])

    lines, sides = [shown(filler.x), shown(covered)], ["picture", "what is\nknown"]
    for method in methods:
        for by, steps in configurations(method, scale):
            drawn = filler.answer(method, by, steps, scale)
            lines.append(shown(drawn.samples))
            sides.append(f"{method.name}\n{by}, {drawn.evaluations} evaluation{'s' * (drawn.evaluations > 1)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    labelled_grid(lines, sides, [filler.tried.data.classes[k] for k in filler.labels[:SHOWN].tolist()]).save(path, optimize=True)


def methods_of(tried: Subject, student: Path | None, teacher: str | None) -> list[Method]:
    """What --run and --student offer.

    Raises:
        InputError: the models of --run take no mask, or those of --student do not fit.
    """
    seeing = Method(SEES, tried.teacher, models_of(tried.run), True)
    if not getattr(tried.teacher.family, "takes_mask", False):
        raise InputError(f"the models of {tried.run} take no mask; name a run of recipes/digits-inpainting.toml's kind")
    if student is None:
        return [seeing, Method(UNTOLD, tried.teacher, seeing.by_steps, False)]
    other = subject(student, 1, teacher)
    if other.teacher.info.shape != tried.teacher.info.shape:
        raise InputError(
            f"the models of {student} draw {other.teacher.info.shape}, those of {tried.run} {tried.teacher.info.shape}"
        )
    put_back = Method(PUT_BACK, other.teacher, models_of(student), False)
    return [seeing, put_back, Method(UNTOLD, tried.teacher, seeing.by_steps, False)]


def main(words: list[str] | None = None) -> None:
    parser = run_parser(__doc__, "inpainting", images=300)
    parser.add_argument("--student", type=Path, help="run folder of models that take no mask")
    parser.add_argument("--student-teacher", help="their teacher, in place of the recipe's")
    parser.add_argument("--repeats", type=int, default=1, help="masks and noises for each picture")
    parser.add_argument("--guidance-scale", type=float, nargs="+", default=[1.0, 2.0])
    args = parser.parse_args(words)
    tried = subject(args.run, args.images, args.teacher, args.data)
    methods, filler = methods_of(tried, args.student, args.student_teacher), Filler(tried, args.repeats)
    rows = measured(jobs_of(filler, methods, args.guidance_scale))
    result = {
        "pictures": tried.facts() | {"repeats": args.repeats},
        "masked_share": float(filler.masks.float().mean()),
        "rows": rows,
    }
    if args.picture:
        draw(filler, methods, max(args.guidance_scale), args.picture)
    write_result(args.out, result)
    print(tables.inpainting(result))


if __name__ == "__main__":
    run_main(main)
