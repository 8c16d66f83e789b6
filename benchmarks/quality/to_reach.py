"""What the bundled students of digits reach of their goals: worth in a baseline's evaluations, ratio to the teacher's own distance, diversity.

    python -m benchmarks.quality.to_reach --run runs/to-reach                              4,000 samples, 25 minutes on one idle core
    python -m benchmarks.quality.to_reach --run runs/to-reach-2 --stored --guidance-scale 2 5         of these scales alone, the others' figures stay

Class-balanced samples of each configuration, all from the same noise: the students of 4, 2 and 1 steps, their teacher in 128 steps of DDIM, and DPM-Solver++
and UniPC, the best of the stock samplers. With `--stored` the teacher's samples are the shipped ones, 1,000 of 256 steps, which take no time. The same
command goes on in `--run`. Writes benchmarks/results/to-reach.json. Of other data: `benchmarks.quality.image_paths`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import Row, parser_of, read_json, run_main, write_result
from benchmarks.quality import tables
from fewstep.evaluation.configurations import configurations, open_models
from fewstep.evaluation.evaluate import examples_of, measure
from fewstep.evaluation.evaluation_run import is_reference
from fewstep.evaluation.summary import outperformed
from fewstep.evaluation.teacher_samples import REFERENCES, fixed_noise, load_references, with_stored
from fewstep.models.metadata import bundled
from fewstep.training.settings import EvaluateSettings

STEPS, SCALES = (4, 2, 1), (1.0, 2.0, 5.0)
BASELINES, BUDGETS = ("dpm++", "unipc"), (8, 16, 32)
GOALS: dict[str, dict[str, Any]] = {  # by recipe
    "digits": {"worth": 32, "ratio": {"4": 1.03, "2": 1.06, "1": 1.15}, "diversity": [0.98, 1.02]},
    "fashion-mnist": {"worth": 32, "ratio": {"4": 1.03, "2": 1.08, "1": 1.2}, "diversity": [0.97, 1.03]},
    "cifar10-small": {"worth": 32, "ratio": {"4": 1.1, "2": 1.2, "1": 1.5}, "diversity": [0.95, 1.05]},
}
GOALS["cifar10"] = GOALS["cifar10-small"]


def rows_of(run: Path, scales: list[float], settings: EvaluateSettings, stored: bool) -> list[Row]:
    """The rows of the teacher, the baselines and the students at these scales."""
    rows = []
    for steps in STEPS:
        models = open_models(bundled("digits-student") / f"steps-{steps:04d}", "digits", None)
        table, noise = configurations(models, scales, BASELINES, BUDGETS, settings.reference_steps), None
        if stored:
            assert models.teacher is not None
            known = load_references(REFERENCES, bundled("digits-teacher"))
            noise, labels = fixed_noise(models.teacher, settings.samples)
            table = [with_stored(configuration, known, noise, labels) for configuration in table]
        examples = examples_of("digits", models, resize=False, split=None)
        rows = measure(models, table, settings, examples, run, noise=noise, device="cpu")[0]["rows"]
    return rows


def figures_of(rows: list[Row], reference_steps: int) -> list[Row]:
    """For each student and guidance scale: the evaluations of every baseline that it is better than by the distance to the teacher's samples, its ratios."""
    found = []
    for row in (r for r in rows if r["model"] == "student"):
        others = [r for r in rows if r["model"] == "teacher" and r["guidance_scale"] == row["guidance_scale"]]
        baselines = [r for r in others if not is_reference(r, reference_steps)]
        known = {
            key: row[key]
            for key in ("steps", "guidance_scale", "samples", "frechet_to_teacher", "rms_to_teacher", "ratio", "diversity_ratio")
        }
        best = {str(n): min(r["frechet_to_teacher"] for r in baselines if r["evaluations"] <= n) for n in BUDGETS if baselines}
        found.append(known | {"worth": outperformed(row, baselines), "best": best, "reference_steps": reference_steps})
    return found


def in_place_of(known: list[Row], figures: list[Row], scales: Sequence[float]) -> list[Row]:
    """The figures of these guidance scales with those known of others, the most steps first."""
    kept = [row for row in known if row["guidance_scale"] not in scales]
    return sorted(figures + kept, key=lambda row: (-row["steps"], row["guidance_scale"]))


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "to-reach")
    parser.add_argument("--run", type=Path, default=Path("runs/to-reach"), help="folder of the evaluation")
    parser.add_argument("--guidance-scale", type=float, nargs="+", default=SCALES)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--stored", action="store_true", help="the shipped samples of digits' teacher: 1,000 of 256 steps")
    args = parser.parse_args(words)
    samples, reference_steps = (1000, 256) if args.stored else (args.samples, 128)
    settings = EvaluateSettings(samples=samples, reference_steps=reference_steps)
    figures = figures_of(rows_of(args.run, list(args.guidance_scale), settings, args.stored), reference_steps)
    known = read_json(args.out)["figures"] if args.out.is_file() else []
    result = {"goals": GOALS["digits"], "figures": in_place_of(known, figures, args.guidance_scale)}
    print(tables.to_reach(result))
    write_result(args.out, result)


if __name__ == "__main__":
    run_main(main)
