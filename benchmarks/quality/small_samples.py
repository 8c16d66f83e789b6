"""Which measure to trust with few samples: bias, spread, and power to tell two students apart, of each distance at 100 to 4,000 samples.

    python -m benchmarks.quality.small_samples            benchmarks/results/small-samples.json; 2 minutes on one core

The bundled digits students at guidance scale 2: 16,000 class-balanced samples of 4 steps stand for data of which there are plenty, those of 2 and of 1 steps are
compared with them, in the features of a classifier of digits. Of n samples each: up to 20 disjoint sets, class-balanced. Bias is the mean over the sets, of the student
of 1 step, over the value of all 16,000; spread their standard deviation over that value; power the difference between the means of the students of 1 and 2 steps
over the standard deviation of a difference: how surely one set of each tells which is nearer.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.command import Row, parser_of, progress, run_main, write_result
from benchmarks.quality import tables
from fewstep import open_model
from fewstep.data.loading import Data, open_data
from fewstep.evaluation.classifier import cache_folder, train_or_load_classifier
from fewstep.evaluation.extrapolation import extrapolated_frechet
from fewstep.evaluation.metrics import frechet_distance, mind
from fewstep.evaluation.statistics import Statistics
from fewstep.models.metadata import bundled

COUNTS, SETS, ALL, SCALE = (100, 250, 500, 1000, 2000, 4000), 20, 16_000, 2.0
FEWEST = {"Fréchet distance, extrapolated": 260}  # a quarter must be more than the 64 features


def measures_from(reference: Tensor, classes: int) -> dict[str, Callable[[Tensor], float]]:
    """Each measure of features (n, d), whose labels go round the classes, from the reference (m, d)."""
    statistics = Statistics.of(reference)
    return {
        "Fréchet distance": lambda x: frechet_distance(Statistics.of(x), statistics),
        "Fréchet distance, extrapolated": lambda x: extrapolated_frechet(x, torch.arange(len(x)) % classes, statistics)[0],
        "MIND": lambda x: mind(x, reference),
    }


def found(measure: Callable[[Tensor], float], near: Tensor, far: Tensor, count: int, whole: float) -> Row:
    """Bias, spread and power of a measure with so many samples: of features `far` (m, d), and against those nearer to the reference."""
    sets = min(SETS, len(far) // count)
    values = torch.tensor([[measure(x[k * count :][:count]) for k in range(sets)] for x in (near, far)], dtype=torch.float64)
    near_mean, far_mean = values.mean(1).tolist()
    near_spread, far_spread = values.std(1).tolist()
    return {
        "samples": count, "sets": sets, "bias": far_mean / whole, "spread": far_spread / whole,
        "power": (far_mean - near_mean) / math.hypot(near_spread, far_spread),
    }  # fmt: skip


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "small-samples")
    parser.add_argument("--samples", type=int, default=ALL, help="of each student")
    args = parser.parse_args(words)
    data = open_data(name="digits")
    assert isinstance(data, Data)
    network, labels, features = (
        train_or_load_classifier(data, cache_folder(data), quiet=True),
        torch.arange(args.samples) % len(data.classes),
        {},
    )
    for steps in (4, 2, 1):
        progress(f"{args.samples:,} samples of {steps} steps")
        student = open_model(bundled("digits-student") / f"steps-{steps:04d}")
        features[steps] = network(student.sample_tensor(labels, guidance_scale=SCALE, seed=steps).samples)
    rows = []
    for name, measure in measures_from(features[4], len(data.classes)).items():
        progress(name)
        whole = measure(features[1])
        for count in (n for n in COUNTS if n >= FEWEST.get(name, 0) and 2 * n <= args.samples):
            rows.append({"measure": name, **found(measure, features[2], features[1], count, whole)})
    result = {"samples": args.samples, "guidance_scale": SCALE, "rows": rows}
    print(tables.small_samples(result))
    write_result(args.out, result)


if __name__ == "__main__":
    run_main(main)
