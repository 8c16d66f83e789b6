"""What earns its place in the quickstart's recipe: variants of it, each distilled and measured in the same way.

    python -m benchmarks.quality.digits_variants --name balance-2 stage_one.balance=2.0
    python -m benchmarks.quality.digits_variants --table

Each call distils the bundled teacher by recipes/digits.toml with keys changed, and adds its figures to --out: at each guidance scale the
Fréchet distance and the root-mean-square distance to the teacher's 256-step samples, of stage one and of each student.
"""

import json
import tempfile
import time
from pathlib import Path

from benchmarks.command import parser_of, run_main

from fewstep import open_model
from fewstep.data.loading import Data, open_data
from fewstep.evaluation.quickstart import evaluate_digits
from fewstep.models.metadata import bundled
from fewstep.training.distill import distill_model
from fewstep.training.recipe import load_recipe, parse_change
from fewstep.training.run_folder import open_run
from fewstep.training.trainer import Trainer


def distilled(changes: list[str]) -> dict:
    """The rows of one variant, and the seconds that it took."""
    recipe = load_recipe("digits", dict(parse_change(text) for text in changes))
    teacher, data, began = open_model("digits"), open_data(name="digits"), time.monotonic()
    assert isinstance(data, Data)
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder) / "run", recipe)
        trainer = Trainer(run, data, recipe.train)
        distill_model(recipe, teacher, data, trainer)
        trainer.close()
        seconds = time.monotonic() - began
        metrics, *_ = evaluate_digits(run, bundled("digits-teacher"), run / "evaluation", data)
    return {"changes": changes, "seconds": round(seconds), "rows": metrics["rows"]}


def table(variants: dict[str, dict]) -> str:
    """A line for each variant and model: the two distances at each guidance scale."""
    lines = [f"{'variant':20}{'model':10}{'steps':>6}   Fréchet distance / rms to the teacher, at each guidance scale"]
    teacher = next(iter(variants.values()))["rows"]
    for name, rows in [("", [r for r in teacher if r["model"] == "teacher"]), *((n, v["rows"]) for n, v in variants.items())]:
        for model, steps in dict.fromkeys((r["model"], r["steps"]) for r in rows if r["model"] != "teacher" or not name):
            cells = [f"{r['frechet']:6.3f} /{r['rms_to_teacher']:6.3f}" for r in rows if (r["model"], r["steps"]) == (model, steps)]
            lines.append(f"{name:20}{model:10}{steps:6}   {'   '.join(cells)}")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "digits-variants")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--name", help="of the variant")
    parser.add_argument("--table", action="store_true", help="only print what was measured")
    args = parser.parse_args(words)
    variants = json.loads(args.out.read_text()) if args.out.is_file() else {}
    if not args.table:
        variants[args.name or " ".join(args.changes) or "recipe"] = distilled(args.changes)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(variants, indent=1) + "\n")
    print(table(variants))


if __name__ == "__main__":
    run_main(main)
