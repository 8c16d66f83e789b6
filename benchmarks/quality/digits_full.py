"""The table of a distilled run of digits: quality by sampler, steps and guidance scale, teacher and students from the same noise.

    fewstep distill digits-full --out runs/digits-full
    python -m benchmarks.quality.digits_full --run runs/digits-full --out benchmarks/results/digits-full.json

Prints the table and, for each scale, the ratio of the students' Fréchet distance to that of the teacher's 256 steps.
"""

import tempfile
from pathlib import Path

from benchmarks.command import parser_of, run_main, write_result
from benchmarks.quality import tables
from fewstep.data.loading import Data
from fewstep.evaluation.quickstart import evaluate_digits, find
from fewstep.evaluation.results_table import text_table
from fewstep.models.metadata import bundled
from fewstep.training.recipe import load_recipe
from fewstep.training.run_folder import open_examples

GOALS = {4: 1.05, 2: 1.1, 1: 1.25}  # ratio of Fréchet distances to the teacher's 256 steps


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run folder of fewstep distill")
    parser.add_argument("--teacher", type=Path, default=bundled("digits-teacher"))
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args(words)
    recipe = load_recipe(args.run / "recipe.toml")
    data = open_examples(recipe)
    assert isinstance(data, Data)
    with tempfile.TemporaryDirectory() as folder:
        metrics, *_ = evaluate_digits(args.run, args.teacher, Path(folder) / "evaluation", data)
    ratios = ratio_rows(metrics["rows"])
    print(text_table(metrics["rows"], brief=True))
    print("\n" + tables.digits_full(metrics | {"ratios": ratios}))
    if args.out:
        write_result(args.out, metrics | {"against": args.teacher.name, "ratios": ratios})


def ratio_rows(rows: list[dict]) -> list[dict]:
    """Each student's Fréchet distance over that of the teacher's 256 steps, beside its goal."""
    found = []
    for row in rows:
        teacher, eight = (find(rows, "teacher", steps, row["guidance_scale"]) for steps in (256, 8))
        if row["model"] == "student" and row["steps"] in GOALS and teacher and eight:
            known = {key: row[key] for key in ("sampler", "steps", "guidance_scale")}
            known |= {"ratio": row["frechet"] / teacher["frechet"], "goal": GOALS[row["steps"]]}
            found.append(known | {"rms": row["rms_to_teacher"], "rms_of_ddim_8": eight["rms_to_teacher"]})
    return found


if __name__ == "__main__":
    run_main(main)
