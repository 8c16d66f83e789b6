"""The negative prompts that stage one draws from: what the teacher is guided away from, and what its student is told of it."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewstep.condition import Condition, expand, take, to
from fewstep.negative_embedding import LEAF, encodings, told_of
from fewstep.prompts import read_prompts
from fewstep.recipe import Recipe

if TYPE_CHECKING:
    from fewstep.model import Model


@dataclass(frozen=True)
class Negatives:
    """Rows of encoded prompts, the first being that of none."""

    encoded: Condition  # (1 + n, ...), for the teacher's second branch
    told: Tensor  # (1 + n, features), for the student; zero for none
    share: float  # of the examples that are drawn one

    @classmethod
    def of(cls, recipe: Recipe, teacher: "Model") -> "Negatives | None":
        """Those of a recipe, encoded by the teacher's own encoders; None where it asks for none.

        Raises:
            InputError: a teacher without prompts, or no readable list.
        """
        if not recipe.student.negative_prompts:
            return None
        encoded = encodings(teacher.family, teacher.info, read_prompts(str(recipe.data.negative_prompts), "data.negative_prompts"))
        return cls(encoded, told_of(encoded), recipe.student.negative_share)

    def to(self, device: torch.device) -> "Negatives":
        """The same rows on a device."""
        return replace(self, encoded=to(self.encoded, device), told=self.told.to(device))

    def draw(self, which: Tensor, place: Tensor) -> Tensor:
        """A row for each example, int64 (b,), from two sets of uniform numbers: a prompt of the list for a share of them, else none."""
        drawn = 1 + (place * (len(self.told) - 1)).long().clamp(max=len(self.told) - 2)
        return torch.where(which < self.share, drawn, 0)

    def null(self, index: Tensor) -> Any:
        """The teacher's null condition, a function of a condition of as many examples as there are rows (b,) in the index."""
        index = index.to(self.told.device)
        return lambda condition: expand(take(self.encoded, index), condition)

    def tell(self, condition: Condition, index: Tensor) -> Condition:
        """The student's condition: with the summaries of the rows."""
        assert isinstance(condition, dict)
        return {**condition, LEAF: self.told[index.to(self.told.device)]}
