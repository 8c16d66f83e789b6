"""Conditions: what a sample is to show. Labels (b,), or a tree of named tensors, each with the batch first (text, masks, sizes).

Everything that the method does to a condition is here, so that no other file asks which of the two it is.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.method.process import expand_to

Condition = Tensor | dict[str, Tensor]


def each(change: Callable[..., Tensor], *conditions: Condition) -> Condition:
    """`change` of every leaf; with several conditions, of the leaves of the same name together."""
    first = conditions[0]
    if isinstance(first, Tensor):
        return change(*conditions)
    return {name: change(*(c[name] for c in conditions)) for name in first}  # pyright: ignore[reportArgumentType,reportCallIssue]


def leaf(condition: Condition) -> Tensor:
    """One of its tensors (b, ...), to ask it for its length and device."""
    return condition if isinstance(condition, Tensor) else next(iter(condition.values()))


def join(one: Condition, other: Condition) -> Condition:
    """Both, one after the other along the batch (b + b', ...)."""
    return each(lambda a, b: torch.cat([a, b]), one, other)


def take(condition: Condition, index: Tensor | slice) -> Condition:
    """The examples of an index (n,) or a slice."""
    return each(lambda values: values[index], condition)


def split(condition: Condition, size: int) -> list[Condition]:
    """Parts of `size` examples, the last one maybe shorter."""
    return [take(condition, slice(start, start + size)) for start in range(0, len(leaf(condition)), size)]


def cycle(condition: Condition, count: int) -> Condition:
    """`count` examples, going through those of the condition in turn."""
    return take(condition, torch.arange(count, device=leaf(condition).device) % len(leaf(condition)))


def choose(mask: Tensor, one: Condition, other: Condition) -> Condition:
    """`one` where mask (b,) is true, else `other`."""
    return each(lambda a, b: torch.where(expand_to(mask, a), a, b), one, other)


def to(condition: Condition, device: torch.device | str) -> Condition:
    """The condition on a device."""
    return each(lambda values: values.to(device), condition)


def cast(condition: Condition, dtype: torch.dtype) -> Condition:
    """Its real numbers in a network's dtype; labels and masks stay what they are."""
    return each(lambda values: values.to(dtype) if values.is_floating_point() else values, condition)


def expand(null: "int | Condition", like: Condition) -> Condition:
    """The null condition for every example of `like` (b, ...), from a label or from a tree of batch 1.

    What a null tree does not name stays as it is in `like`: a prompt is dropped, the mask beside it is not. Labels alone are what a
    tree's first leaf stands for.
    """
    if isinstance(like, Tensor):
        null = torch.tensor(null) if isinstance(null, int) else leaf(null)
        return null.to(like).expand_as(like)
    assert isinstance(null, dict)
    return {name: null[name].to(values).expand_as(values) if name in null else values for name, values in like.items()}
