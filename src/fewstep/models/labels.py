"""Class labels and conditions as they are given: by name or index, one or many, and whether they are what a model takes."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError, nearest, shown
from fewstep.models.metadata import Info


def as_list(values: Sequence[Any] | int | str | None) -> list[Any]:
    """The values as a list: one may stand alone, and None is none."""
    if values is None or isinstance(values, str | Integral):
        return [] if values is None else [values]
    try:
        return list(getattr(values, "tolist", lambda: values)())  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise InputError(f"{shown(values)} is given for labels or prompts; give a list of them") from None


def label_of(label: int | str, classes: Sequence[str]) -> int:
    """The index of a class given by name (text), or by index: a number, or text as "#3"; "3" too where no class has a number for its name.

    Raises:
        InputError: there is no such class.
    """
    last, numbers = len(classes) - 1, any(name.isdecimal() for name in classes)
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    text = label.removeprefix("#") if isinstance(label, str) else ""
    if text.isdecimal() and len(text) <= 9 and (text != label or not numbers):
        label = int(text)
    if isinstance(label, Integral) and not isinstance(label, bool) and 0 <= label <= last:  # pyright: ignore[reportOperatorIssue]
        return int(label)
    hint = nearest(label, classes) if isinstance(label, str) and len(label) <= 80 else "give a name"
    raise InputError(f"class {shown(label)} is not known; {hint} (or an index, {'#0 to #' if numbers else '0 to '}{last})")


def check_condition(condition: Any, info: Info) -> None:
    """Raises InputError where a condition is no labels of a model (n,), and no tree of tensors (n, ...)."""
    known = [condition] if isinstance(condition, Tensor) else list(condition.values()) if isinstance(condition, dict) else []
    if not known or not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in known):
        raise InputError(f"the condition is {shown(condition)}; give labels (n,) or what model.condition gives")
    if info.condition == "class" and isinstance(condition, Tensor):
        most = len(info.classes)  # the label that stands for none
        whole = condition.ndim == 1 and condition.dtype in (torch.int64, torch.int32)
        if not whole or (len(condition) and not bool(((condition >= 0) & (condition <= most)).all())):
            raise InputError(f"the labels are {shown(condition)}; give whole numbers (n,) from 0 to {most}")
