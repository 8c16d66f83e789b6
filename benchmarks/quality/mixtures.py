"""Error against the true guided solution, on data whose denoiser is known in closed form: what the method loses, and what samplers lose.

    python -m benchmarks.quality.mixtures                                                   writes benchmarks/results/mixtures.json
    python -m benchmarks.quality.mixtures --run runs/mixtures --picture docs/mixtures.png   keeps the students, draws the 2-D case

The teacher is the mixture's own E[x | z, c], so nothing is lost to a teacher's training; the truth is the guided probability-flow ODE
solved to convergence. Beside the samplers that people would use instead, run by stock diffusers schedulers, stand two students:

    perfect student     says at every point exactly what stage two asks of it: the method without a network's error
    student             a small MLP, distilled from the exact teacher by stage one and a ladder of stage two
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.command import parser_of, progress, run_main, write_result
from benchmarks.quality import tables
from benchmarks.quality.mixture_models import GUIDANCE_SCALE, PROCESS, Draws, mixture_of, student_of, teacher_of
from benchmarks.quality.mixtures_picture import draw
from fewstep import Model, open_model
from fewstep.evaluation.solvers import BASELINES, evaluations_of, kept_timesteps, solve, steps_for
from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.guidance import DenoiserFn, weight_of
from fewstep.method.samplers import deterministic
from fewstep.method.stage_two import collapsed_target, rungs
from fewstep.models.metadata import INFO
from fewstep.training.distill import next_student
from fewstep.training.losses import stage_one, stage_two
from fewstep.training.recipe import Recipe, make_recipe
from fewstep.training.stage import Stage
from fewstep.training.trainer import Trainer

BUDGETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # evaluations of the network
SCALES = (1.0, 2.0, 5.0)
LAYERS = 4
FAR = 0.1  # an error per coordinate that is no matter of precision
Row = dict[str, Any]


def recipe_of(dimensions: int, updates: float = 1.0) -> Recipe:
    """What a student is trained by; `updates` is a factor of the number of updates."""
    one, rung = round(4000 * updates), round(800 * updates)
    small = dimensions < 16
    return make_recipe({
        "student": {"guidance_scale": GUIDANCE_SCALE},
        "stage_one": {"updates": one, "learning_rate": 3e-3 if small else 2e-3},
        "stage_two": {"ladder": (256, 16, 8, 4, 2, 1), "updates": rung, "last_updates": rung, "learning_rate": 1e-3, "balance": 2.0},
        "train": {"batch_size": 512 if small else 256, "log_every": 100, "checkpoint_every": 1000},
    })  # fmt: skip


def distilled(mixture: Mixture, recipe: Recipe, student: Model, run: Path) -> dict[int, Model]:
    """The students of the ladder by their steps, trained in `run`, or opened where they are finished."""
    trainer, teacher = Trainer(run, Draws(mixture), recipe.train, "cpu"), teacher_of(mixture)
    student = trained(trainer, stage_one(recipe, teacher), student)
    students = {}
    for steps, k in rungs(recipe.stage_two.ladder):
        student = students[steps] = trained(trainer, stage_two(recipe, student, steps, k), next_student(student, steps))
    trainer.close()
    return students


def trained(trainer: Trainer, stage: Stage, model: Model) -> Model:
    """The stage's finished model."""
    folder = trainer.run / stage.name
    if not (folder / INFO).is_file():
        trainer.train(stage, model.denoiser)
        model.save(folder)
    return open_model(folder, network=model.denoiser)


@dataclass(frozen=True)
class Case:
    """A mixture at one guidance scale, noise z (n, d) at t = 1 with labels (n,), and where the true solution takes it."""

    mixture: Mixture
    guidance_scale: float
    samples: int
    solver_steps: int = 1024  # of fourth order

    @cached_property
    def labels(self) -> Tensor:
        """Int64 (n,), the classes in turn."""
        return torch.arange(self.samples) % self.mixture.classes

    @cached_property
    def noise(self) -> Tensor:
        """Float64 (n, d), always the same."""
        shape = self.samples, self.mixture.means.shape[1]
        return torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()

    @property
    def w(self) -> Tensor:
        """(n,)."""
        return torch.full((self.samples,), weight_of(self.guidance_scale))

    @cached_property
    def truth(self) -> Tensor:
        """Where the flow carries the noise, (n, d)."""
        return self.flow(0.0, self.solver_steps)

    def flow(self, t: float, steps: int) -> Tensor:
        """Where the flow has carried the noise at time t, (n, d)."""
        begin, end = torch.ones(self.samples), torch.full((self.samples,), t, dtype=torch.float64)
        return self.mixture.flow(self.noise, begin, end, self.labels, self.w, PROCESS, steps)

    def row(self, x: Tensor, **known: Any) -> Row:
        """Root-mean-square error of samples x (n, d), per coordinate: of all, of the median sample, and the share of those above FAR."""
        square = (x.reshape(self.truth.shape) - self.truth).square().mean(1)
        known = {"dimensions": self.truth.shape[1], "guidance_scale": self.guidance_scale} | known
        return known | {
            "rms": float(square.mean().sqrt()),
            "median": float(square.median().sqrt()),
            "far": float((square > FAR**2).double().mean()),
        }


def baseline_rows(case: Case, budgets: tuple[int, ...] = BUDGETS) -> Iterator[Row]:
    """Every baseline at the most steps that each budget of evaluations pays for."""
    guided = teacher_of(case.mixture).denoiser.guided()
    for name in BASELINES:
        for budget in budgets:
            if steps := steps_for(name, budget, case.guidance_scale):
                w = None if case.guidance_scale == 1 else case.w
                x = solve(name, guided, begin_of(case, name), steps, case.labels, w, PROCESS)
                evaluations = evaluations_of(name, steps, case.guidance_scale)
                yield case.row(x, method=name, steps=steps, evaluations=evaluations, budget=budget)


def begin_of(case: Case, name: str) -> Tensor:
    """The noise (n, d) for a baseline. Heun begins later than t = 1: it is given what the true solution is by then."""
    if name != "heun":
        return case.noise
    begin = kept_timesteps(PROCESS) / PROCESS.train_timesteps
    _, sigma = PROCESS.at(torch.tensor([begin]), case.noise)
    return case.flow(begin, 64) / sigma


def perfect_rows(case: Case, ladder: tuple[int, ...]) -> Iterator[Row]:
    """Students that say exactly what stage two asks of them, each rung taught by the teacher's steps of the ladder's start."""
    guided = teacher_of(case.mixture).denoiser.guided()
    for steps in (s for s in ladder[1:] if s in BUDGETS):

        def perfect(z: Tensor, t: Tensor, condition: Tensor, w: Tensor | None, steps: int = steps) -> Tensor:
            back = torch.arange(ladder[0] // steps + 1)[:, None]
            path = ((t * ladder[0]).round() - back) / ladder[0]
            return collapsed_target(guided, z, path, condition, w, PROCESS)

        estimate: DenoiserFn = perfect
        x = deterministic(estimate, case.noise, steps, case.labels, case.w, PROCESS)
        yield case.row(x, method="perfect student", steps=steps, evaluations=steps, budget=steps)


def student_rows(case: Case, students: dict[int, Model]) -> Iterator[Row]:
    """The trained students, sampled as users do."""
    noise = case.noise.float()[:, :, None, None]
    for steps, student in students.items():
        drawn = student.sample_tensor(case.labels, guidance_scale=case.guidance_scale, noise=noise)
        yield case.row(drawn.samples.double(), method="student", steps=steps, evaluations=drawn.evaluations, budget=steps)


def measured(mixture: Mixture, students: dict[int, Model], samples: int, ladder: tuple[int, ...]) -> tuple[list[Row], float]:
    """All rows of a mixture, and the largest difference that twice as fine a solution makes to the truth."""
    rows, residual = [], 0.0
    for scale in SCALES:
        case = Case(mixture, scale, samples)
        few = replace(case, samples=min(samples, 64))
        residual = max(residual, float((few.truth - few.flow(0.0, 2 * few.solver_steps)).abs().max()))
        rows += [*student_rows(case, students), *perfect_rows(case, ladder), *baseline_rows(case)]
        progress(f"{mixture.means.shape[1]} dimensions, guidance scale {scale:g}: measured")
    return rows, residual


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "mixtures")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 64])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--updates", type=float, default=1.0, help="factor of the number of updates")
    parser.add_argument("--run", type=Path, help="keeps the students here; where they are finished they are not trained again")
    parser.add_argument("--picture", type=Path, help="PNG to draw of the 2-D case")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"samples": args.samples, "rows": [], "students": []}
    with tempfile.TemporaryDirectory() as folder:
        for dimensions in args.dimensions:
            mixture, recipe = mixture_of(dimensions), recipe_of(dimensions, args.updates)
            run = (args.run or Path(folder)) / f"{dimensions}d"
            students = distilled(mixture, recipe, student_of(mixture, 128 if dimensions < 16 else 256, LAYERS), run)
            if dimensions == 2 and args.picture:
                draw(mixture, students, args.picture)
            rows, residual = measured(mixture, students, args.samples, recipe.stage_two.ladder)
            result["rows"] += rows
            result["students"].append(facts(mixture, recipe, students) | {"truth_residual": residual})
    write_result(args.out, result)
    print(tables.mixtures(result))


def facts(mixture: Mixture, recipe: Recipe, students: dict[int, Model]) -> Row:
    """What the students of a mixture are, and the deviation of its points per coordinate, which errors are to be compared with."""
    network, x = next(iter(students.values())).denoiser.network, mixture.sample(10_000, torch.Generator().manual_seed(0))[0]
    return {
        "dimensions": mixture.means.shape[1], "spread": float(x.var(0).mean().sqrt()),
        "parameters": sum(p.numel() for p in network.parameters()), "batch_size": recipe.train.batch_size,
        "stage_one": recipe.stage_one.model_dump(), "stage_two": recipe.stage_two.model_dump(),
    }  # fmt: skip


if __name__ == "__main__":
    run_main(main)
