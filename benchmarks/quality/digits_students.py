"""The bundled students of digits: those of a run of the full recipe, with the quality that was measured of them.

    fewstep distill digits-full --out runs/digits-full
    python -m benchmarks.quality.digits_full --run runs/digits-full --out benchmarks/results/digits-full.json
    python -m benchmarks.quality.digits_students --run runs/digits-full

Writes src/fewstep/bundled/digits-student/, a model folder for each number of steps: what `fewstep playground` opens by itself.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.command import RESULTS, parser_of, read_json, run_main
from fewstep import open_model
from fewstep.models.metadata import bundled


def quality_of(result: dict[str, Any], steps: int) -> dict[str, Any]:
    """What a student's folder says of its quality, from the rows of benchmarks/quality/digits_full.py."""
    rows = [row for row in result["rows"] if (row["model"], row["steps"]) == ("student", steps)]
    if not rows:
        raise SystemExit(f"digits-full.json has no student of {steps} steps: measure the run first")
    known = {"measured_by": "benchmarks/quality/digits_full.py", "steps": steps, "samples": rows[0]["samples"]}
    known["features"] = f"{result['features']['dimension']} features of a small digit classifier"
    for key in ("frechet", "class_accuracy"):
        known[key] = {f"{row['guidance_scale']:g}": round(row[key], 4) for row in rows}
    return known


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 2, 1])
    parser.add_argument("--out", type=Path, default=bundled("digits-student"))
    args = parser.parse_args(words)
    result = read_json(RESULTS / "digits-full.json")
    for steps in args.steps:
        model = open_model(args.run, steps=steps)
        info = model.info.model_copy(update={"quality": quality_of(result, steps)})
        print(replace(model, info=info).save(args.out / f"steps-{steps:04d}"))


if __name__ == "__main__":
    run_main(main)
