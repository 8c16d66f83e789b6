"""The Fréchet distance of infinitely many samples, from those that there are: its bias falls as one over their number."""

import numpy as np
import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.evaluation.metrics import frechet_distance
from fewstep.evaluation.statistics import Statistics

PARTS = (4, 3, 2, 1)  # into so many parts the samples are divided


def extrapolated_frechet(rows: Tensor, labels: Tensor, data: Statistics, seed: int = 0) -> tuple[float, list[int]]:
    """(the Fréchet distance at 1/n = 0 of the line through those of n, n/2, n/3 and n/4 rows, these numbers of rows).

    Rows (n, d) with labels (n,) are divided at random into equal parts, each with its share of every label, and the distances of the parts
    from the data averaged. After FID-infinity (1911.07023), whose subsets overlap and do not balance classes. The data's own number remains
    as it is, in their covariance.

    Raises:
        InputError: a quarter of the rows is no more than their dimension.
    """
    check_enough_to_extrapolate(*rows.shape)
    order = balanced_order(labels, torch.Generator().manual_seed(seed))
    sizes, distances = [], []
    for parts in PARTS:
        divided = [rows[order[k::parts]] for k in range(parts)]
        sizes.append(len(rows) / parts)
        distances.append(sum(frechet_distance(Statistics.of(part.double()), data) for part in divided) / parts)
    _, at_infinity = np.polyfit(1 / np.array(sizes), distances, 1)
    return float(at_infinity), [len(rows) // parts for parts in PARTS]


def check_enough_to_extrapolate(count: int, dimension: int) -> None:
    """Raises InputError where a quarter of so many rows would have a singular covariance."""
    if count // PARTS[0] <= dimension:
        raise InputError(
            f"{count} samples are too few to extrapolate a Fréchet distance of {dimension} features: a quarter of them must be more; "
            f"give at least {PARTS[0] * (dimension + 1)}, or leave out --extrapolate"
        )


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of rows with labels (n,), by label: every k-th of it has 1/k of each label, to within one."""
    shuffled = torch.randperm(len(labels), generator=generator)
    return shuffled[labels[shuffled].argsort(stable=True)]
