"""Rules of guidance on digits: students of the bundled teacher under each, distilled by the quickstart's recipe, their curves over the guidance scales.

    python -m benchmarks.quality.guidance_rules --of teacher --weak runs/weak-digits         all rules; benchmarks/results/guidance-rules.json
    python -m benchmarks.quality.guidance_rules --of student --only plain interval           of these the students, added to what is there

A rule has its defaults. For "autoguidance" the weak model is a teacher by the same recipe with 500 of its 6,000 updates, made in `--weak` where it is not
there. Figures: 4,000 class-balanced samples from the same noise at each scale, Fréchet distance to the data against class negative log-likelihood in the
features of a classifier of digits, for the students of 4 and 1 steps and, with 1,000 samples, for the guided teacher in 16 steps of DDIM.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.command import parser_of, progress, read_json, run_main, write_result
from benchmarks.quality import tables
from benchmarks.quality.class_curves import FINER, SAMPLES, SCALES, Curves
from benchmarks.quality.teacher_distance import digits_recipe, distilled_models
from fewstep import open_model
from fewstep.data.loading import Data, open_data
from fewstep.models.model import Model
from fewstep.training.distill import train_teacher
from fewstep.training.recipe import load_recipe
from fewstep.training.run_folder import open_run
from fewstep.training.trainer import Trainer

RULES: dict[str, dict[str, Any]] = {
    "plain": {}, "interval": {"name": "interval"}, "rescale": {"name": "rescale"}, "apg": {"name": "apg"}, "autoguidance": {},
}  # fmt: skip
STEPS, TEACHER_STEPS, WEAK_UPDATES = (4, 1), 16, 500


def weak_model(run: Path, data: Data) -> Model:
    """The teacher of few updates, trained where the run does not have it."""
    recipe = load_recipe("digits", {"teach.updates": WEAK_UPDATES, "train.log_with": "none"})
    with closing(Trainer(open_run(run, recipe), data, recipe.train)) as trainer:
        return train_teacher(recipe, data, trainer)


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "guidance-rules")
    parser.add_argument("--of", choices=["teacher", "student"], required=True, help="whose curves")
    parser.add_argument("--only", choices=list(RULES), nargs="+")
    parser.add_argument("--weak", type=Path, default=Path("runs/weak-digits"), help="run folder of the weak model")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--times", type=float, default=1.0, help="the quickstart's updates")
    args = parser.parse_args(words)
    data = open_data(name="digits")
    assert isinstance(data, Data)
    curves = Curves.of_data(data)
    known = read_json(args.out)["rules"] if args.out.is_file() else {}
    for name in args.only or RULES:
        progress(name)
        teacher = open_model("digits").with_guidance(RULES[name], weak_model(args.weak, data) if name == "autoguidance" else None)
        scales = FINER if name == "plain" else SCALES
        rows = [row for row in known.get(name, {}).get("rows", []) if row["model"] != args.of]
        if args.of == "teacher":
            rows += [{"model": "teacher", **row} for row in curves.curve(teacher, TEACHER_STEPS, scales, args.samples // 4)]
        else:
            students = distilled_models(digits_recipe(args.times), teacher, data)
            for steps in STEPS:
                rows += [{"model": "student", **row} for row in curves.curve(students[steps], steps, scales, args.samples)]
        known[name] = known.get(name, {}) | {"rule": teacher.info.guidance, "rows": rows}
        write_result(args.out, {"rules": known})
    print(tables.guidance_rules({"rules": known}))


if __name__ == "__main__":
    run_main(main)
