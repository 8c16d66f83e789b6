"""What the scripts on editing, inpainting and style transfer share: the models of a run, pictures to begin with, and what is measured."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import Model, open_model
from fewstep.data.loading import Data, open_data
from fewstep.errors import InputError
from fewstep.evaluation.classifier import cache_folder, train_or_load_classifier
from fewstep.evaluation.features import Features
from fewstep.evaluation.metrics import edge_correlation, psnr, rms
from fewstep.models.metadata import INFO, bundled
from fewstep.models.sampling import Samples
from fewstep.training.examples import open_examples
from fewstep.training.recipe import load_recipe

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
Row = dict[str, Any]


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

    def measures(self, drawn: Samples, wanted: Tensor) -> Row:
        """Nearness to the pictures, and the share of answers that the classifier takes for the class wanted (n,)."""
        x = drawn.samples.clamp(-1, 1)
        accuracy = self.classifier.class_accuracy(self.classifier(x), wanted)
        edges = float(edge_correlation(x, self.images).mean())
        return {"psnr": psnr(x, self.images), "edges": edges, "class_accuracy": accuracy, "evaluations": drawn.evaluations}

    def facts(self) -> Row:
        """What a result says of the pictures and of the classifier that judges."""
        known = {
            "images": len(self.labels),
            "seen_in_training": self.seen,
            "data": Path(str(self.data.description.get("path"))).name,
        }
        as_they_are = self.classifier.class_accuracy(self.classifier(self.images), self.labels)
        return known | {"classifier_accuracy": self.classifier.held_out_accuracy, "accuracy_on_the_pictures": as_they_are}


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


def students(run: Path) -> dict[int, Model]:
    """The students of a run by their number of steps."""
    return {int(file.parent.name[-4:]): open_model(file.parent) for file in sorted(run.glob(f"steps-[0-9]*/{INFO}"))}


def timed_rows(jobs: list[tuple[Row, Callable[[], Row]]], say: Callable[[str], None]) -> list[Row]:
    """Every job's row, what is known beforehand and then what was measured; a line is said of each."""
    rows = []
    for known, measure in jobs:
        rows.append(known | measure())
        say("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in rows[-1].items()))
    return rows


def distance(drawn: Samples, reference: Samples) -> float:
    """Root-mean-square distance of two answers, as they are shown."""
    return rms(drawn.pictures().clamp(-1, 1), reference.pictures().clamp(-1, 1))


def arguments(words: list[str] | None, text: str | None, images: int, *more: tuple[str, dict[str, Any]]) -> argparse.Namespace:
    """What all three scripts take from the command line, and `more` of their own."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run folder of fewstep distill")
    parser.add_argument("--teacher", help="the teacher's folder, in place of the recipe's")
    parser.add_argument("--data", help="in place of the recipe's; pictures are of test.npz where that lies beside it")
    parser.add_argument("--images", type=int, default=images, help="to try the models on")
    for name, settings in more:
        parser.add_argument(name, **settings)
    return parser.parse_args(words)
