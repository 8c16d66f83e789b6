"""What a whole distillation costs by its ladder, in evaluations of the teacher, and what quality each ladder gives for it.

    python -m benchmarks.quality.ladders                    counts alone; writes benchmarks/results/ladders.json
    python -m benchmarks.quality.ladders --measure          distils the bundled digits teacher by each (3 to 8 minutes a ladder) and measures
    python -m benchmarks.quality.ladders --measure --only 16,4,2,1

The recipe is `digits`, that of the quickstart, whose ladder comes first; all else is the same in each. An update's evaluation with its gradient
counts as 3, so that the cost is about that of as many evaluations of the teacher. Goals are those of the quickstart, at each guidance scale.
"""

import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.command import Row, parser_of, progress, read_json, run_main, write_result
from benchmarks.quality import tables
from fewstep import open_model
from fewstep.data.loading import Data, open_data
from fewstep.evaluation.quickstart import checks, evaluate_digits, find
from fewstep.models.metadata import bundled
from fewstep.training.distill import distill_model
from fewstep.training.plan_of_stages import stages_of
from fewstep.training.recipe import load_recipe
from fewstep.training.run_folder import open_run
from fewstep.training.settings import Recipe
from fewstep.training.trainer import Trainer

WITH_GRADIENT = 3  # evaluations that one with its gradient counts
ALTERNATIVES = ((16, 8, 4, 2, 1), (16, 4, 1), (8, 4, 2, 1), (32, 4, 2, 1), (64, 16, 4, 2, 1), (64, 16, 8, 4, 2, 1))
SCALE = 2.0  # whose Fréchet distances the table has


def cost(recipe: Recipe) -> Row:
    """The updates and the evaluations of the teacher that a whole distillation amounts to."""
    stages = stages_of(recipe, distilling=True)
    batch = recipe.train.batch_size * recipe.train.gradient_accumulation
    evaluations = sum(
        round((calls + WITH_GRADIENT) * updates * batch) if trains else round(calls * recipe.paths.count)
        for _, updates, calls, trains in stages
    )
    return {"ladder": list(recipe.stage_two.ladder), "updates": sum(stage[1] for stage in stages), "evaluations": evaluations}


def distilled(recipe: Recipe) -> tuple[list[Row], int]:
    """The quickstart's rows of a recipe's students, and the seconds that they took."""
    teacher, data, began = open_model("digits"), open_data(name="digits"), time.monotonic()
    assert isinstance(data, Data)
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder) / "run", recipe)
        with closing(Trainer(run, data, recipe.train)) as trainer:
            distill_model(recipe, teacher, data, trainer)
        seconds = time.monotonic() - began
        metrics, *_ = evaluate_digits(run, bundled("digits-teacher"), run / "evaluation", data)
    return metrics["rows"], round(seconds)


def quality(ladder: tuple[int, ...]) -> Row:
    """The goals of the quickstart that the students of a ladder reach, their Fréchet distances at `SCALE`, and the seconds that it took."""
    rows, seconds = distilled(load_recipe("digits", {"stage_two.ladder": list(ladder)}))
    held = [check["holds"] for check in checks(rows)]
    students: dict[int, Any] = {steps: find(rows, "student", steps, SCALE) for steps in (4, 2, 1)}
    frechet = {str(steps): row["frechet"] for steps, row in students.items() if row is not None}
    return {"goals": len(held), "reached": sum(held), "frechet": frechet, "seconds": seconds}


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "ladders")
    parser.add_argument("--measure", action="store_true", help="distil by each ladder and measure; else what was measured stays")
    parser.add_argument("--only", nargs="+", metavar="N,N,...", help="measure these alone")
    args = parser.parse_args(words)
    before = {tuple(row["ladder"]): row for row in read_json(args.out)["rows"]} if args.out.is_file() else {}
    wanted = [tuple(map(int, text.split(","))) for text in args.only or ()]
    ladders = [load_recipe("digits").stage_two.ladder, *ALTERNATIVES]
    rows = []
    for ladder in [*ladders, *(one for one in wanted if one not in ladders)]:
        row = {key: value for key, value in before.get(ladder, {}).items() if key in ("goals", "reached", "frechet", "seconds")}
        if args.measure and (not wanted or ladder in wanted):
            progress(f"ladder {list(ladder)}")
            row = quality(ladder)
        rows.append(cost(load_recipe("digits", {"stage_two.ladder": list(ladder)})) | row)
    result = {"guidance_scale": SCALE, "rows": rows}
    write_result(args.out, result)
    print(tables.ladders(result))


if __name__ == "__main__":
    run_main(main)
