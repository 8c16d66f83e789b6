"""What the scripts on editing, inpainting and style transfer share: the models of a run, pictures to try them on, and the measures.

    python -m benchmarks.uses.subject --split runs/digits-split

splits the handwritten digits, so that what was trained on one part can be measured on the other: train.npz, and test.npz of a fixed random
300 of the 1,797 images. The same people wrote both parts.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.command import Row, parser_of, progress, run_main
from fewstep import Model, open_model
from fewstep.data.loading import Data, open_data
from fewstep.errors import InputError
from fewstep.evaluation.classifier import cache_folder, train_or_load_classifier
from fewstep.evaluation.features import Features
from fewstep.evaluation.metrics import psnr, rms
from fewstep.models.metadata import INFO, bundled
from fewstep.models.sampling import Samples
from fewstep.training.examples import open_examples
from fewstep.training.recipe import load_recipe

HELD_OUT = 300  # of the digits
SHOWN = 8  # pictures in a figure


@dataclass(frozen=True)
class Subject:
    """A run's teacher and data, and the pictures (n, c, size, size) in [-1, 1] with labels (n,) that its models are tried on."""

    run: Path
    teacher: Model
    data: Data  # that the classifier is trained on
    images: Tensor
    labels: Tensor
    classifier: Features
    seen: bool  # whether the pictures are among those trained on

    @property
    def others(self) -> Tensor:
        """Another class for each picture, int64 (n,): all pairs of classes come up."""
        classes, n = len(self.data.classes), len(self.labels)
        return (self.labels + 1 + torch.arange(n) % (classes - 1)) % classes

    @property
    def titles(self) -> list[str]:
        """What each picture is, and what it is to become, on two lines."""
        names = self.data.classes
        return [f"{names[a]} to\n{names[b]}" for a, b in zip(self.labels.tolist(), self.others.tolist(), strict=True)]

    def measures(self, drawn: Samples, target: Tensor) -> Row:
        """Nearness to the pictures, and the share of answers that the classifier takes for the target classes (n,)."""
        x = drawn.samples.clamp(-1, 1)
        accuracy = self.classifier.class_accuracy(self.classifier(x), target)
        edges = float(edge_correlation(x, self.images).mean())
        return {"psnr": psnr(x, self.images), "edges": edges, "class_accuracy": accuracy, "evaluations": drawn.evaluations}

    def facts(self) -> Row:
        """What a result keeps of the pictures and of the classifier that judges."""
        accuracy = self.classifier.class_accuracy(self.classifier(self.images), self.labels)
        return {
            "images": len(self.labels), "seen_in_training": self.seen, "data": Path(str(self.data.description.get("path"))).name,
            "classifier_accuracy": self.classifier.held_out_accuracy, "accuracy_on_the_pictures": accuracy,
        }  # fmt: skip


def edge_correlation(images: Tensor, reference: Tensor) -> Tensor:
    """How much of the structure is the same: float64 (n,), 1 where edges lie alike, 0 where unlike or where there are none.

    The correlation over pixels of how steep the grey values of images (n, c, h, w) and of their references are.
    """
    steep = [steepness(x) for x in (images, reference)]
    one, other = (x - x.mean(1, keepdim=True) for x in steep)
    length = one.norm(dim=1) * other.norm(dim=1)
    return torch.where(length > 1e-9, (one * other).sum(1) / length.clamp(min=1e-9), 0.0)


def steepness(images: Tensor) -> Tensor:
    """Length of the gradient of the grey values, clipped to [-1, 1], at every pixel: float64 (n, h * w)."""
    grey = functional.pad(images.double().clamp(-1, 1).mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    down, right = grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1], grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]
    return torch.hypot(down, right).flatten(1)


def subject(run: Path, images: int, teacher: str | None = None, data: str | None = None) -> Subject:
    """The teacher and the data of a run, or others in their place; the pictures are of test.npz where that lies beside the data.

    Raises:
        InputError: no run, or data that do not fit.
    """
    recipe = load_recipe(run / "recipe.toml", {"data.path": data, "data.name": None} if data else None)
    model = open_model(teacher or recipe.teacher.path or bundled("digits-teacher"))
    train = open_examples(recipe, model)
    if not isinstance(train, Data):
        raise InputError("the data are not in memory; leave data.streaming = false")
    place = Path(recipe.data.path or "")
    held_out = (place if place.is_dir() else place.parent) / "test.npz"
    known = {"size": train.size, "channels": train.channels, "classes": train.classes}
    pictures = open_data(path=str(held_out), **known) if recipe.data.path and held_out.is_file() else train
    assert isinstance(pictures, Data)
    chosen = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))[:images]
    x = pictures.images()[chosen].float() / 127.5 - 1
    classifier = train_or_load_classifier(train, cache_folder(train), quiet=True)
    return Subject(run, model, train, x, pictures.labels[chosen], classifier, pictures is train)


def models_of(run: Path, name: str = "steps") -> dict[int, Model]:
    """The students of a run, or with `name` "encoder" its encoders, by their number of steps."""
    return {int(file.parent.name[-4:]): open_model(file.parent) for file in sorted(run.glob(f"{name}-[0-9]*/{INFO}"))}


def measured(jobs: list[tuple[Row, Callable[[], Row]]]) -> list[Row]:
    """Every job's row, what is known beforehand and then what was measured; each is shown."""
    rows = []
    for known, measure in jobs:
        rows.append(known | measure())
        progress(
            "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in rows[-1].items())
        )
    return rows


def distance(drawn: Samples, reference: Samples) -> float:
    """Root-mean-square distance of two answers, as they are shown."""
    return rms(drawn.pictures().clamp(-1, 1), reference.pictures().clamp(-1, 1))


def unchanged(x: Tensor) -> Samples:
    """Pictures (n, c, h, w) as if they had been drawn, by no evaluation."""
    return Samples(x, x, 0, "", 0, 0.0)


def run_parser(text: str | None, result: str, images: int) -> argparse.ArgumentParser:
    """A parser of what all three scripts take."""
    parser = parser_of(text, result)
    parser.add_argument("--run", type=Path, required=True, help="run folder of fewstep distill")
    parser.add_argument("--teacher", help="the teacher's folder, in place of the recipe's")
    parser.add_argument("--data", help="in place of the recipe's; pictures are of test.npz where that lies beside it")
    parser.add_argument("--images", type=int, default=images, help="to try the models on")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    return parser


def split(out: Path) -> dict[str, int]:
    """Write train.npz and test.npz of the digits; how many images each has."""
    data: Any = open_data(name="digits")
    order = np.random.default_rng(0).permutation(len(data))
    out.mkdir(parents=True, exist_ok=True)
    parts = {"test": order[:HELD_OUT], "train": order[HELD_OUT:]}
    for name, rows in parts.items():
        np.savez_compressed(out / f"{name}.npz", images=data.pixels.numpy()[rows, 0], labels=data.labels.numpy()[rows])
    return {name: len(rows) for name, rows in parts.items()}


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--split", type=Path, required=True, help="folder to write")
    print(split(parser.parse_args(words).split))


if __name__ == "__main__":
    run_main(main)
