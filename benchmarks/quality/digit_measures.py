"""How good samples of digits are: Fréchet distance and class accuracy in a digit classifier's features, distance to the teacher's samples."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewstep.data.loading import Data
from fewstep.evaluation.classifier import cache_folder, train_or_load_classifier
from fewstep.evaluation.features import Features
from fewstep.evaluation.metrics import Statistics, frechet_distance, rms
from fewstep.models.model import Samples


@dataclass(frozen=True)
class DigitMeasures:
    """Measures samples against the data with a classifier of them."""

    features: Features
    data: Statistics

    @classmethod
    def of_data(cls, data: Data) -> "DigitMeasures":
        """Of data in memory, by their classifier, which is trained once and kept."""
        features = train_or_load_classifier(data, cache_folder(data), quiet=True)
        return cls(features, Statistics.of(features(data.images().float() / 127.5 - 1)))

    def row(self, samples: Samples, labels: Tensor, reference: Tensor | None, **known: Any) -> dict[str, Any]:
        """One line of a table: `known` columns, then the measures. `reference` are the teacher's samples from the same noise."""
        features = self.features(samples.samples)
        return known | {
            "evaluations": samples.evaluations,
            "samples": len(labels),
            "class_accuracy": self.features.class_accuracy(features, labels),
            "frechet": frechet_distance(Statistics.of(features), self.data),
            "rms_to_teacher": None if reference is None else rms(samples.samples, reference),
            "milliseconds": 1000 * samples.seconds / len(labels),
        }
