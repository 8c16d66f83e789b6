"""How much an evaluation measures: presets, a run's recipe, and what was asked for; and how many images at a time."""

from typing import Any

import torch

from fewstep.errors import InputError, nearest, shown
from fewstep.evaluation.configurations import EvaluatedModels
from fewstep.training.plan_of_stages import stages_of
from fewstep.training.recipe import make_recipe
from fewstep.training.settings import EvaluateSettings, Recipe

SCALES = (1.0, 2.0, 5.0)  # of `full`, where no recipe names guidance scales
LEAST = 100  # samples of `quick`
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"samples": 500, "guidance_scale": (1.0, 2.0), "baselines": ("ddim", "dpm++", "unipc"), "budgets": (8, 16), "reference_steps": 64},
    "full": {},  # the defaults of EvaluateSettings
}  # fmt: skip


def settings_of(models: EvaluatedModels, preset: str, asked: dict[str, Any]) -> EvaluateSettings:
    """What was asked for (not None), over [evaluate] of the run's recipe, over the preset's values.

    Raises:
        InputError: an unknown preset or key, or a value out of its bounds.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError(f"preset {shown(preset)} is not known; {nearest(str(preset)[:80], PRESETS)}")
    recipe, values = models.recipe, dict(PRESETS[preset])
    scales = values.get("guidance_scale", EvaluateSettings().guidance_scale if recipe else SCALES)
    low, high = models.guidance_range
    values["guidance_scale"] = tuple(s for s in scales if low <= s <= high) or (min(max(scales[0], low), high),)
    own = recipe.evaluate.model_dump(exclude_unset=True) if recipe else {}
    if recipe and preset == "quick" and models.students:
        values["samples"] = affordable_samples(EvaluateSettings(**values | own), recipe)
    given = {key: value for key, value in asked.items() if value is not None}
    return make_recipe({"evaluate": values | own | given}, "fewstep evaluate").evaluate


def affordable_samples(settings: EvaluateSettings, recipe: Recipe) -> int:
    """So many samples, `LEAST` to `settings.samples`, that an evaluation evaluates networks no more often than distilling did."""
    training = sum((calls + 1) * updates for _, updates, calls, _ in stages_of(recipe, distilling=True)) * recipe.train.batch_size
    each = 2 * settings.reference_steps + len(settings.baselines) * sum(settings.budgets)
    each += sum(settings.steps) + recipe.stage_two.ladder[0]
    return min(settings.samples, max(round(training) // (each * len(settings.guidance_scale)), LEAST))


def default_batch_size(device: torch.device, shape: tuple[int, ...]) -> int:
    """Images at a time, a power of 2 from 8 to 256: so many that their values (c, h, w) fill a CPU's caches, or keep a GPU busy."""
    values = 2**16 if device.type == "cpu" else 2**20
    fitting = max(values // torch.Size(shape).numel(), 1)
    return min(max(2 ** (fitting.bit_length() - 1), 8), 256)
