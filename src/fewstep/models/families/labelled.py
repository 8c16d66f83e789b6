"""What families of class labels share: a condition is labels (b,), and the label after the last class stands for none."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.models.families.stock import Stock, index_of
from fewstep.models.metadata import Info


class Labelled(Stock):
    """The part of `Family` that follows from labels. The network's config says `num_class_embeds = classes + 1`."""

    condition = "class"

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a network that takes no class."""
        if not config.get("num_class_embeds"):
            raise InputError(f"{folder} takes no class (num_class_embeds is not set), so it cannot be guided; name another teacher")

    def classes(self, folder: Path, config: dict[str, Any]) -> tuple[str, ...]:
        """Their names, from `id2label` in model_index.json where it is, else their numbers."""
        names = index_of(folder).get("id2label") or {}
        return tuple(str(names.get(str(i), i)) for i in range(config["num_class_embeds"] - 1))

    def encode(self, prompts: list[str], device: torch.device, **extra: Any) -> Tensor:
        """Raises InputError: labels are its conditions."""
        raise InputError("this model takes class labels, no prompts; give class_labels (--class-label)")

    def null(self, info: Info, prompt: str = "") -> int:
        """The label after the last."""
        return len(info.classes)

    def example(self, network: Any, info: Info, n: int) -> Tensor:
        """Labels (n,), the classes in turn."""
        return torch.arange(n, device="cpu") % len(info.classes)
