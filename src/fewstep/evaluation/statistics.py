"""What is kept of features while they stream by: sums and a small sample, so that memory does not grow with the number of images."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from fewstep.errors import InputError

KEPT = 10_000  # rows of features at most


@dataclass(frozen=True)
class Statistics:
    """Mean (d,) and covariance (d, d) of features, float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Statistics":
        """Of features (n, d), n at least 2."""
        return cls(features.mean(0), features.T.cov())


class Storable:
    """A dataclass of tensors and numbers that a checkpoint keeps as tensors."""

    def state(self) -> dict[str, Tensor]:
        """The fields as tensors by name."""
        return {k: v if isinstance(v, Tensor) else torch.from_numpy(np.asarray(v)) for k, v in vars(self).items()}

    @classmethod
    def of_state(cls, state: dict[str, Tensor]) -> Self:
        """From what `state` gave."""
        return cls(**{k: v.clone() if v.ndim else v.item() for k, v in state.items()})


@dataclass
class Moments(Storable):
    """Running count, mean (d,) and sum of squares about the mean (d, d) of features, float64.

    Parts are joined by the update of Chan, Golub and LeVeque (1979), which loses nothing where the mean is far from zero.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, dimension: int) -> "Moments":
        """Before the first feature."""
        return cls(0, torch.zeros(dimension, dtype=torch.float64), torch.zeros(dimension, dimension, dtype=torch.float64))

    def add(self, features: Tensor) -> "Moments":
        """Take in features (n, d), in place; itself."""
        if not len(features):
            return self
        centred = features.double() - (mean := features.double().mean(0))
        return self.merge(Moments(len(features), mean, centred.T @ centred))

    def merge(self, other: "Moments") -> "Moments":
        """Take in what another process has seen, in place; itself."""
        if not other.count:
            return self
        total, shift = self.count + other.count, other.mean - self.mean
        self.scatter += other.scatter
        self.scatter.addr_(shift, shift, alpha=self.count * other.count / total)
        self.mean = self.mean + shift * (other.count / total)
        self.count = total
        return self

    def statistics(self) -> Statistics:
        """Mean and unbiased covariance of all that was seen.

        Raises:
            InputError: fewer than two features were seen.
        """
        if self.count < 2:
            raise InputError(f"{self.count} samples have no covariance; at least 2 are needed: ask for more samples")
        return Statistics(self.mean.clone(), self.scatter / (self.count - 1))


@dataclass
class Reservoir(Storable):
    """At most `limit` of the feature rows seen, float32, with labels, each row seen being as likely to be kept as any other.

    Each position in the whole sequence has a random key, and the rows with the smallest keys are kept. So what is kept depends on
    the seed and the positions alone, neither on batches nor on the number of processes that share the work.
    """

    limit: int
    seed: int
    rows: Tensor  # (m, d), in the order of their keys, which is a random one
    labels: Tensor  # int64 (m,)
    keys: Tensor  # int64 (m,)

    @classmethod
    def empty(cls, dimension: int, limit: int = KEPT, seed: int = 0) -> "Reservoir":
        """Before the first row."""
        integers = torch.zeros(0, dtype=torch.int64)
        return cls(limit, seed, torch.zeros(0, dimension), integers, integers.clone())

    @property
    def features(self) -> Tensor:
        """The rows kept, float64 (m, d)."""
        return self.rows.double()

    def add(self, features: Tensor, labels: Tensor, start: int) -> "Reservoir":
        """Take in features (n, d) and labels (n,), in place; itself. `start` is the position of the first in the whole sequence."""
        keys, labels = position_keys(start, len(features), self.seed), labels.cpu()
        if self.limit and len(self.keys) == self.limit:
            near = keys < self.keys[-1]
            features, labels, keys = features[near], labels[near], keys[near]
        return self.merge(Reservoir(self.limit, self.seed, features.float().cpu(), labels, keys))

    def merge(self, other: "Reservoir") -> "Reservoir":
        """Take in what another process has kept, in place; itself."""
        if len(other.keys):
            order = torch.cat([self.keys, other.keys]).argsort()[: self.limit]
            for name in ("rows", "labels", "keys"):
                setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)])[order])
        return self


def position_keys(start: int, count: int, seed: int) -> Tensor:
    """A random key for each of the positions start .. start + count - 1, int64 (count,): a counter's hash, so that no state is kept."""
    words = np.random.Philox(key=seed, counter=start).random_raw(4 * count)[::4]  # four words a count
    return torch.from_numpy((words >> np.uint64(1)).astype(np.int64))
