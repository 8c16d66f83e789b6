"""What earns its place in the quickstart's recipe: variants of it, each distilled and measured in the same way.

    python -m benchmarks.quality.digits_variants --name balance-2 stage_one.balance=2.0
    python -m benchmarks.quality.digits_variants --table

Each call distils the bundled teacher by recipes/digits.toml with keys changed, and adds its figures to --out: at each guidance scale the
Fréchet distance and the root-mean-square distance to the teacher's 256-step samples, of stage one and of each student.
"""

import tempfile
import time
from contextlib import closing
from pathlib import Path

from benchmarks.command import parser_of, read_json, run_main, write_json
from benchmarks.quality import tables
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
        with closing(Trainer(run, data, recipe.train)) as trainer:
            distill_model(recipe, teacher, data, trainer)
        seconds = time.monotonic() - began
        metrics, *_ = evaluate_digits(run, bundled("digits-teacher"), run / "evaluation", data)
    return {"changes": changes, "seconds": round(seconds), "rows": metrics["rows"]}


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "digits-variants")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--name", help="of the variant")
    parser.add_argument("--table", action="store_true", help="only print what was measured")
    args = parser.parse_args(words)
    variants = read_json(args.out) if args.out.is_file() else {}
    if not args.table:
        variants[args.name or " ".join(args.changes) or "recipe"] = distilled(args.changes)
        write_json(args.out, variants)
    print(tables.recipe_variants(variants))


if __name__ == "__main__":
    run_main(main)
