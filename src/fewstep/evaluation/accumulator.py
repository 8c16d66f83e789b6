"""What is kept of pictures while they stream by, samples or data: sums, a small sample of features, and a few pictures to show."""

import hashlib
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.data.datasets import Data
from fewstep.errors import InputError
from fewstep.evaluation import metrics
from fewstep.evaluation.classifier import hash_of
from fewstep.evaluation.extrapolation import extrapolated_frechet
from fewstep.evaluation.features import Features
from fewstep.evaluation.statistics import Moments, Reservoir, Statistics
from fewstep.hashed import read_tensors, write_tensors
from fewstep.progress import LiveLine, clock

SHOWN = 8  # pictures of each configuration that the report shows
BIASED_BELOW = 10_000  # samples: with fewer, a Fréchet distance is biased upwards
SUMS = (
    "images", "seconds", "right", "labelled", "square", "clipped_square", "values", "sharpness", "saturation", "clip", "scored",
    "entropy", "judged", "nll", "score", "score_square", "rated",
)  # fmt: skip
FORMAT = 5  # of the file of the data's statistics


@dataclass
class Accumulator:
    """Running measures of pictures. Parts that several processes saw are merged into what one would have seen."""

    classes: int  # of the model, 0 of text: features with as many logits say whether a picture is of its class
    moments: Moments
    reservoir: Reservoir
    probabilities: Tensor | None = None  # (k,) float64, the sum of those of the classes that the features know
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))
    shown: Tensor | None = None  # (up to SHOWN, c, h, w)

    @classmethod
    def empty(cls, dimension: int, classes: int) -> "Accumulator":
        """Before the first picture."""
        return cls(classes, Moments.empty(dimension), Reservoir.empty(dimension))

    def add(
        self, features: Features, images: Tensor, labels: Tensor, start: int, seconds: float = 0.0,
        teacher: Tensor | None = None, clip_scores: Tensor | None = None, scores: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Take in images (n, c, h, w) with labels (n,), of which the first has the position `start` in the whole sequence.

        `seconds` is what the network took for them, `teacher` the teacher's pictures from the same noise, `clip_scores` (n,) those
        of the images and their prompts, `scores` (n,) those of a user's own function.
        """
        rows = features(images)
        self.moments.add(rows)
        self.reservoir.add(rows, labels, start)
        n, found = len(images), {"images": len(images), "seconds": seconds}
        found |= {"sharpness": metrics.sharpness(images).sum(), "saturation": metrics.saturation(images).sum()}
        if (logits := features.logits(rows)) is not None:
            p = logits.softmax(1)
            self.probabilities = p.sum(0) if self.probabilities is None else self.probabilities + p.sum(0)
            found |= {"entropy": torch.special.entr(p).sum(), "judged": n}
            if logits.shape[1] == self.classes:
                found |= {"right": (logits.argmax(1).cpu() == labels.cpu()).sum(), "labelled": n}
                found["nll"] = torch.nn.functional.cross_entropy(logits, labels.to(logits.device), reduction="sum")
        if teacher is not None:
            x, y = images.double(), teacher.double()
            found |= {"square": (x - y).square().sum(), "values": images.numel()}
            found["clipped_square"] = (x.clamp(-1, 1) - y.clamp(-1, 1)).square().sum()
        if clip_scores is not None:
            found |= {"clip": clip_scores.sum(), "scored": n}
        if scores is not None:
            found |= {"score": scores.sum(), "score_square": scores.square().sum(), "rated": n}
        for key, value in found.items():
            self.sums[key] += float(value)
        if start < SHOWN:
            self.shown = torch.cat([*([] if self.shown is None else [self.shown]), images[: SHOWN - start].float()])

    def merge(self, other: "Accumulator") -> "Accumulator":
        """Take in what another process has seen, in place; itself."""
        self.moments.merge(other.moments)
        self.reservoir.merge(other.reservoir)
        if other.probabilities is not None:
            self.probabilities = other.probabilities + (0 if self.probabilities is None else self.probabilities)
        self.sums = {key: value + other.sums[key] for key, value in self.sums.items()}
        self.shown = other.shown if self.shown is None else self.shown
        return self

    def state(self) -> dict[str, Tensor]:
        """For a file: tensors by name."""
        parts = {"moments": self.moments, "reservoir": self.reservoir}
        tensors = {f"{name}/{key}": value for name, part in parts.items() for key, value in part.state().items()}
        tensors["sums"] = torch.tensor([self.sums[key] for key in SUMS], dtype=torch.float64)
        known = {"shown": self.shown, "probabilities": self.probabilities}
        return tensors | {key: value for key, value in known.items() if value is not None}

    @classmethod
    def of_state(cls, tensors: dict[str, Tensor], classes: int) -> "Accumulator":
        """From what `state` gave."""

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)}

        sums: dict[str, float] = dict(zip(SUMS, tensors["sums"].tolist(), strict=True))
        moments, reservoir = Moments.of_state(part("moments/")), Reservoir.of_state(part("reservoir/"))
        return cls(classes, moments, reservoir, tensors.get("probabilities"), sums, tensors.get("shown"))

    def mean(self, key: str, of: str = "images") -> float | None:
        """The mean of one of the sums over the pictures that it was taken of; None where there are none."""
        return ratio(self.sums[key], self.sums[of])

    def measures(self, data: "Accumulator", repeats: int = 0, extrapolate: bool = False) -> dict[str, Any]:
        """Every measure of the samples against the data; None for what does not apply.

        `seconds_per_image` is the time in the network, without text encoders and without decoding latents. `repeats` are those of
        the bootstrap of the Fréchet distance, `extrapolate` asks for that of infinitely many samples.

        Raises:
            InputError: fewer samples than extrapolating takes.
        """
        n, rows, others, statistics = (
            int(self.sums["images"]),
            self.reservoir.features,
            data.reservoir.features,
            data.moments.statistics(),
        )
        precision, recall = metrics.precision_recall(rows, others)
        square, clipped = self.mean("square", "values"), self.mean("clipped_square", "values")
        frechet, p = metrics.frechet_distance(self.moments.statistics(), statistics), self.probabilities
        low, high = interval(rows, statistics, frechet, n, repeats) if repeats else (None, None)
        infinite = extrapolated_frechet(rows, self.reservoir.labels, statistics) if extrapolate else (None, None)
        score, score_low, score_high = self.score()
        return {
            "samples": n, "fid_biased": n < BIASED_BELOW, "frechet": frechet, "frechet_low": low, "frechet_high": high,
            "frechet_extrapolated": infinite[0], "extrapolated_from": infinite[1], "mind": metrics.mind(rows, others),
            "inception_score": None if p is None else metrics.inception_score(p, self.sums["entropy"], int(self.sums["judged"])),
            "kid": metrics.kid(rows, others), "precision": precision, "recall": recall,
            "class_accuracy": self.mean("right", "labelled"), "class_nll": self.mean("nll", "labelled"),
            "rms_to_teacher": None if square is None else math.sqrt(square),
            "psnr_to_teacher": 10 * math.log10(4 / clipped) if clipped else None,
            "sharpness": ratio(self.mean("sharpness"), data.mean("sharpness")),
            "saturation": ratio(self.mean("saturation"), data.mean("saturation")),
            "diversity": metrics.diversity(rows, self.reservoir.labels),
            "clip_score": self.mean("clip", "scored"), "score": score, "score_low": score_low, "score_high": score_high,
            "seconds_per_image": self.mean("seconds"),
        }  # fmt: skip

    def score(self) -> tuple[float | None, float | None, float | None]:
        """The mean of a user's own score, and the ends of its 95 % interval (1.96 standard errors); None where there is none."""
        mean, n = self.mean("score", "rated"), self.sums["rated"]
        if mean is None:
            return None, None, None
        variance = max(self.sums["score_square"] / n - mean**2, 0.0) * n / max(n - 1, 1)
        wide = 1.96 * math.sqrt(variance / n)
        return mean, mean - wide, mean + wide


def interval(rows: Tensor, data: Statistics, frechet: float, n: int, repeats: int) -> tuple[float, float]:
    """The bootstrap interval (low, high) of `frechet`, that of `n` samples, from the feature rows (m, d) kept of them."""

    def distance(rows: Tensor) -> float:
        return metrics.frechet_distance(Statistics.of(rows), data)

    own, narrower = distance(rows), math.sqrt(len(rows) / n)
    low, high = (frechet + narrower * (end - own) for end in metrics.bootstrap(distance, rows, repeats))
    return low, high


def ratio(value: float | None, to: float | None) -> float | None:
    """value / to; None where either is not known or `to` is 0."""
    return value / to if value is not None and to else None


def data_statistics(features: Features, data: Any, cache: Path, batch_size: int = 256, quiet: bool = False) -> Accumulator:
    """The data as the measures see them, from a file in `cache`, or computed now, a batch at a time, and put there.

    Streamed data are read for one epoch, and nothing is kept of them, since their content has no hash.

    Raises:
        InputError: fewer than two images, images that do not fit the features, or a cache that cannot be written.
    """
    if not isinstance(data, Data):
        return accumulated(features, data, batch_size, quiet)
    about = [FORMAT, hash_of(data), data.size, data.channels, features.name, features.fingerprint]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    path = cache / f"reference-{data.size}-{key}.safetensors"
    try:
        return Accumulator.of_state(read_tensors(path, "it is made again")[0], len(data.classes))
    except (ValueError, KeyError):  # not there, or not whole
        found = accumulated(features, data, batch_size, quiet)
        write_tensors(path, found.state())
        return found


def accumulated(features: Features, data: Any, batch_size: int, quiet: bool) -> Accumulator:
    """The accumulator of all images of the data.

    Raises:
        InputError: a stream that does not say how long it is, or fewer than two images.
    """
    total = len(data) if isinstance(data, Data) else data.description.get("images")
    if total is None:
        raise InputError("these streamed data do not say how many images they have; set data.streaming = false")
    if total < 2:
        raise InputError(f"{total} images have no covariance; at least 2 are needed: give more data")
    found, line, began = Accumulator.empty(features.dimension, len(data.classes)), LiveLine(quiet=quiet), time.monotonic()
    for start in range(0, total, batch_size):
        stop = min(start + batch_size, total)
        if isinstance(data, Data):  # not mirrored
            images, labels = data.images()[start:stop].float() / 127.5 - 1, data.labels[start:stop]
        else:
            images, labels = data.batch(start, stop - start)
        found.add(features, images, labels, start)
        left = clock((time.monotonic() - began) * (total - stop) / stop)
        line.show(f"features of the data: {stop:,} of {total:,}, {left} left", final=stop == total)
    return found
