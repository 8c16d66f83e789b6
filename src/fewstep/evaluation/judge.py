"""How good samples are: Fréchet distance and class accuracy in a classifier's features, distance to the teacher's own samples."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewstep.evaluation.features import Classifier
from fewstep.evaluation.metrics import Statistics, frechet_distance, rms
from fewstep.models.sampling import Samples

__all__ = ["Judge", "Statistics", "frechet_distance", "rms"]


@dataclass(frozen=True)
class Judge:
    """Measures samples against the data with a classifier."""

    classifier: Classifier
    data: Statistics

    @classmethod
    def of_data(cls, classifier: Classifier, images: Tensor) -> "Judge":
        """For data images (n, c, h, w) in [-1, 1]."""
        return cls(classifier, Statistics.of(classifier.features(images)))

    def row(self, samples: Samples, labels: Tensor, reference: Tensor | None, **known: Any) -> dict[str, Any]:
        """One line of a table: `known` columns, then what is measured. `reference` are the teacher's samples from the same noise."""
        features = self.classifier.features(samples.samples)
        return known | {
            "evaluations": samples.evaluations,
            "samples": len(labels),
            "class_accuracy": self.classifier.accuracy(features, labels),
            "frechet": frechet_distance(Statistics.of(features), self.data),
            "rms_to_teacher": None if reference is None else rms(samples.samples, reference),
            "milliseconds": 1000 * samples.seconds / len(labels),
        }
