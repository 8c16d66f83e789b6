"""Which bucket the examples of an update are of, and which of them, as a function of the seed and the position alone."""

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Self

import numpy as np

from fewstep.data.buckets import Buckets, Fit
from fewstep.errors import InputError


class BatchOrder:
    """The order of examples in buckets, of `counts` each: positions k total ... (k + 1) total - 1, an update, are of one bucket.

    A bucket's examples come in endless epochs of their own. Updates are given to buckets in cycles of about one epoch of all examples, shuffled by
    the seed; each cycle has as many of a bucket as its share of the examples, what is left over carried to the next. So examples of all buckets come equally often,
    and a bucket of fewer than `total` examples fills an update by several of its epochs, the less often.
    """

    def __init__(self, counts: Sequence[int], seed: int, total: int = 1) -> None:
        self.counts, self.seed, self.total = tuple(counts), seed, total
        self.updates = max(1, -(-sum(counts) // total))  # of a cycle
        self._cycle = lru_cache(maxsize=4)(self._made)

    def at(self, start: int, count: int) -> tuple[int, int]:
        """(bucket, position in its endless epochs) of the example at position `start`; the `count` from there on follow it.

        Raises:
            InputError: they are not all of one update.
        """
        if len(self.counts) == 1:
            return 0, start
        update, place = divmod(start, self.total)
        if place + count > self.total:
            raise InputError(
                f"examples {start} to {start + count - 1} are of two updates of {self.total}, whose sizes may differ; ask for fewer"
            )
        buckets, ranks = self._cycle(update // self.updates)
        index = update % self.updates
        return int(buckets[index]), int(ranks[index]) * self.total + place

    def aligned(self, start: int) -> int:
        """The first position from `start` on at which an update begins: `start` itself, unless the updates before it were of another size."""
        return start if len(self.counts) == 1 else -(-start // self.total) * self.total

    def _made(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each update of a cycle its bucket, and how many of that bucket come before it."""
        before, after = (shares(number * self.updates, self.counts) for number in (cycle, cycle + 1))
        buckets = np.repeat(np.arange(len(before)), np.subtract(after, before))
        buckets = np.random.default_rng((self.seed, 1, cycle)).permutation(buckets)  # 1: not the key of an epoch
        ranks = np.empty_like(buckets)
        for bucket, first in enumerate(before):
            mine = buckets == bucket
            ranks[mine] = first + np.arange(mine.sum())
        return buckets, ranks


def shares(total: int, counts: Sequence[int]) -> list[int]:
    """Whole numbers of the sum `total`, in proportion to counts; none becomes smaller when `total` grows, since each half of them gets its share, rounded down, or the rest."""
    if len(counts) == 1:
        return [total]
    middle = len(counts) // 2
    first = total * sum(counts[:middle]) // max(sum(counts), 1)
    return shares(first, counts[:middle]) + shares(total - first, counts[middle:])


class InBuckets:
    """Data whose examples have several shapes, those of an update one; of one shape where `buckets` is None."""

    buckets: Buckets | None
    fits: Sequence[Fit]  # how the pictures of each bucket were made to fit
    order: BatchOrder

    def in_batches_of(self, total: int) -> Self:
        """The same examples, those of positions k total ... (k + 1) total - 1 of one bucket."""
        made = copy.copy(self)
        made.order = BatchOrder(self.order.counts, self.order.seed, total)
        return made

    def aligned(self, start: int) -> int:
        """The first position from `start` on at which an update begins."""
        return self.order.aligned(start)
