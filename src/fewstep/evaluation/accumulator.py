"""What is kept of a configuration's samples while they stream by: sums, a small sample of features, and a few images to show."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fewstep.evaluation.metrics import (
    Entropies,
    Moments,
    Reservoir,
    Statistics,
    bootstrap,
    diversity,
    frechet_distance,
    kid,
    precision_recall,
    saturation,
    sharpness,
)

SHOWN = 8  # images of each configuration that the report shows
BIASED_BELOW = 10_000  # samples: with fewer, a Fréchet distance is biased upwards
SUMS = ("images", "seconds", "right", "labelled", "square", "clipped_square", "values", "sharpness", "saturation", "clip", "scored")


@dataclass
class Tally:
    """Running measures of samples. Parts that several processes saw are merged into what one would have seen."""

    classes: int  # of the model, 0 of text: features with as many logits tell whether an image is of its class
    moments: Moments
    reservoir: Reservoir
    entropies: Entropies | None = None
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))
    shown: Tensor | None = None  # (up to SHOWN, c, h, w)

    @classmethod
    def empty(cls, dimension: int, classes: int) -> "Tally":
        """Before the first sample."""
        return cls(classes, Moments.empty(dimension), Reservoir.empty(dimension))

    def add(
        self,
        features: Any,
        images: Tensor,
        labels: Tensor,
        start: int,
        seconds: float,
        reference: Tensor | None = None,
        clip_scores: Tensor | None = None,
    ) -> None:
        """Take in images (n, c, h, w), of which the first is sample `start`; `reference` is the teacher's of the same noise.

        `clip_scores` (n,) are those of the images and their prompts.
        """
        rows = features(images)
        self.moments.add(rows)
        self.reservoir.add(rows, labels, start=start)
        n, sums = len(images), self.sums
        if (logits := features.logits(rows)) is not None:
            self.entropies = (self.entropies or Entropies.empty(logits.shape[1])).add(logits)
            if logits.shape[1] == self.classes:
                sums["right"] += int((logits.argmax(1).cpu() == labels.cpu()).sum())
                sums["labelled"] += n
        if reference is not None:
            sums["square"] += float((images.double() - reference.double()).square().sum())
            sums["clipped_square"] += float((images.double().clamp(-1, 1) - reference.double().clamp(-1, 1)).square().sum())
            sums["values"] += images.numel()
        if clip_scores is not None:
            sums["clip"] += float(clip_scores.sum())
            sums["scored"] += n
        sums["images"] += n
        sums["seconds"] += seconds
        sums["sharpness"] += float(sharpness(images).sum())
        sums["saturation"] += float(saturation(images).sum())
        if start < SHOWN:
            self.shown = torch.cat([*([] if self.shown is None else [self.shown]), images[: SHOWN - start].float()])

    def merge(self, other: "Tally") -> "Tally":
        """Take in what another process has seen, in place; itself."""
        self.moments.merge(other.moments)
        self.reservoir.merge(other.reservoir)
        if other.entropies is not None:
            self.entropies = other.entropies if self.entropies is None else self.entropies.merge(other.entropies)
        self.sums = {key: value + other.sums[key] for key, value in self.sums.items()}
        self.shown = other.shown if self.shown is None else self.shown
        return self

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint: tensors by name."""
        parts: dict[str, Any] = {"moments": self.moments, "reservoir": self.reservoir, "entropies": self.entropies}
        tensors = {f"{name}/{key}": t for name, part in parts.items() if part is not None for key, t in part.state().items()}
        tensors["sums"] = torch.tensor([self.sums[key] for key in SUMS], dtype=torch.float64)
        return tensors if self.shown is None else tensors | {"shown": self.shown}

    @classmethod
    def of_state(cls, tensors: dict[str, Tensor], classes: int) -> "Tally":
        """From what `state` gave."""

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}

        entropies = Entropies.of_state(part("entropies")) if part("entropies") else None
        sums: dict[str, float] = dict(zip(SUMS, tensors["sums"].tolist(), strict=True))
        moments, reservoir = Moments.of_state(part("moments")), Reservoir.of_state(part("reservoir"))
        return cls(classes, moments, reservoir, entropies, sums, tensors.get("shown"))

    def measures(self, reference: Any, repeats: int = 0) -> dict[str, Any]:
        """Every measure of the samples against the data's `reference`; None for what does not apply."""
        sums, n, rows = self.sums, self.sums["images"], self.reservoir.features
        precision, recall = precision_recall(rows, reference.features)
        rms, clipped = (math.sqrt(sums[key] / sums["values"]) if sums["values"] else None for key in ("square", "clipped_square"))
        measured = {
            "samples": int(n),
            "fid_biased": n < BIASED_BELOW,
            "frechet": frechet_distance(self.moments.statistics(), reference.statistics),
            "frechet_low": None,
            "frechet_high": None,
            "inception_score": None if self.entropies is None else self.entropies.score(),
            "kid": kid(rows, reference.features),
            "precision": precision,
            "recall": recall,
            "class_accuracy": sums["right"] / sums["labelled"] if sums["labelled"] else None,
            "rms_to_teacher": rms,
            "psnr_to_teacher": 20 * math.log10(2 / clipped) if clipped else None,
            "sharpness": ratio(sums["sharpness"] / n, reference.sharpness),
            "saturation": ratio(sums["saturation"] / n, reference.saturation),
            "diversity": diversity(rows, self.reservoir.labels),
            "clip_score": sums["clip"] / sums["scored"] if sums["scored"] else None,
            "seconds_per_image": sums["seconds"] / n,
        }
        if repeats:
            distance = distance_to(reference.statistics)
            ends, own, narrower = bootstrap(distance, rows, repeats=repeats), distance(rows), math.sqrt(len(rows) / n)
            low, high = (
                measured["frechet"] + narrower * (end - own) for end in ends
            )  # of fewer rows, moved to that of all samples
            measured |= {"frechet_low": low, "frechet_high": high}
        return measured


def distance_to(data: Statistics) -> Callable[[Tensor], float]:
    """The Fréchet distance of features (n, d) from the data's statistics, as a function of the features."""
    return lambda rows: frechet_distance(Statistics.of(rows), data)


def ratio(value: float | None, to: float | None) -> float | None:
    """value / to; None where either is not known or `to` is 0."""
    return value / to if value is not None and to else None
