"""Rules of guidance on pictures of classes: students of one teacher under each, by a part of a recipe's updates, their curves over the guidance scales.

    python -m benchmarks.quality.image_rules --teacher runs/cifar10-small-teacher --data inputs/cifar10.npz --features inputs/resnet56.pt \
        --weak runs/cifar10-weak --work runs/cifar10-rules --set train.precision=bf16           writes benchmarks/results/image-rules.json

The counterpart of `benchmarks.quality.guidance_rules`, which has digits. `--weak` is what guides under "autoguidance": a run of `fewstep teach` with few
updates. Figures: class-balanced samples from the same noise at each scale, Fréchet distance to the data against class negative log-likelihood, for the students
of 4 and 1 steps and the guided teacher in 16 steps of DDIM. The run folders are in --work, and the same command resumes.
"""

from pathlib import Path

from benchmarks.command import parser_of, progress, read_json, run_main, write_result
from benchmarks.quality import tables
from benchmarks.quality.class_curves import FINER, SAMPLES, SCALES, Curves
from benchmarks.quality.guidance_rules import RULES, STEPS, TEACHER_STEPS
from benchmarks.quality.teacher_distance import updates_times
from fewstep import distill
from fewstep.data.loading import Data, open_data
from fewstep.evaluation.configurations import open_models
from fewstep.evaluation.feature_files import open_features
from fewstep.training.recipe import load_recipe, parse_change


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "image-rules")
    parser.add_argument("--recipe", default="cifar10-small")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--weak", type=Path, required=True, help="the weak model of autoguidance")
    parser.add_argument("--data", required=True)
    parser.add_argument("--features", required=True, help="as for fewstep evaluate, with a classifier's output")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", choices=list(RULES), nargs="+")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--times", type=float, default=0.5, help="the recipe's updates and paths")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(words)
    data = open_data(path=args.data)
    assert isinstance(data, Data)
    curves = Curves.of_data(data, open_features(args.features, data, device=args.device))
    known = read_json(args.out)["rules"] if args.out.is_file() else {}
    changes = dict(map(parse_change, args.set))
    changes = (
        updates_times(args.times, load_recipe(args.recipe, changes | {"data.path": args.data, "teacher.path": str(args.teacher)}))
        | changes
    )
    for name in args.only or RULES:
        progress(name)
        rule = {"teacher.weak": str(args.weak)} if name == "autoguidance" else {"teacher.guidance.name": name}
        distill(args.teacher, args.data, recipe=args.recipe, out=args.work / name, changes=changes | rule, device=args.device)
        models = open_models(args.work / name, str(args.teacher), STEPS).to(args.device)
        scales, teacher = FINER if name == "plain" else SCALES, models.teacher
        assert teacher is not None
        rows = [{"model": "teacher", **row} for row in curves.curve(teacher, TEACHER_STEPS, scales, args.samples)]
        for steps in STEPS:
            rows += [
                {"model": "student", **row} for row in curves.curve(models.students["student", steps], steps, scales, args.samples)
            ]
        known[name] = {"rule": teacher.info.guidance, "rows": rows}
        write_result(args.out, {"rules": known}, args.device)
    print(tables.guidance_rules({"rules": known}))


if __name__ == "__main__":
    run_main(main)
