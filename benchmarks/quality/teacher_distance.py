"""Students of the bundled digits teacher, distilled by a recipe, and their distance to the teacher's own samples from the same noise."""

import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.command import Row, progress
from fewstep import open_model
from fewstep.data.loading import Data
from fewstep.evaluation.classifier import cache_folder, train_or_load_classifier
from fewstep.evaluation.metrics import Statistics, frechet_distance, rms
from fewstep.method import samplers
from fewstep.method.guidance import weight_of
from fewstep.models.denoiser import Denoiser
from fewstep.models.model import Model
from fewstep.training.distill import distill_model
from fewstep.training.recipe import Recipe, load_recipe
from fewstep.training.run_folder import open_run
from fewstep.training.trainer import Trainer

SCALES = (1.0, 2.0, 5.0)
REFERENCE_STEPS = 64
SAMPLES = 4000


def digits_recipe(times: float = 1.0, changes: dict[str, Any] | None = None) -> Recipe:
    """The quickstart's recipe, with keys changed, then with so many times its updates and its paths."""
    changed = updates_times(times, load_recipe("digits", changes))
    return load_recipe("digits", (changes or {}) | changed | {"train.log_with": "none"})


def updates_times(times: float, recipe: Recipe) -> dict[str, int]:
    """Changes to a recipe: so many times its updates and its paths."""
    counts = {
        "stage_one.updates": recipe.stage_one.updates,
        "stage_two.updates": recipe.stage_two.updates,
        "stage_two.last_updates": recipe.stage_two.last_updates,
        "paths.count": recipe.paths.count,
        "paths.updates": recipe.paths.updates,
    }
    return {key: round(times * value) for key, value in counts.items()}


def students_of(recipe: Recipe, teacher: Model, data: Data) -> dict[int, Denoiser]:
    """The students of the recipe's ladder, but for its first, as denoisers."""
    return {steps: model.denoiser for steps, model in distilled_models(recipe, teacher, data).items()}


def distilled_models(recipe: Recipe, teacher: Model, data: Data) -> dict[int, Model]:
    """The students of the recipe's ladder, but for its first."""
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder) / "run", recipe)
        with closing(Trainer(run, data, recipe.train)) as trainer:
            distill_model(recipe, teacher, data, trainer)
        return {steps: open_model(run / f"steps-{steps:04d}") for steps in recipe.stage_two.ladder[1:]}


def starts(teacher: Model, data: Data, samples: int) -> tuple[Tensor, Tensor]:
    """The labels and the noise that samples begin with: class-balanced, the same for all."""
    noise = torch.randn(samples, *teacher.info.shape, generator=torch.Generator().manual_seed(5))
    return torch.arange(samples) % len(data.classes), noise


@dataclass(frozen=True)
class References:
    """The teacher's samples of `REFERENCE_STEPS` steps at each of `SCALES`, class-balanced, the noise that they begin with, and the features compared."""

    noise: Tensor
    labels: Tensor
    samples: dict[float, Tensor]
    features: Any

    @classmethod
    def made(cls, teacher: Model, data: Data, samples: int = SAMPLES) -> "References":
        (labels, noise), drawn = starts(teacher, data, samples), {}
        for scale in SCALES:
            progress(f"the teacher's samples at scale {scale:g}")
            drawn[scale] = teacher.sample_tensor(labels, steps=REFERENCE_STEPS, guidance_scale=scale, noise=noise).samples
        return cls(noise, labels, drawn, train_or_load_classifier(data, cache_folder(data), quiet=True))

    @torch.no_grad()
    def drawn_by(self, student: Denoiser, steps: int, scale: float) -> Tensor:
        """A student's samples from the same noise."""
        drawn = []
        for z, label in zip(self.noise.split(250), self.labels.split(250), strict=True):
            w = torch.full((len(z),), weight_of(scale), dtype=torch.float64)
            drawn.append(samplers.deterministic(student, z, steps, label, w, student.process))
        return torch.cat(drawn)

    def measured(self, students: dict[int, Denoiser]) -> list[Row]:
        """A row for each number of steps and guidance scale: Fréchet distance in a digit classifier's features, and root mean square distance."""
        rows = []
        for scale, reference in self.samples.items():
            statistics = Statistics.of(self.features(reference))
            for steps, student in students.items():
                found = self.drawn_by(student, steps, scale)
                distance = frechet_distance(Statistics.of(self.features(found)), statistics)
                rows.append({"steps": steps, "guidance_scale": scale, "rms": rms(found, reference), "frechet": distance})
        return rows
