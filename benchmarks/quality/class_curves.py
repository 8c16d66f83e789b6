"""Curves of samples of classes over the guidance scales: Fréchet distance to the data against class negative log-likelihood, at equal likelihood compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.command import Row
from fewstep.data.loading import Data
from fewstep.evaluation.accumulator import data_statistics
from fewstep.evaluation.classifier import cache_folder, train_or_load_classifier
from fewstep.evaluation.features import Features
from fewstep.evaluation.metrics import Statistics, diversity, frechet_distance
from fewstep.evaluation.summary import advantage
from fewstep.models.model import Model

SAMPLES = 4000
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
FINER = (
    1.0,
    1.1,
    1.2,
    1.3,
    1.4,
    1.5,
    1.75,
    2.0,
    2.5,
    3.0,
    4.0,
    5.0,
)  # of the curve that others are compared with: lines between few points lie above it


@dataclass(frozen=True)
class Curves:
    """Measures class-balanced samples from one noise against the data, in the features of their classifier."""

    features: Features
    data: Statistics
    classes: int

    @classmethod
    def of_data(cls, data: Data, features: Features | None = None) -> "Curves":
        """Of data in memory, in given features, else in those of their classifier, which is trained once and kept."""
        features = features or train_or_load_classifier(data, cache_folder(data), quiet=True)
        return cls(
            features, data_statistics(features, data, cache_folder(data), quiet=True).moments.statistics(), len(data.classes)
        )

    def curve(self, model: Model, steps: int, scales: Sequence[Any], samples: int = SAMPLES) -> list[Row]:
        """A row for each guidance scale (or list of one a step): Fréchet distance to the data, class NLL in nats, diversity of one class."""
        labels = torch.arange(samples) % self.classes
        noise = torch.randn(samples, *model.info.shape, generator=torch.Generator().manual_seed(7))
        rows = []
        for scale in scales:
            drawn = model.sample_tensor(labels, steps=steps, guidance_scale=scale, noise=noise).samples
            features = self.features(drawn)
            logits = self.features.logits(features)
            assert logits is not None
            rows.append(
                {
                    "steps": steps, "guidance_scale": scale, "samples": samples, "frechet": frechet_distance(Statistics.of(features), self.data),
                    "class_nll": float(torch.nn.functional.cross_entropy(logits, labels)), "diversity": diversity(features, labels),
                }
            )  # fmt: skip
        return rows


def lower_by(curve: list[Row], other: list[Row]) -> float | None:
    """The share by which a curve's Fréchet distance is smaller than another's at equal class NLL, their mean (0.1: 10 % smaller); None where none lie beside."""
    gain = advantage(curve, other, "class_nll")
    return None if gain is None else -math.expm1(-gain)
