"""The stages of a run in their order, and how much of it is left."""

from fewstep.method.stage_two import rungs
from fewstep.training.recipe import Recipe

Planned = tuple[str, int, float, bool]  # name, updates, evaluations of the teacher for an example, whether it trains


def stages_of(recipe: Recipe, distilling: bool) -> list[tuple[str, int, float, bool]]:
    """(name, updates, evaluations of the teacher for an example, whether it trains) of each stage of `distill`, or else of `teach`."""
    if not distilling:
        return [("teacher", recipe.teach.updates, 0, True)]
    two, paths, encoder = recipe.stage_two, recipe.paths, recipe.encoder
    stages: list[tuple[str, int, float, bool]] = [("stage-one", recipe.stage_one.updates, 2, True)]
    for n, k in rungs(two.ladder):
        by_paths, updates = n == paths.rung, two.last_updates if n <= 2 else two.updates
        if not by_paths or paths.after_rung:
            stages.append((f"ladder-{n:04d}" if by_paths else f"steps-{n:04d}", updates, k, True))
        if by_paths:
            stages.append((f"paths-{n:04d}", 0, paths.solver_steps * (2 - share_without_guidance(recipe)), False))
            stages.append((f"steps-{n:04d}", paths.updates, 0, True))
    return stages + [(f"encoder-{n:04d}", encoder.updates, k, True) for n, k in (rungs(encoder.ladder) if encoder.ladder else ())]


def share_without_guidance(recipe: Recipe) -> float:
    """The share of a pool's paths at guidance scale 1, which take one evaluation a step, not two."""
    low, high = recipe.student.guidance_scale
    return 1.0 if high == 1 else recipe.paths.low_share if low == 1 else 0.0


def seconds_left(stages: list[Planned], name: str, left: float, an_update: float) -> float | None:
    """Seconds until the run's end, in a stage with `left` seconds to go that takes `an_update` for each; None of a stage that is not planned.

    An update of a later stage takes as much longer as it has more evaluations.
    """
    names = [stage[0] for stage in stages]
    if name not in names:
        return None
    here = names.index(name)
    evaluation = an_update / (stages[here][2] + 1)
    return left + sum(updates * (calls + 1) * evaluation for _, updates, calls, _ in stages[here + 1 :])
