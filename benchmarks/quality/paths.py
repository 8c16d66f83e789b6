"""What `[paths]` gives at the same evaluations of networks: after a rung, in its place, and in place of most of stage one (the last is the recipe's).

    python -m benchmarks.quality.paths                      each once, with the quickstart's budget; benchmarks/results/paths.json
    python -m benchmarks.quality.paths --times 4            with four times it, added as rows
    python -m benchmarks.quality.paths --only "ladder alone" "more paths"

Figures as those of `any_steps`: Fréchet distance to the teacher's samples of 64 steps from the same noise.
"""

from typing import Any

from benchmarks.command import parser_of, progress, read_json, run_main, write_result
from benchmarks.quality import tables
from benchmarks.quality.ladders import cost
from benchmarks.quality.teacher_distance import SAMPLES, References, digits_recipe, students_of
from fewstep import open_model
from fewstep.data.loading import Data, open_data

LADDER = {"stage_one.updates": 740, "paths.rung": None}  # the quickstart's recipe before it had paths
POOL = {"paths.rung": 4, "paths.patience": 0, "paths.learning_rate": 1e-3, "paths.count": 1024, "paths.after_rung": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "ladder alone": LADDER,
    "after the rung": POOL | {"stage_one.updates": 500, "paths.updates": 280, "paths.after_rung": True},
    "in place of the rung": POOL | {"stage_one.updates": 500, "paths.updates": 560},
    "in place of stage one": POOL | {"stage_one.updates": 250, "paths.updates": 980},
    "more paths": POOL | {"stage_one.updates": 250, "paths.updates": 750, "paths.count": 3000},
}


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "paths")
    parser.add_argument("--times", type=float, default=1.0, help="the quickstart's updates, and as many paths")
    parser.add_argument("--only", choices=list(VARIANTS), nargs="+")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    args = parser.parse_args(words)
    data = open_data(name="digits")
    assert isinstance(data, Data)
    known = read_json(args.out)["variants"] if args.out.is_file() else {}
    references = References.made(open_model("digits"), data, args.samples)
    for way in args.only or VARIANTS:
        name, recipe = f"{way}, {args.times:g}", digits_recipe(args.times, VARIANTS[way])
        progress(name)
        rows = references.measured(students_of(recipe, open_model("digits"), data))
        known[name] = {
            "way": way,
            "times": args.times,
            "evaluations": cost(recipe)["evaluations"],
            "samples": args.samples,
            "rows": rows,
        }
        write_result(args.out, {"variants": known})
    print(tables.teacher_distance({"variants": known}))


if __name__ == "__main__":
    run_main(main)
