"""Pictures of classes, distilled by paths and by the ladder alone for as many evaluations: the recipes `fashion-mnist` and `cifar10-small`.

    python -m benchmarks.quality.image_paths --of cifar10-small --teacher runs/cifar10-small-teacher --data inputs/cifar10.npz \
        --features inputs/resnet56.pt --work runs/cifar10-paths --set train.precision=bf16       writes benchmarks/results/image-paths.json

The students' samples are compared with the teacher's in --reference-steps of DDIM from the same noise. The run folders are in --work, and the same command
resumes. An update's evaluation with its gradient counts as 3 (`benchmarks.quality.ladders`).
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.command import Row, parser_of, progress, read_json, run_main, write_result
from benchmarks.quality import path_tables
from benchmarks.quality.ladders import cost
from fewstep import distill
from fewstep.evaluation.configurations import EvaluatedModels, configurations, open_models
from fewstep.evaluation.evaluate import examples_of, measure
from fewstep.training.recipe import load_recipe, parse_change
from fewstep.training.settings import EvaluateSettings

STEPS, SCALES = [4, 2, 1], [1.0, 2.0, 5.0]
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {  # of a recipe: changes to it
    "fashion-mnist": {
        "ladder alone": {
            "paths.rung": 0, "stage_one.updates": 2500, "stage_two.ladder": [128, 16, 8, 4, 2, 1], "stage_two.updates": 420, "stage_two.last_updates": 660,
        },
        "paths": {},
    },
    "cifar10-small": {
        "ladder alone": {
            "paths.rung": 0, "stage_one.updates": 2000, "stage_two.ladder": [64, 16, 8, 4, 2, 1], "stage_two.updates": 300, "stage_two.last_updates": 500,
        },
        "paths": {},
    },
}  # fmt: skip


def rows_of(run: Path, teacher: Path, data: str, settings: EvaluateSettings, work: Path) -> list[Row]:
    """The rows of a run's students; the teacher's samples, which all runs share, are made once."""
    models = open_models(run, str(teacher), STEPS)
    examples = examples_of(data, models, resize=False, split=None)

    def measured(of: EvaluatedModels, out: Path) -> list[Row]:
        table = configurations(of, SCALES, [], [], settings.reference_steps)
        return measure(of, [row for row in table if row.role != "stage-one"], settings, examples, out, device="cpu")[0]["rows"]

    own, shared = work / f"{run.name}-measured", work / "teacher-measured"
    measured(replace(models, students={}), shared)
    if not own.exists():
        shutil.copytree(shared, own)
    return [row for row in measured(models, own) if row["model"] == "student"]


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "image-paths")
    parser.add_argument("--of", choices=list(VARIANTS), default="cifar10-small", help="the recipe")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--features", default="classifier", help="as for fewstep evaluate")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="of the ways to distil")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--reference-steps", type=int, default=128, help="of the teacher")
    args = parser.parse_args(words)
    settings = EvaluateSettings(samples=args.samples, reference_steps=args.reference_steps, features=args.features)
    known = read_json(args.out) if args.out.is_file() else {}
    for way in args.only or VARIANTS[args.of]:
        changes, run = VARIANTS[args.of][way] | dict(map(parse_change, args.set)), args.work / way.replace(" ", "-")
        progress(f"{args.of}: {way}")
        distill(args.teacher, args.data, recipe=args.of, out=run, changes=changes, device="cpu")
        rows = rows_of(run, args.teacher, args.data, settings, args.work)
        total = cost(load_recipe(args.of, changes | {"data.path": args.data, "teacher.path": str(args.teacher)}))
        known.setdefault(args.of, {})[way] = {"evaluations": total["evaluations"], "samples": args.samples, "rows": rows}
        write_result(args.out, known)
    print(path_tables.image_paths(known, args.of))


if __name__ == "__main__":
    run_main(main)
