"""What is kept of features while they stream by: sums and a small sample, so that memory does not grow with the number of images."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewstep.errors import InputError


@dataclass(frozen=True)
class Statistics:
    """Mean (d,) and covariance (d, d) of features, float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Statistics":
        """Of features (n, d), n at least 2."""
        return cls(features.mean(0), features.T.cov())


@dataclass
class Moments:
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
        features = features.double()
        mean = features.mean(0)
        centred = features - mean
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

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"count": torch.tensor(self.count), "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def of_state(cls, state: dict[str, Tensor]) -> "Moments":
        """From what `state` gave."""
        return cls(int(state["count"]), state["mean"].clone(), state["scatter"].clone())


@dataclass
class Reservoir:
    """At most `limit` of the feature rows seen, float32, with labels, each row seen being as likely to be kept as any other.

    Each position in the whole sequence has a random key, and the rows with the smallest keys are kept. So what is kept depends on
    the seed and the positions alone, neither on batches nor on the number of processes that share the work.
    """

    limit: int
    seed: int
    seen: int
    rows: Tensor  # (m, d), in the order of their keys, which is a random one
    labels: Tensor  # int64 (m,)
    keys: Tensor  # int64 (m,)

    @classmethod
    def empty(cls, dimension: int, limit: int = 10_000, seed: int = 0) -> "Reservoir":
        """Before the first row."""
        whole = torch.zeros(0, dtype=torch.int64)
        return cls(limit, seed, 0, torch.zeros(0, dimension), whole, whole.clone())

    @property
    def features(self) -> Tensor:
        """The rows kept, float64 (m, d)."""
        return self.rows.double()

    def add(self, features: Tensor, labels: Tensor | None = None, start: int | None = None) -> "Reservoir":
        """Take in features (n, d) and labels (n,) (zero where there are none), in place; itself.

        `start` is the position of the first row in the whole sequence: processes that share the work must give it, so that no position
        is seen twice. Left out, it is the number of rows seen.
        """
        labels = torch.zeros(len(features), dtype=torch.int64) if labels is None else labels.cpu()
        keys = position_keys(self.seen if start is None else start, len(features), self.seed)
        self.seen += len(features)
        if len(self.keys) == self.limit and self.limit:
            near = keys < self.keys[-1]
            features, labels, keys = features[near], labels[near], keys[near]
        return self._keep(features.float().cpu(), labels, keys)

    def merge(self, other: "Reservoir") -> "Reservoir":
        """Take in what another process has kept, in place; itself."""
        self.seen += other.seen
        return self._keep(other.rows, other.labels, other.keys)

    def _keep(self, rows: Tensor, labels: Tensor, keys: Tensor) -> "Reservoir":
        if len(keys):
            order = torch.cat([self.keys, keys]).argsort()[: self.limit]
            self.rows = torch.cat([self.rows, rows])[order]
            self.labels = torch.cat([self.labels, labels])[order]
            self.keys = torch.cat([self.keys, keys])[order]
        return self

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        numbers = torch.tensor([self.limit, self.seed, self.seen])
        return {"numbers": numbers, "rows": self.rows, "labels": self.labels, "keys": self.keys}

    @classmethod
    def of_state(cls, state: dict[str, Tensor]) -> "Reservoir":
        """From what `state` gave."""
        limit, seed, seen = state["numbers"].tolist()
        return cls(limit, seed, seen, state["rows"].clone(), state["labels"].clone(), state["keys"].clone())


def position_keys(start: int, count: int, seed: int) -> Tensor:
    """A random key for each of the positions start .. start + count - 1, int64 (count,): a counter's hash, so that no state is kept."""
    words = np.random.Philox(key=seed, counter=start).random_raw(4 * count)[::4]  # four words a count
    return torch.from_numpy((words >> np.uint64(1)).astype(np.int64))


@dataclass
class Entropies:
    """Running sums for an Inception Score in one split: of class probabilities (k,) and of their entropies, float64."""

    count: int
    probabilities: Tensor
    entropy: float

    @classmethod
    def empty(cls, classes: int) -> "Entropies":
        """Before the first sample."""
        return cls(0, torch.zeros(classes, dtype=torch.float64), 0.0)

    def add(self, logits: Tensor) -> "Entropies":
        """Take in logits (n, k), or logarithms of probabilities, in place; itself."""
        p = logits.double().softmax(1)
        return self.merge(Entropies(len(p), p.sum(0), float(torch.special.entr(p).sum())))

    def merge(self, other: "Entropies") -> "Entropies":
        """Take in what another process has seen, in place; itself."""
        self.count, self.entropy = self.count + other.count, self.entropy + other.entropy
        self.probabilities = self.probabilities + other.probabilities
        return self

    def score(self) -> float:
        """exp of the mean KL divergence of a sample's classes from all samples': 1 to k.

        Raises:
            InputError: no sample was seen.
        """
        if not self.count:
            raise InputError("an Inception Score of 0 samples is not defined: ask for at least 1")
        of_all = torch.special.entr(self.probabilities / self.count).sum()
        return float((of_all - self.entropy / self.count).exp())

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        numbers = torch.tensor([self.count, self.entropy], dtype=torch.float64)
        return {"numbers": numbers, "probabilities": self.probabilities}

    @classmethod
    def of_state(cls, state: dict[str, Tensor]) -> "Entropies":
        """From what `state` gave."""
        count, entropy = state["numbers"].tolist()
        return cls(int(count), state["probabilities"].clone(), entropy)
