"""The labels or prompts that the samples of an evaluation are drawn for: the classes in turn, the data's captions, or a file of prompts."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.data.prompts import read_prompts
from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.model import Model


@dataclass(frozen=True)
class SampleConditions:
    """Labels of samples, and their conditions; one model encodes and decodes for all, so that its other parts are in memory once."""

    model: Model
    names: tuple[str, ...]  # of the classes, or prompts: labels are indices of them
    captioned: Any = None  # data in whose order their captions are taken; None: the names in turn

    @property
    def classes(self) -> int:
        """How many classes the samples are of; 0 where they are of prompts."""
        return len(self.names) if self.model.info.condition == "class" else 0

    def labels(self, start: int, stop: int) -> Tensor:
        """int64 (stop - start,), of the samples from `start`: a function of their positions alone."""
        if self.captioned is None:
            return torch.arange(start, stop) % len(self.names)
        return self.captioned.batch(start, stop - start)[1]

    def prompts(self, labels: Tensor) -> list[str]:
        """The names of labels (n,)."""
        return [self.names[label] for label in labels.tolist()]

    def condition(self, labels: Tensor) -> Condition:
        """The condition (n, ...) of labels (n,): of classes the labels themselves."""
        return labels if self.classes else self.model.condition(prompts=self.prompts(labels))

    def pictures(self, samples: Tensor) -> Tensor:
        """Pictures (n, c, h, w), on the CPU, of a network's samples, pixels or latents."""
        return self.model.decode(samples).contiguous()


def sample_conditions(model: Model, data: Any, prompts: str | None) -> SampleConditions:
    """The conditions for samples of the model; `prompts` names a text file, one a line.

    Raises:
        InputError: prompts for a model of classes, a file of them that cannot be read, or a model that needs a picture besides.
    """
    family = model.family.name
    if model.family.takes_mask:
        raise InputError(f"the family {family} fills in pictures, and evaluate measures samples of classes or prompts alone")
    if len(model.info.shape) != 3:
        raise InputError(f"the family {family} makes videos, and the measures are of pictures; sample it with fewstep sample")
    if model.info.condition == "class":
        if prompts is not None:
            raise InputError("--prompts are for a model of text, and this one takes classes; leave them out")
        return SampleConditions(model, model.info.classes)
    names = tuple(data.classes) if prompts is None else read_prompts(prompts, "evaluate.prompts")
    found = SampleConditions(model, names, data if prompts is None else None)
    found.condition(torch.zeros(1, dtype=torch.int64))  # a family that needs more than a prompt fails before anything is sampled
    return found
