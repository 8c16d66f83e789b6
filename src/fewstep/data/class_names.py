"""The names of the data's classes and of the model's: whether they agree, and which label is which."""

from collections.abc import Callable, Sequence

import numpy as np

from fewstep.data.sidecars import nfc
from fewstep.errors import InputError
from fewstep.progress import to_stderr


def check_classes(classes: Sequence[str], path: str) -> None:
    """Raises InputError where there are fewer than two classes."""
    if len(classes) < 2:
        only = f"only one class ('{classes[0]}')" if classes else "no classes"
        raise InputError(f"{path} has {only}, and guidance needs at least 2: give data of two classes or more")


def class_order(
    classes: Sequence[str],
    known: Sequence[str],
    where: str,
    report: Callable[[str], None] = to_stderr,
    class_names: str = "match",
) -> np.ndarray:
    """For each class of the data the model's class of the same name, int64 (n,); numbers 0 to n - 1 count as no names.

    With `class_names` "by-order", or where either has no names, the first class is the model's first, and so on.

    Raises:
        InputError: the names do not agree as sets, or there are more or fewer than the model's.
    """
    classes, known = list(map(nfc, classes)), list(map(nfc, known))
    if len(classes) != len(known):
        counts = f"the data's number of classes is {len(classes)}, the model's {len(known)}"
        raise InputError(f"{where}: {counts}; give data that fits")
    if classes == known:
        return np.arange(len(known))
    if class_names == "by-order":
        report(
            f"{where}: the data's classes ({first_names(classes)}) are taken for the model's ({first_names(known)}) in their order"
        )
        return np.arange(len(known))
    if set(classes) == set(known):
        report(f"{where}: the data's classes are the model's in another order: they are matched by name")
        return np.array([known.index(name) for name in classes])
    if list(map(str, range(len(known)))) in (classes, known):
        return np.arange(len(known))
    ours, theirs = (sorted(set(one) - set(other)) for one, other in ((classes, known), (known, classes)))
    differ = (
        f"{len(ours)} of the {len(classes)} classes are not the model's ({first_names(ours)}; the model has {first_names(theirs)})"
    )
    raise InputError(f'{where}: {differ}: rename them, or set data.class_names = "by-order" where the order is the same')


def first_names(names: Sequence[str], count: int = 3) -> str:
    """The first few of the names."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
