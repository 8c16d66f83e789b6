"""Pictures of classes, distilled by paths and by the ladder alone for as many evaluations, and what the students reach of their goals.

    python -m benchmarks.quality.image_paths --of cifar10-small --teacher runs/cifar10-small-teacher --data inputs/cifar10.npz \
        --features inputs/resnet56.pt --work runs/cifar10-paths --set train.precision=bf16       writes benchmarks/results/image-paths.json

For the recipes `fashion-mnist`, `cifar10-small` and, on a GPU, `cifar10`. Class-balanced samples of each configuration, all from the same noise: the students of
4, 2 and 1 steps, their teacher in --reference-steps of DDIM, and DPM-Solver++ and UniPC, the best of the stock samplers. The run folders are in --work; a run
whose students are there is only measured, and the same command resumes. With --guidance-scale each scale may have a process of its own. An
update's evaluation with its gradient counts as 3 (`benchmarks.quality.ladders`).
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.command import Row, parser_of, progress, read_json, run_main, write_result
from benchmarks.quality import path_tables
from benchmarks.quality.ladders import cost
from benchmarks.quality.to_reach import BASELINES, BUDGETS, GOALS, SCALES, STEPS, figures_of, in_place_of
from fewstep import distill
from fewstep.errors import InputError
from fewstep.evaluation.configurations import EvaluatedModels, configurations, open_models
from fewstep.evaluation.evaluate import examples_of, measure
from fewstep.models.metadata import INFO
from fewstep.training.recipe import RECIPE, first_difference, load_recipe, parse_change
from fewstep.training.settings import EvaluateSettings

MINUTES = {
    "train.batch_size": 64, "train.ema": 0.999, "train.warmup": 50, "stage_one.learning_rate": 3e-4, "stage_one.balance": 2.0, "stage_two.learning_rate": 2e-4,
}  # fmt: skip
LONGER_PATHS = {  # `cifar10-small` as it was before its last rungs were longer
    "stage_one.updates": 500, "paths.count": 3000, "paths.updates": 2500, "paths.balance": 2.0, "paths.low_share": 0.3, "stage_two.last_updates": 640,
}  # fmt: skip
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {  # of a recipe: changes to it
    "fashion-mnist": {
        "ladder alone": {
            "paths.rung": 0, "stage_one.updates": 2500, "stage_two.ladder": [128, 16, 8, 4, 2, 1], "stage_two.updates": 420, "stage_two.last_updates": 660,
        },
        "paths": {},
        "more paths and updates": {"stage_one.updates": 300, "paths.count": 7000, "paths.updates": 3600, "stage_two.last_updates": 1500},
    },
    "cifar10-small": {
        "ladder alone": LONGER_PATHS | {
            "paths.rung": 0, "stage_one.updates": 2000, "stage_two.ladder": [64, 16, 8, 4, 2, 1], "stage_two.updates": 300, "stage_two.last_updates": 500,
        },
        "paths": LONGER_PATHS,
        "paths after the ladder": LONGER_PATHS | {
            "paths.after_rung": True, "paths.count": 1500, "paths.updates": 1100, "stage_one.updates": 1300, "stage_two.ladder": [64, 16, 8, 4, 2, 1],
            "stage_two.updates": 200, "stage_two.last_updates": 450,
        },
        "high scales weigh more": LONGER_PATHS | {"paths.balance": 1.0, "paths.low_share": 0.15, "paths.count": 2800},
        "longer last rungs": {"paths.balance": 2.0, "paths.low_share": 0.3, "paths.count": 2000},
        "longer last rungs, high scales weigh more": {},
    },
    "cifar10": {  # the paper's network, as far as ten minutes of a GPU go
        "ladder alone": MINUTES | {
            "paths.rung": 0, "stage_one.updates": 500, "stage_two.ladder": [64, 16, 8, 4, 2, 1], "stage_two.updates": 75, "stage_two.last_updates": 125,
        },
        "paths": MINUTES | {
            "paths.rung": 4, "paths.after_rung": False, "paths.count": 1500, "paths.updates": 625, "paths.patience": 0, "paths.learning_rate": 3e-4,
            "stage_one.updates": 125, "stage_two.ladder": [16, 4, 2, 1], "stage_two.last_updates": 160,
        },
    },
}  # fmt: skip


def rows_of(run: Path, teacher: Path, data: str, settings: EvaluateSettings, work: Path, device: str) -> list[Row]:
    """The rows of a run's students; the teacher's and the baselines' samples, which all runs share, are made once."""
    models = open_models(run, str(teacher), STEPS)
    examples = examples_of(data, models, resize=False, split=None)

    def measured(of: EvaluatedModels, out: Path) -> list[Row]:
        table = configurations(of, settings.guidance_scale, settings.baselines, settings.budgets, settings.reference_steps)
        return measure(of, [row for row in table if row.role != "stage-one"], settings, examples, out, device=device)[0]["rows"]

    own, shared = work / f"{run.name}-measured", work / "teacher-measured"
    measured(replace(models, students={}), shared)
    if not own.exists():
        shutil.copytree(shared, own)
    return figures_of(measured(models, own), settings.reference_steps)


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
    parser.add_argument("--guidance-scale", type=float, nargs="+", default=SCALES, help="measured; the figures of others stay")
    parser.add_argument("--baselines", nargs="*", default=BASELINES, help="none: students and teacher alone")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(words)
    settings = EvaluateSettings(
        samples=args.samples, reference_steps=args.reference_steps, features=args.features, guidance_scale=tuple(args.guidance_scale),
        baselines=tuple(args.baselines), budgets=BUDGETS,
    )  # fmt: skip
    known = read_json(args.out) if args.out.is_file() else {}
    for way in args.only or VARIANTS[args.of]:
        changes, run = VARIANTS[args.of][way] | dict(map(parse_change, args.set)), args.work / way.replace(" ", "-")
        progress(f"{args.of}: {way}")
        recipe = load_recipe(args.of, changes | {"data.path": args.data, "teacher.path": str(args.teacher)})
        if not all((run / f"steps-{steps:04d}" / INFO).is_file() for steps in STEPS):
            distill(args.teacher, args.data, recipe=args.of, out=run, changes=changes, device=args.device)
        elif other := first_difference(load_recipe(run / RECIPE), recipe):
            raise InputError(f"{run} has students of another recipe ({other}); name another --work")
        rows = rows_of(run, args.teacher, args.data, settings, args.work, args.device)
        ways = known.setdefault(args.of, {"goals": GOALS[args.of], "ways": {}})["ways"]
        before = ways.get(way, {"rows": []})["rows"]
        rows = in_place_of(before, rows, args.guidance_scale)
        ways[way] = {"evaluations": cost(recipe)["evaluations"], "device": args.device, "rows": rows}
        write_result(args.out, known, args.device)
    print(path_tables.image_paths(known, args.of))


if __name__ == "__main__":
    run_main(main)
