"""Text to image in latent space, by paths and by the ladder alone, for as many evaluations.

    python -m benchmarks.quality.emoji_paths --teacher runs/emoji-small-teacher/teacher --data runs/emoji-small-teacher/data \
        --judge runs/emoji-small-judge/judge --work runs/emoji-paths                 writes benchmarks/results/emoji-paths.json
    ... --times 1                                                                    with the updates of the ladder in 1,376,000 evaluations, added as rows

Teacher, data and judge are made as for `benchmarks.quality.emoji` (a smaller teacher: docs/results.md), and so are the measures; the run folders are
in --work, and the same command resumes. An update's evaluation with its gradient counts as 3 (`benchmarks.quality.ladders`).
"""

from typing import Any

from benchmarks.command import progress, read_json, run_main, write_result
from benchmarks.quality import path_tables
from benchmarks.quality.emoji import judge_and_prompts, measured, parser_of_models
from benchmarks.quality.ladders import cost
from fewstep import distill
from fewstep.evaluation.configurations import configurations, open_models
from fewstep.training.recipe import load_recipe, parse_change

# what --times multiplies
COUNTS = ("stage_one.updates", "stage_two.updates", "stage_two.last_updates", "paths.updates", "paths.count")
LADDER = {
    "stage_one.updates": 3000, "stage_two.updates": 1000, "stage_two.last_updates": 1500, "stage_two.ladder": [40, 8, 4, 2, 1], "paths.rung": 0,
}  # fmt: skip
POOL = {
    "paths.rung": 4, "paths.after_rung": False, "paths.count": 8000, "paths.updates": 4260, "paths.patience": 0, "paths.learning_rate": 5e-4,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "ladder alone": LADDER,
    "paths": LADDER | POOL | {"stage_one.updates": 1000, "stage_two.ladder": [40, 4, 2, 1]},
}  # fmt: skip


def changes_of(way: str, times: float) -> dict[str, Any]:
    """Of the recipe `emoji`, those of a way to distil with so many times its updates and its paths."""
    return {key: round(times * value) if key in COUNTS else value for key, value in VARIANTS[way].items()}


def main(words: list[str] | None = None) -> None:
    parser = parser_of_models(__doc__, "emoji-paths")
    parser.add_argument(
        "--times", type=float, default=0.15, help="the updates of the ladder in 1,376,000 evaluations, and as many paths"
    )
    parser.add_argument("--only", choices=list(VARIANTS), nargs="+")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the recipe, for a smaller trial")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 2, 1])
    parser.add_argument("--guidance-scale", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--reference-steps", type=int, default=64, help="of the teacher")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(words)
    smaller = dict(map(parse_change, args.set))
    judge, sets = judge_and_prompts(args.judge, args.data, args.samples)
    known = read_json(args.out)["variants"] if args.out.is_file() else {}
    for way in args.only or VARIANTS:
        name, changes = f"{way}, {args.times:g}", changes_of(way, args.times) | smaller
        run = args.work / name.replace(", ", "-").replace(" ", "-")
        progress(name)
        distill(args.teacher, args.data / "train.npz", recipe="emoji", out=run, changes=changes, device="cpu")
        models = open_models(run, args.teacher, args.steps)
        table = [
            row for row in configurations(models, args.guidance_scale, [], [], args.reference_steps) if row.role != "stage-one"
        ]
        rows = measured(table, sets, judge, args.seed, args.work / "references")
        evaluations = cost(load_recipe("emoji", changes))["evaluations"]
        known[name] = {"evaluations": evaluations, "rows": [row for row in rows if row["model"] == "student"]}
        write_result(args.out, {"samples": args.samples, "variants": known})
    print(path_tables.emoji_paths({"variants": known}))


if __name__ == "__main__":
    run_main(main)
