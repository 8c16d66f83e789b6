"""Why a student of all guidance scales misses its goals at scale 1: the student of 4 steps, taught on by fresh paths of the teacher in two ways.

    python -m benchmarks.quality.low_scale --run runs/digits-full --work runs/low-scale          writes benchmarks/results/low-scale.json
    python -m benchmarks.quality.low_scale --recipe fashion-mnist --teacher runs/fashion-teacher --data fashion_mnist/train.npz --run runs/fashion-paths/paths \
        --work runs/low-scale-fashion --set train.precision=bf16 --out benchmarks/results/low-scale-fashion.json

Each way begins with the students of --run (of the recipe) and has as many new paths, of another seed, and as many updates: of all scales, and of
scale 1 alone. If one scale alone comes much nearer to the teacher, it is the other scales that are in the way.
At scale 1: Fréchet distance to the teacher's samples of 128 steps from the same noise, its ratio to the teacher's own distance to the data, and rms of pixels.
"""

from pathlib import Path
from typing import Any

import torch

from benchmarks.command import Row, parser_of, progress, read_json, run_main, write_result
from benchmarks.quality import path_tables
from benchmarks.quality.teacher_distance import starts
from fewstep import Model, distill, open_model
from fewstep.data.loading import Data, open_data
from fewstep.evaluation.accumulator import data_statistics
from fewstep.evaluation.classifier import cache_folder, train_or_load_classifier
from fewstep.evaluation.metrics import frechet_distance, rms
from fewstep.evaluation.statistics import Statistics
from fewstep.training.recipe import load_recipe, parse_change

STEPS, REFERENCE_STEPS = 4, 128
VARIANTS: dict[str, dict[str, Any]] = {
    "all scales": {},
    "scale 1 alone": {"student.guidance_scale": [1.0, 1.0]},
}


class Measure:
    """Compares a student's samples at scale 1 with the teacher's from the same noise and with the data."""

    def __init__(self, teacher: Model, data: Data, samples: int) -> None:
        self.labels, self.noise = starts(teacher, data, samples)
        features = train_or_load_classifier(data, cache_folder(data), quiet=True)
        self.statistics = lambda x: Statistics.of(features(x))
        self.data = data_statistics(features, data, cache_folder(data), quiet=True).moments.statistics()
        self.teacher = self.drawn(teacher, REFERENCE_STEPS)

    def drawn(self, model: Model, steps: int) -> torch.Tensor:
        return model.sample_tensor(self.labels, steps=steps, guidance_scale=1.0, noise=self.noise).samples

    def row(self, student: Model) -> Row:
        x = self.drawn(student, STEPS)
        own, teachers = self.statistics(x), self.statistics(self.teacher)
        ratio = frechet_distance(own, self.data) / frechet_distance(teachers, self.data)
        return {"frechet_to_teacher": frechet_distance(own, teachers), "ratio": ratio, "rms_to_teacher": rms(x, self.teacher)}


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "low-scale")
    parser.add_argument("--recipe", default="digits-full")
    parser.add_argument("--teacher", default="digits")
    parser.add_argument("--data", default="digits", help="digits, or an .npz")
    parser.add_argument("--run", type=Path, required=True, help="students of the recipe")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs; the same command resumes")
    parser.add_argument("--only", choices=list(VARIANTS), nargs="+")
    parser.add_argument("--count", type=int, default=6000, help="new paths")
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--samples", type=int, default=4000)
    args = parser.parse_args(words)
    shape: dict[str, Any] = load_recipe(args.recipe).data.model_dump(include={"size", "channels", "classes"})
    data = open_data(name="digits") if args.data == "digits" else open_data(path=args.data, **shape)
    assert isinstance(data, Data)
    known = read_json(args.out)["variants"] if args.out.is_file() else {}
    more = {
        "student.start": str(args.run), "stage_one.updates": 1, "stage_two.ladder": [16, STEPS], "paths.count": args.count, "paths.updates": args.updates,
        "paths.learning_rate": 5e-4, "paths.patience": 0, "train.seed": 1,
    } | dict(map(parse_change, args.set))  # fmt: skip
    measure = Measure(open_model(args.teacher), data, args.samples)
    known["as it is"] = {"updates": 0, "paths": 0} | measure.row(open_model(args.run / f"steps-{STEPS:04d}"))
    for way in args.only or VARIANTS:
        progress(way)
        out = args.work / way.replace(" ", "-")
        distill(args.teacher, data, recipe=args.recipe, out=out, changes=more | VARIANTS[way], device="cpu")
        student = open_model(out / f"steps-{STEPS:04d}")
        known[way] = {"updates": args.updates, "paths": args.count} | measure.row(student)
        write_result(args.out, {"samples": args.samples, "variants": known})
    print(path_tables.low_scale({"variants": known}))


if __name__ == "__main__":
    run_main(main)
