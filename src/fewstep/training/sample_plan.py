"""When pictures are drawn while a run trains, in how many steps, and how many evaluations of networks that takes."""

from dataclasses import dataclass

from fewstep.training.plan_of_stages import Planned
from fewstep.training.recipe import Recipe

ROWS = 4  # conditions
HANDFUL = 5  # times a stage, the end among them, unless `train.sample_every` says otherwise
SHARE = 0.02  # of a stage's evaluations that its pictures take at most, unless it does
WITH_GRADIENT = 3  # evaluations that one with its gradient counts
DECODING = 4  # evaluations that the decoding of latents counts: Stable Diffusion's VAE takes about as many of its UNet
STUDENT_STEPS = 16  # of stage one's student, at most
TEACHER_STEPS = (32, 16, 8)  # of the guided teacher: the most that is within the share


@dataclass(frozen=True)
class SamplePlan:
    """The pictures of one stage: after each `every` updates and at its end, in so many steps; `evaluations` of all of them, each picture alone."""

    every: int
    steps: int
    evaluations: int


def scales_of(recipe: Recipe) -> tuple[float, ...]:
    """The ends and the middle of the guidance range."""
    low, high = recipe.student.guidance_scale
    return tuple(sorted({low, (low + high) / 2, high}))


def steps_of(recipe: Recipe, stage: str) -> int | None:
    """In how many steps a stage's pictures are drawn; None of an encoder, which draws none.

    A rung's student takes its own; that of stage one the ladder's first number, but at most `STUDENT_STEPS`, at times that it has learnt.
    """
    if stage == "teacher":
        return TEACHER_STEPS[0]
    if stage != "stage-one":
        kind, _, number = stage.rpartition("-")
        return int(number) if kind in ("steps", "ladder") else None
    first = recipe.stage_two.ladder[0]
    most = min(first, STUDENT_STEPS)
    return most if recipe.stage_one.times == "continuous" else max(n for n in range(1, most + 1) if first % n == 0)


def sample_plans(recipe: Recipe, stages: list[Planned], global_batch: int, latents: bool) -> dict[str, SamplePlan]:
    """The pictures of each stage that has some; `latents` says whether they have to be decoded."""
    plans, pictures = {}, ROWS * len(scales_of(recipe))
    for name, updates, calls, trains in stages:
        steps, asked = steps_of(recipe, name), recipe.train.sample_every
        if steps is None or not trains or not updates or asked == 0:
            continue
        once = pictures * ((2 if name == "teacher" else 1) * steps + (DECODING if latents else 0))
        affordable = int(SHARE * updates * global_batch * (calls + WITH_GRADIENT) / once)
        every = asked or (-(-updates // min(HANDFUL, affordable, updates)) if affordable else 0)
        if every:
            plans[name] = SamplePlan(every, steps, once * -(-updates // every))
    return plans


def teacher_plan(recipe: Recipe, stages: list[Planned], global_batch: int, latents: bool) -> SamplePlan | None:
    """The teacher's pictures, drawn once before stage one; None where students have none, or where they would cost more than the share."""
    if not sample_plans(recipe, stages, global_batch, latents) or stages[0][0] == "teacher":
        return None
    _, updates, calls, _ = stages[0]
    pictures, training = ROWS * len(scales_of(recipe)), updates * global_batch * (calls + WITH_GRADIENT)
    for steps in TEACHER_STEPS:
        evaluations = pictures * (2 * steps + (DECODING if latents else 0))
        if recipe.train.sample_every or evaluations <= SHARE * training:
            return SamplePlan(0, steps, evaluations)
    return None


def evaluations_of(recipe: Recipe, stages: list[Planned], global_batch: int, latents: bool) -> int:
    """The evaluations of all pictures of a run, the teacher's among them."""
    known = recipe, stages, global_batch, latents
    plans = [*sample_plans(*known).values(), teacher_plan(*known)]
    return sum(plan.evaluations for plan in plans if plan is not None)
