"""Students of one and two steps with and without a critic, at the same updates and at the same evaluations of networks.

    python -m benchmarks.quality.critic                       all variants; benchmarks/results/critic.json
    python -m benchmarks.quality.critic --only "1: rung" --updates 500

Common to all: the bundled student of four steps, taught on by the teacher's own paths (`[paths]`), teaches the bundled students of two and of one
step on. Variants of N steps:

- *rung*: on noised data, as stage two does.
- *own states*: in the states that the student itself visits from noise, the target from there being stage two's. (With one step it is the rung.)
- *critic*: the same, and its samples are compared with the teacher's of the same class and w, the end states of the pool of paths, by a critic: heads
  on the frozen teacher's features of both, noised lightly alike; relativistic loss of pairs, R1 and R2 by finite differences at the heads'
  inputs. The critic learns alone first, from pairs of the same noise; its weight in the student's loss is set once, so that both gradients at
  the samples are equally long.

Figures: Fréchet distance to the teacher's samples from the same noise, class-balanced, in the features of a digit classifier, and of the pixels themselves;
precision and recall (3 neighbours) against them; diversity over theirs; ratio of the Fréchet distances to the data.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.command import Row, parser_of, progress, read_json, run_main, write_result
from benchmarks.quality import tables
from benchmarks.quality.pair_critic import Critic
from benchmarks.quality.teacher_distance import SAMPLES, SCALES, References, starts
from fewstep import open_model
from fewstep.data.loading import Data, open_data
from fewstep.evaluation.classifier import cache_folder, train_or_load_classifier
from fewstep.evaluation.metrics import Statistics, diversity, frechet_distance, precision_recall, rms
from fewstep.method import samplers
from fewstep.method.guidance import draw_w, weight_of
from fewstep.method.paths import second_order_states
from fewstep.method.process import add_noise, ddim_step, time_grid
from fewstep.method.stage_one import WEIGHTINGS, balance, weighted_error
from fewstep.method.stage_two import collapsed_target, draw_index, forward_path
from fewstep.models.denoiser import Denoiser
from fewstep.models.model import Model
from fewstep.training.distill import next_student, train_or_open
from fewstep.training.draws import Draws
from fewstep.training.paths import PathPool, path_pool, paths_stage
from fewstep.training.recipe import Recipe, load_recipe
from fewstep.training.run_folder import open_run
from fewstep.training.train_state import Ema, learning_rate_factor
from fewstep.training.trainer import Trainer

BATCH = 64
SOLVER_STEPS = 24  # of the pool's paths and of the teacher's samples
FIRST = 200  # the critic's updates before the student's first
WITH_GRADIENT = 3  # evaluations that one with its gradient counts
JUDGED = 1.5  # evaluations of the critic for an example: half a network for the teacher's sample, as much for the student's and its gradient


@dataclass(frozen=True)
class Variant:
    """What a student of `steps` steps learns by."""

    steps: int
    way: str  # "rung" or "own states"
    judged: bool = False  # by the critic too
    more: float = 1.0  # times the updates

    @property
    def evaluations(self) -> float:
        """For an example of an update."""
        each = 4 // self.steps + WITH_GRADIENT
        return (each if self.way == "rung" else self.steps * each) + JUDGED * self.judged


VARIANTS = {
    "1: rung": Variant(1, "rung"),
    "1: rung, more updates": Variant(1, "rung", more=1.36),
    "1: critic": Variant(1, "own states", judged=True),
    "2: rung": Variant(2, "rung"),
    "2: own states": Variant(2, "own states"),
    "2: critic": Variant(2, "own states", judged=True),
}


def rung_errors(
    student: Denoiser, before: Denoiser, steps: int, x: Tensor, condition: Tensor, noise: Tensor, w: Tensor, numbers: Tensor
) -> Tensor:
    """Stage two's errors (b,), on noised data."""
    path = forward_path(draw_index(numbers, steps), steps, 4 // steps)
    return errors_at(student, before, add_noise(x, noise, path[0], student.process), path, condition, w)[0]


def errors_at(student: Denoiser, before: Denoiser, z: Tensor, path: Tensor, condition: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Stage two's errors (b,) at z, and the student's estimate there."""
    target, estimate = collapsed_target(before, z, path, condition, w, student.process), student(z, path[0], condition, w)
    return balance(w, 1.0) * weighted_error(estimate, target, path[0], student.process, WEIGHTINGS["truncated_snr"]), estimate


def chain_errors(
    student: Denoiser, before: Denoiser, steps: int, noise: Tensor, condition: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    """Stage two's errors (b,), the mean over the states that the student visits from noise, and its sample, with the last step's gradient."""
    z, errors, estimate = noise.double(), [], noise
    for i in range(steps, 0, -1):
        path = forward_path(torch.full((len(z),), i), steps, 4 // steps)
        found, estimate = errors_at(student, before, z, path, condition, w)
        errors.append(found)
        z = ddim_step(z, estimate, path[0], path[-1], student.process).detach() if i > 1 else z
    return torch.stack(errors).mean(0), estimate


def batches(pool: PathPool, seed: int) -> Iterator[tuple[Tensor, Any, Tensor, Tensor, Tensor]]:
    """(noise, class, w, the teacher's sample of that class and w, its noise) for ever; of `same_noise` the first half is of the pool's noise."""
    generator, start = torch.Generator().manual_seed(seed), 0
    while True:
        states, condition, known = pool.batch(start, BATCH)
        noise = torch.randn(states[:, 0].shape, generator=generator)
        yield noise, condition, known["w"].double(), states[:, -1].double(), states[:, 0]
        start += BATCH


def taught(variant: Variant, before: Denoiser, teacher: Model, pool: PathPool, data: Data, args: Any) -> tuple[Denoiser, float]:
    """The student of a variant, and the evaluations that it took for an example's place in the batch."""
    torch.manual_seed(args.seed)
    student = open_model("digits-student", steps=variant.steps).denoiser
    network = student.network.train(False).requires_grad_(True)
    parameters, updates = list(network.parameters()), round(args.updates * variant.more)
    optimizer, ema = torch.optim.AdamW(parameters, args.rate, betas=(0.9, 0.99), weight_decay=0.0), Ema(network, 0.995)
    source = batches(pool, args.seed)
    critic, weight, spent = Critic(teacher, student.process), 0.0, updates * variant.evaluations

    def parts(update: int) -> tuple[Tensor, Any, Any]:
        """The means of both losses, and the samples; the critic learns along."""
        if variant.way == "rung":
            draws = Draws(args.seed, "rung", update * BATCH, BATCH)
            x, condition, *_ = data.batch(update * BATCH, BATCH)
            w, noise = draw_w(draws.uniform(), (1.0, 5.0)), draws.normal(x.shape[1:])
            return (
                rung_errors(student, before, variant.steps, x, condition, noise, w, draws.uniform(stratified=True)).mean(),
                None,
                None,
            )
        noise, condition, w, real, _ = next(source)
        errors, sample = chain_errors(student, before, variant.steps, noise, condition, w)
        if not variant.judged:
            return errors.mean(), None, sample
        maps = critic.maps(real, sample, condition)
        loss = (balance(w, 1.0) * critic.loss(*maps, condition, w)).mean()
        waiting[:] = [(*maps, condition, w)]
        return errors.mean(), loss, sample

    waiting: list[Any] = []
    if variant.judged:
        for _ in range(FIRST):
            _, condition, w, real, noise = next(source)
            with torch.no_grad():
                fake = samplers.deterministic(student, noise, variant.steps, condition, w, student.process)
                maps = critic.maps(real, fake, condition)
            loss = critic.learn(*maps, condition, w)
        progress(f"critic after {FIRST}: loss {loss:.3f}, right {critic.right:.2f}")
        lengths = []
        for _ in range(8):
            *losses, sample = parts(0)
            lengths.append([float(torch.autograd.grad(loss, sample, retain_graph=True)[0].norm()) for loss in losses])
        anchor, other = torch.tensor(lengths).mean(0).tolist()
        weight, spent = anchor / other, spent + FIRST * (variant.steps + 1)
        progress(f"lengths of the gradients {anchor:.4g} and {other:.4g}: weight {weight:.4g}")

    seen, began = torch.zeros(2), time.monotonic()
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = args.rate * learning_rate_factor("linear", update, updates, 20)
        error, judged_loss, _ = parts(update)
        optimizer.zero_grad()
        (error if judged_loss is None else error + weight * judged_loss).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        ema.update(network, update)
        seen += torch.tensor([float(error.detach()), critic.learn(*waiting.pop()) if waiting else 0.0])
        if (update + 1) % 100 == 0:
            error_now, critic_now = (seen / 100).tolist()
            progress(
                f"  {update + 1}/{updates} {time.monotonic() - began:.0f} s  loss {error_now:.5f}  critic {critic_now:.4f} right {critic.right:.2f}"
            )
            seen.zero_()
    ema.change_places(network)
    network.requires_grad_(False)
    return student, spent


def pool_and_student(teacher: Model, data: Data, folder: Path, args: Any) -> tuple[PathPool, Denoiser]:
    """The pool of paths, and the bundled student of four steps, taught on by them."""
    changes = {
        "paths.rung": 4, "paths.solver_steps": SOLVER_STEPS, "paths.count": args.paths, "paths.updates": args.path_updates, "paths.balance": 2.0,
        "train.batch_size": BATCH, "train.ema": 0.995, "train.log_with": "none", "train.sample_every": 0,
    }  # fmt: skip
    recipe: Recipe = load_recipe("digits", changes)
    with closing(Trainer(open_run(folder, recipe), data, recipe.train)) as trainer:
        start = next_student(open_model("digits-student", steps=4), 4)
        pool = path_pool(recipe, teacher, start.denoiser.process, data, trainer)
        student = train_or_open(paths_stage(recipe, start, pool), start, trainer)
    student.denoiser.network.requires_grad_(False)
    return pool, student.denoiser


@dataclass(frozen=True)
class Measures(References):
    """The same, of the solver that made the paths, and all figures of a student."""

    data: Statistics

    @classmethod
    @torch.no_grad()
    def of(cls, teacher: Model, data: Data, count: int, folder: Path) -> "Measures":
        """`count` samples a scale, from `folder` where they are there already."""
        labels, noise = starts(teacher, data, count)
        file = folder / f"teacher-{count}.safetensors"
        drawn = {float(scale): samples for scale, samples in load_file(file).items()} if file.is_file() else {}
        for scale in () if drawn else SCALES:
            progress(f"the teacher's samples at scale {scale:g}")
            estimate, parts = teacher.denoiser.guided(), []
            for z, label in zip(noise.split(250), labels.split(250), strict=True):
                w = None if scale == 1 else torch.full((len(z),), weight_of(scale), dtype=torch.float64)
                *_, end = second_order_states(estimate, z, time_grid(SOLVER_STEPS), label, w, teacher.denoiser.process)
                parts.append(end)
            drawn[scale] = torch.cat(parts)
        save_file({f"{scale:g}": samples for scale, samples in drawn.items()}, file)
        features = train_or_load_classifier(data, cache_folder(data), quiet=True)
        return cls(noise, labels, drawn, features, Statistics.of(features(data.images().float() / 127.5 - 1)))

    def rows(self, student: Denoiser, steps: int) -> list[Row]:
        """A row for each guidance scale."""
        rows = []
        for scale, reference in self.samples.items():
            found = self.drawn_by(student, steps, scale)
            mine, theirs = self.features(found), self.features(reference)
            one, other = Statistics.of(mine), Statistics.of(theirs)
            pixels = [Statistics.of(values.double().clamp(-1, 1).flatten(1)) for values in (found, reference)]
            precision, recall = precision_recall(mine, theirs)
            spread = [diversity(values, self.labels) or 0.0 for values in (mine, theirs)]
            row: Row = {"guidance_scale": scale, "frechet": frechet_distance(one, other)}
            row |= {"frechet_of_pixels": frechet_distance(*pixels)}
            row |= {
                "ratio_to_data": frechet_distance(one, self.data) / frechet_distance(other, self.data),
                "rms": rms(found, reference),
            }
            row |= {"precision": precision, "recall": recall, "diversity": spread[0] / spread[1]}
            rows.append(row | {"class_accuracy": self.features.class_accuracy(mine, self.labels)})
        return rows


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "critic")
    parser.add_argument("--only", choices=list(VARIANTS), nargs="+")
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--paths", type=int, default=8192)
    parser.add_argument("--path-updates", type=int, default=1200)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument(
        "--work", type=Path, help="a folder that keeps the pool, the student of four steps and the teacher's samples"
    )
    args = parser.parse_args(words)
    data, teacher = open_data(name="digits"), open_model("digits")
    assert isinstance(data, Data)
    teacher.denoiser.network.requires_grad_(False)
    known = read_json(args.out)["variants"] if args.out.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.work or Path(temporary)
        folder.mkdir(exist_ok=True)
        pool, before = pool_and_student(teacher, data, folder / "run", args)
        measures = Measures.of(teacher, data, args.samples, folder)
        common = {"updates": args.updates, "rate": args.rate, "seed": args.seed, "paths": args.paths, "samples": args.samples}
        for name in args.only or VARIANTS:
            progress(name)
            student, spent = taught(VARIANTS[name], before, teacher, pool, data, args)
            key = name + (f", seed {args.seed}" if args.seed else "")
            known[key] = (
                common
                | vars(VARIANTS[name])
                | {
                    "updates": round(args.updates * VARIANTS[name].more),
                    "evaluations": round(spent),
                    "rows": measures.rows(student, VARIANTS[name].steps),
                }
            )
            for row in known[key]["rows"]:
                progress("  ".join(f"{k} {v:.4f}" for k, v in row.items()))
            write_result(args.out, {"variants": known})
    print(tables.critic({"variants": known}))


if __name__ == "__main__":
    run_main(main)
