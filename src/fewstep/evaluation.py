"""How good samples are: Fréchet distance and class accuracy in a classifier's features, distance to the teacher's own samples."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.features import Classifier
from fewstep.model import Samples


@dataclass(frozen=True)
class Statistics:
    """Mean (d,) and covariance (d, d) of features, float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Statistics":
        """Of features (n, d), n at least 2."""
        return cls(features.mean(0), features.T.cov())


def frechet_distance(one: Statistics, other: Statistics) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)): the squared 2-Wasserstein distance of two Gaussians (1706.08500, eq. 6).

    From eigenvalues of a symmetric product, so that a singular covariance needs no care.
    """
    values, vectors = torch.linalg.eigh(one.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0).sqrt().sum()
    shift = (one.mean - other.mean).square().sum()
    return float(shift + one.covariance.trace() + other.covariance.trace() - 2 * mixed)


def rms(samples: Tensor, reference: Tensor) -> float:
    """Root-mean-square distance of samples (n, c, h, w) from a reference from the same noise, in units of [-1, 1]."""
    return float((samples.double() - reference.double()).square().mean().sqrt())


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
