"""What a training is made of: its data, what each update draws, and the error of an example."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from fewstep.models.denoiser import Denoiser
from fewstep.training.draws import Draws


class Examples(Protocol):
    """Training data: an endless sequence of examples, any part of which can be asked for."""

    def batch(self, start: int, count: int) -> tuple[Any, ...]:
        """Images or latents float32 (count, c, h, w) and their conditions (count, ...) from position `start` on.

        A third member, where there is one, holds more of the batch by name, each (count, ...).
        """
        ...


Batch = dict[str, Any]  # "x" (b, ...), "condition" (labels or a tree), and what the stage draws, each (b, ...)


@dataclass(frozen=True)
class Stage:
    """One training: what is drawn, what the error of an example is, for how long."""

    name: str  # its folder: "stage-one", "steps-0004"
    updates: int
    learning_rate: float
    schedule: str
    draw: Callable[[Draws], Batch]  # times, weights and whatever is drawn for an example, all but the noise
    error: Callable[[Denoiser, Batch], Tensor]  # (b,)
    dropout: bool = False  # a student is trained without
    data: Examples | None = None  # what it is trained on, where that is not the run's data; then no noise is drawn
    validate: Callable[[Denoiser], float] | None = None  # the error of examples that are kept out
    validate_every: int = 100  # updates
    patience: int = 0  # validations in a row without a lower error that end the stage; 0: none do
