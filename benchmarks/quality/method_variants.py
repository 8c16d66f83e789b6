"""The method against its alternatives at equal updates: the paper's table in small, a row each number of steps.

    python -m benchmarks.quality.method_variants --run runs/method-variants            distils all variants, or those not there yet, and measures
    python -m benchmarks.quality.method_variants --run runs/method-variants --only ours stochastic

Each variant changes one thing of `ours`: the bundled teacher of digits, 2,000 updates of stage one, rungs of 300 (500 the last two).

    stochastic    students of the stochastic sampler
    halving       a rung for every halving of the steps, the updates of the ladder shared among them
    x             students that predict x in place of v
    one scale     a student for one guidance scale, the one that it is measured at (2 alone)
    no balance    stage one's loss as in the paper, not divided by a power of the guidance scale
    apart         the naive alternative: both branches distilled, each unguided, by one network; guided when sampling, so two evaluations a step

`ours`, `stochastic` and `halving` share stage one, which is measured too: stage one alone.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.command import parser_of, progress, run_main, write_result
from benchmarks.quality import tables
from benchmarks.quality.digit_measures import DigitMeasures
from fewstep import Model, open_model
from fewstep.data.loading import Data, open_data
from fewstep.evaluation.teacher_samples import fixed_noise
from fewstep.method.conditioning import choose
from fewstep.method.guidance import DenoiserFn
from fewstep.method.process import add_noise
from fewstep.method.stage_one import weighted_error
from fewstep.method.stage_two import collapsed_target, draw_index, forward_path, rungs
from fewstep.models.denoiser import Denoiser
from fewstep.models.metadata import INFO
from fewstep.training.distill import distill_model, next_student
from fewstep.training.draws import Draws
from fewstep.training.losses import weighting_of
from fewstep.training.recipe import Recipe, load_recipe
from fewstep.training.stage import Batch, Stage
from fewstep.training.trainer import Trainer

SCALES = (1.0, 1.3, 2.0, 5.0)
STEPS = (1, 2, 4, 8, 16)
BUDGET = {
    "stage_one.updates": 2000, "stage_one.learning_rate": 2e-3, "stage_two.ladder": [64, 16, 8, 4, 2, 1],
    "stage_two.updates": 300, "stage_two.last_updates": 500, "stage_two.learning_rate": 1e-3, "paths.rung": None,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "stochastic": {"stage_two.sampler": "stochastic"},
    "halving": {"stage_two.ladder": [64, 32, 16, 8, 4, 2, 1], "stage_two.updates": 225},
    "x": {"student.prediction": "x"},
    "one scale": {"student.guidance_scale": [2.0, 2.0]},
    "no balance": {"stage_one.balance": 0.0},
    "apart": {},
}
SHARED = ("stochastic", "halving")  # have the stage one of `ours`
Row = dict[str, Any]


def recipe_of(name: str, changes: dict[str, Any]) -> Recipe:
    """The recipe of a variant."""
    return load_recipe("digits-full", BUDGET | VARIANTS[name] | changes)


def distilled(name: str, recipe: Recipe, run: Path, data: Data, device: str | None = None) -> dict[str, Model]:
    """The variant's models by folder name, trained in `run`/NAME or opened where they are finished."""
    teacher, folder = open_model("digits"), run / name.replace(" ", "-")
    if name in SHARED and not (folder / "stage-one" / INFO).is_file():
        shutil.copytree(run / "ours" / "stage-one", folder / "stage-one")
    with closing(Trainer(folder, data, recipe.train, device)) as trainer:
        (distilled_apart if name == "apart" else distill_model)(recipe, teacher, data, trainer)
    folders = sorted((path.parent for path in folder.glob(f"*/{INFO}")), key=lambda made: (made / INFO).stat().st_mtime)
    return {made.name: open_model(made) for made in folders}


def distilled_apart(recipe: Recipe, teacher: Model, data: Data, trainer: Trainer) -> None:
    """Train students of both branches, conditional and not, that never saw a guided sample: guided like a teacher, for some number of steps."""
    for steps, k in rungs(recipe.stage_two.ladder):
        stage, student = branches(recipe, teacher, steps, k), next_student(teacher, steps, kind="teacher")
        folder = trainer.run / stage.name
        if not (folder / INFO).is_file():
            trainer.train(stage, student.denoiser)
            student.save(folder)
        teacher = open_model(folder)


def branches(recipe: Recipe, teacher: Model, steps: int, k: int) -> Stage:
    """Plain progressive distillation (2202.00512), the condition left out of every second example."""
    settings, process = recipe.stage_two, teacher.denoiser.process
    unguided, weighting = without_w(teacher.denoiser), weighting_of(recipe, "stage_two", teacher.denoiser.predicts, process)

    def draw(draws: Draws) -> Batch:
        index = draw_index(draws.uniform(stratified=True), steps)
        return {"path": forward_path(index, steps, k).T.contiguous(), "dropped": draws.uniform() < 0.5}

    def error(student: Denoiser, batch: Batch) -> Tensor:
        path, null = batch["path"].T, teacher.denoiser.null_condition(batch["condition"])
        z, condition = add_noise(batch["x"], batch["noise"], path[0], process), choose(batch["dropped"], null, batch["condition"])
        target = collapsed_target(unguided, z, path, condition, None, process)
        return weighted_error(without_w(student)(z, path[0], condition, None), target, path[0], process, weighting)

    updates = settings.last_updates if steps <= 2 else settings.updates
    return Stage(f"steps-{steps:04d}", updates, settings.learning_rate, settings.schedule, draw, error)


def without_w(denoiser: Denoiser) -> DenoiserFn:
    """The denoiser of a network without an input for w."""
    return lambda z, t, condition, w: denoiser(z, t, condition)


def measured(
    name: str, models: dict[str, Model], measures: DigitMeasures, noise: Tensor, labels: Tensor, best: dict[float, Tensor]
) -> Iterator[Row]:
    """A row for each of the variant's students and guidance scales; of `ours` also stage one alone, at every number of steps."""
    for folder, model in models.items():
        low, high = model.info.guidance_scale or (min(SCALES), max(SCALES))
        alone = folder == "stage-one"
        if alone and name != "ours":
            continue
        for steps in STEPS if alone else (model.info.steps or 0,):
            for scale in (s for s in SCALES if low <= s <= high):
                samples = model.sample_tensor(labels, steps=steps, guidance_scale=scale, noise=noise)
                known = {"variant": "stage one alone" if alone else name, "steps": steps, "guidance_scale": scale}
                yield measures.row(samples, labels, best[scale], **known)


def teacher_rows(
    teacher: Model, measures: DigitMeasures, noise: Tensor, labels: Tensor, steps: int
) -> tuple[list[Row], dict[float, Tensor]]:
    """The teacher's rows by DDIM, at many steps and at few, and its samples of many steps by guidance scale."""
    rows, best = [], {}
    for scale in SCALES:
        many = teacher.sample_tensor(labels, steps=steps, guidance_scale=scale, noise=noise)
        best[scale] = many.samples
        for samples in (many, *(teacher.sample_tensor(labels, steps=s, guidance_scale=scale, noise=noise) for s in STEPS)):
            rows.append(measures.row(samples, labels, best[scale], variant="teacher", steps=samples.steps, guidance_scale=scale))
    return rows, best


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "method-variants")
    parser.add_argument("--run", type=Path, required=True, help="folder of the variants' runs")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--device", help="as fewstep distill takes it")
    args = parser.parse_args(words)
    result = run_all(args.run, args.only, args.samples, {}, args.device)
    write_result(args.out, result)
    print(tables.method_variants(result))


def run_all(
    run: Path, names: list[str], samples: int, changes: dict[str, Any], device: str | None = None, best_steps: int = 256
) -> dict[str, Any]:
    """Distil and measure the variants in order; what the JSON holds."""
    data, teacher = open_data(name="digits"), open_model("digits")
    assert isinstance(data, Data)
    models = {name: distilled(name, recipe_of(name, changes), run, data, device) for name in names}
    measures, (noise, labels) = DigitMeasures.of_data(data), fixed_noise(teacher, samples)
    rows, best = teacher_rows(teacher, measures, noise, labels, best_steps)
    for name in names:
        progress(f"measuring {name}")
        rows += measured(name, models[name], measures, noise, labels, best)
    return {
        "classifier_accuracy": measures.features.held_out_accuracy,
        "budget": BUDGET | changes,
        "best_steps": best_steps,
        "rows": rows,
    }


if __name__ == "__main__":
    run_main(main)
