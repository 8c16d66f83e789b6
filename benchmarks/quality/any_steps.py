"""One network that is told the number of steps, against a student for each number of steps, at the same evaluations of networks for an example.

    python -m benchmarks.quality.any_steps                       one run each of the quickstart's ladder; benchmarks/results/any-steps.json
    python -m benchmarks.quality.any_steps --times 3             three times the updates, added as rows
    python -m benchmarks.quality.any_steps --only any --anchored 0.3

The network has, as it has for w, a layer of the embedded log2 of the number of steps N, zero at first, whose output is added to the time
embedding: so N goes into a bias, exactly. A share of each batch (`--anchored`) learns the guided teacher's estimate as a student of the ladder's
first number; the rest learns a shorter number N, taught by the average of itself at the number before N in the ladder, at the same w.
The numbers begin one after another over the first half of the updates. Figures: Fréchet distance in a digit classifier's features to
the teacher's samples of 64 steps from the same noise, which are class-balanced.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.command import parser_of, progress, read_json, run_main, write_result
from benchmarks.quality import tables
from benchmarks.quality.ladders import WITH_GRADIENT, cost
from benchmarks.quality.paths import LADDER
from benchmarks.quality.teacher_distance import References, digits_recipe, students_of
from fewstep import open_model
from fewstep.data.loading import Data, open_data
from fewstep.method.conditioning import take
from fewstep.method.guidance import draw_w, embed_w
from fewstep.method.process import add_noise
from fewstep.method.stage_one import WEIGHTINGS, balance, guided_target, weighted_error
from fewstep.method.stage_two import collapsed_target, draw_index, forward_path, rungs
from fewstep.models.denoiser import Call, Denoiser
from fewstep.models.families.added_layer import AddedLayer, WithArgument
from fewstep.models.model import Model
from fewstep.training.distill import student_of
from fewstep.training.draws import Draws
from fewstep.training.recipe import Recipe
from fewstep.training.train_state import Ema, trained

OPENED = 0.5  # the share of the updates after which every number of steps is trained


class StepsEmbedding(AddedLayer):
    """The layer of the embedded log2 N."""

    argument, member = "num_steps", "steps_embedding"

    def embedded(self, value: Tensor) -> Tensor:
        """Of N (b,)."""
        return embed_w(torch.log2(value.float()), self.in_features)


@dataclass(frozen=True)
class StepsCall:
    """A family's call of a network that is told the number of steps."""

    call: Call
    steps: int

    def __call__(self, network: nn.Module, z: Tensor, time: Tensor, condition: Any, w: Tensor | None) -> Tensor:
        called: Any = WithArgument(network, StepsEmbedding.argument, torch.full((len(z),), self.steps, device=z.device))
        return self.call(called, z, time, condition, w)


def at(denoiser: Denoiser, steps: int) -> Denoiser:
    """The student of so many steps."""
    return replace(denoiser, call=StepsCall(denoiser.call, steps))


def budget_of(recipe: Recipe) -> int:
    """Evaluations for an example's place in the batch, of stage one and of all rungs."""
    return cost(recipe)["evaluations"] // recipe.train.batch_size


def any_steps(recipe: Recipe, teacher: Model, data: Data, anchored: float) -> tuple[dict[int, Denoiser], float]:
    """The students of one network that is told the number of steps, and the evaluations that they took: as many as the ladder's."""
    student = student_of(recipe, teacher).denoiser
    network, (first, *_) = student.network, recipe.stage_two.ladder
    outputs = teacher.family.time_embedding_outputs(network)
    StepsEmbedding(256, outputs).attach(network, outputs)
    average, ema = replace(student, network=copy.deepcopy(network)), Ema(network, recipe.train.ema)
    for parameter, averaged in zip(trained(average.network).values(), ema.average, strict=True):
        parameter.data = averaged
    rate, batch, ladder, share = recipe.stage_one.learning_rate, recipe.train.batch_size, rungs(recipe.stage_two.ladder), anchored
    calls = (
        share * 2 + (1 - share) * sum(k for _, k in ladder) / len(ladder) + WITH_GRADIENT
    )  # about, before the last number begins
    updates, spent, update = round(budget_of(recipe) / calls), 0.0, 0
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    while spent < budget_of(recipe):
        done = spent / budget_of(recipe)
        optimizer.param_groups[0]["lr"] = rate * min(1, (update + 1) / recipe.train.warmup) * (1 - done)
        known = [rung for j, rung in enumerate(ladder) if done >= OPENED * (j + 0.5) / len(ladder)]
        x, condition, *_ = data.batch(update * batch, batch)
        draws = Draws(recipe.train.seed, "any-steps", update * batch, batch)
        parts = torch.arange(batch).split([n := round(batch * share) if known else batch, batch - n])
        noise, w, numbers = (
            draws.normal(x.shape[1:]),
            draw_w(draws.uniform(), recipe.student.guidance_scale),
            draws.uniform(stratified=True),
        )
        chosen = known[int(draws.uniform()[0] * len(known))] if known else None
        errors = []
        for part, rung in zip(parts, (None, chosen), strict=True):
            if not len(part):
                continue
            own = x[part], take(condition, part), noise[part], w[part], numbers[part]
            errors.append(of_teacher(student, teacher, first, *own) if rung is None else of_itself(student, average, *rung, *own))
            spent += len(part) / batch * ((2 if rung is None else rung[1]) + WITH_GRADIENT)
        optimizer.zero_grad()
        torch.cat(errors).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.train.gradient_clip)
        optimizer.step()
        ema.update(network, update)
        update += 1
        if update % 100 == 0:
            progress(f"any steps: {update} of about {updates} updates, {[first, *(steps for steps, _ in known)]}")
    return {steps: at(average, steps) for steps in recipe.stage_two.ladder[1:]}, spent


def of_teacher(
    student: Denoiser, teacher: Model, steps: int, x: Tensor, condition: Any, noise: Tensor, w: Tensor, numbers: Tensor
) -> Tensor:
    """Errors (b,) of the student of the ladder's first number: stage one's, at that number's times, as in the recipe."""
    t, process = draw_index(numbers, steps) / steps, student.process
    z = add_noise(x, noise, t, process)
    target = guided_target(teacher.denoiser.guided(), z, t, condition, w)
    return balance(w, 1.0) * weighted_error(at(student, steps)(z, t, condition, w), target, t, process, WEIGHTINGS["snr_plus_one"])


def of_itself(
    student: Denoiser, average: Denoiser, steps: int, k: int, x: Tensor, condition: Any, noise: Tensor, w: Tensor, numbers: Tensor
) -> Tensor:
    """Errors (b,) of a shorter number: stage two's, taught by the average of the same network at k times the number."""
    path, process = forward_path(draw_index(numbers, steps), steps, k), student.process
    z = add_noise(x, noise, path[0], process)
    target = collapsed_target(at(average, steps * k), z, path, condition, w, process)
    estimate = at(student, steps)(z, path[0], condition, w)
    return weighted_error(estimate, target, path[0], process, WEIGHTINGS["truncated_snr"])


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "any-steps")
    parser.add_argument("--times", type=float, default=1.0, help="the quickstart's updates")
    parser.add_argument("--anchored", type=float, default=0.5, help="share of a batch that the guided teacher teaches")
    parser.add_argument("--only", choices=("separate", "any"))
    parser.add_argument("--samples", type=int, default=4000)
    args = parser.parse_args(words)
    recipe, data = digits_recipe(args.times, LADDER), open_data(name="digits")
    assert isinstance(data, Data)
    known = read_json(args.out)["variants"] if args.out.is_file() else {}
    reference = References.made(open_model("digits"), data, args.samples)
    for way in [args.only] if args.only else ["separate", "any"]:
        teacher, name = open_model("digits"), f"{way}, {args.times:g}" + (f", anchored {args.anchored:g}" if way == "any" else "")
        progress(name)
        students, evaluations = (
            (students_of(recipe, teacher, data), budget_of(recipe))
            if way == "separate"
            else any_steps(recipe, teacher, data, args.anchored)
        )
        rows = reference.measured(students)
        known[name] = {"way": way, "times": args.times, "evaluations": round(evaluations), "samples": args.samples, "rows": rows}
        write_result(args.out, {"variants": known})
    print(tables.teacher_distance({"variants": known}))


if __name__ == "__main__":
    run_main(main)
