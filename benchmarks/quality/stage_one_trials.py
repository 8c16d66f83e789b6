"""What stage one's error depends on: short trainings of it on digits, each with one thing changed, by the error at each guidance scale.

    python -m benchmarks.quality.stage_one_trials --whole runs/digits-full/stage-one
    python -m benchmarks.quality.stage_one_trials --only "balance 3" --updates 2000 --out trials.json

The error is the root mean square, in v, between the student and the guided teacher at noisy digits that are the same for all trials: no
sampling, so hardly any chance. `--whole` measures a finished stage one beside them, which shows what more updates bring.
"""

import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import parser_of, progress, run_main, write_result
from benchmarks.quality import tables
from fewstep import Model, open_model
from fewstep.data.loading import Data, open_data
from fewstep.method.guidance import weight_of
from fewstep.method.process import add_noise
from fewstep.method.stage_one import snr_plus_one, weighted_error
from fewstep.training.distill import student_of
from fewstep.training.losses import stage_one
from fewstep.training.recipe import Recipe, load_recipe
from fewstep.training.trainer import Trainer

SCALES = (1.0, 1.3, 2.0, 3.0, 5.0)
SHORT = {"stage_one.learning_rate": 2e-3, "train.ema": 0.99}
TRIALS: dict[str, dict[str, Any]] = {
    "balance 2": {},
    "balance 0": {"stage_one.balance": 0.0},
    "balance 1": {"stage_one.balance": 1.0},
    "balance 3": {"stage_one.balance": 3.0},
    "half the learning rate": {"stage_one.learning_rate": 1e-3},
    "twice the learning rate": {"stage_one.learning_rate": 4e-3},
    "scales 0.8 to 5.4": {"student.guidance_scale": [0.8, 5.4]},
}


def trained(recipe: Recipe, teacher: Model, data: Data, device: str | None = None) -> Model:
    """A student after stage one."""
    teacher.denoiser.network.requires_grad_(False)
    student = student_of(recipe, teacher)
    with tempfile.TemporaryDirectory() as run, closing(Trainer(Path(run), data, recipe.train, device)) as trainer:
        trainer.train(stage_one(recipe, teacher, data), student.denoiser)
    return student


@torch.no_grad()
def errors(student: Model, teacher: Model, data: Data, samples: int = 600) -> dict[str, float]:
    """Root-mean-square error in v at each guidance scale, over times from 0 to 1."""
    generator = torch.Generator().manual_seed(99)
    chosen = torch.randperm(len(data.labels), generator=generator)[:samples]
    x, labels = data.images()[chosen].float() / 127.5 - 1, torch.as_tensor(data.labels)[chosen].long()
    noise = torch.randn(x.shape, generator=generator)
    t = ((torch.randperm(samples, generator=generator) + 0.5) / samples).double()
    process = teacher.denoiser.process
    z, guided = add_noise(x, noise, t, process), teacher.denoiser.guided()

    def at(scale: float) -> float:
        w = torch.full((samples,), weight_of(scale))
        found, target = student.denoiser(z, t, labels, w), guided(z, t, labels, w)
        return float(weighted_error(found, target, t, process, snr_plus_one).mean() ** 0.5)

    return {f"{scale:g}": at(scale) for scale in SCALES}


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "stage-one-trials")
    parser.add_argument("--only", nargs="+", choices=list(TRIALS), default=list(TRIALS), metavar="TRIAL")
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--whole", type=Path, help="model folder of a finished stage one")
    parser.add_argument("--device", help="as fewstep distill takes it")
    args = parser.parse_args(words)
    teacher, data = open_model("digits"), open_data(name="digits")
    assert isinstance(data, Data)
    rows = []
    for name in args.only:
        changes, began = SHORT | TRIALS[name] | {"stage_one.updates": args.updates}, time.monotonic()
        found = errors(trained(load_recipe("digits-full", changes), teacher, data, args.device), teacher, data)
        rows.append({"trial": name, "updates": args.updates, "seconds": round(time.monotonic() - began), "errors": found})
        progress(str(rows[-1]))
    if args.whole:
        whole = open_model(args.whole)
        updates = whole.info.history[-1]["updates"]
        rows.append({"trial": "the full recipe", "updates": updates, "errors": errors(whole, teacher, data)})
    write_result(args.out, {"rows": rows})
    print(tables.trials({"rows": rows}))


if __name__ == "__main__":
    run_main(main)
