"""The random numbers of training: each a function of (seed, stage, position of its example), drawn for the examples at hand alone.

So a process draws nothing for the examples of others, and the numbers are equal however a global batch is cut into processes and
micro-batches, and whenever a run was stopped.
"""

from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from fewstep.data.datasets import splitmix64
from fewstep.devices import copied_to
from fewstep.method.process import widest_float

GOLDEN = 0x9E3779B97F4A7C15  # splitmix64's step between two numbers of a stream


class Draws:
    """The random numbers of the examples `part` of an update, which has `total` of them, from position `start` of its stage on.

    The first call gives each example its first number, the second call its second, and so on.
    """

    def __init__(
        self, seed: int, stage: str, start: int, total: int, part: slice = slice(None), device: torch.device | str = "cpu"
    ) -> None:
        self.start, self.total, self.part, self.device = start, total, part, torch.device(device)
        self.key, self.calls = xxhash.xxh3_64_intdigest(f"{seed} {stage}".encode()), 0
        self.positions = np.arange(start, start + total, dtype=np.uint64)[part]

    def uniform(self, stratified: bool = False) -> Tensor:
        """Numbers (b,) in [0, 1), float64 (float32 on Apple's GPU), made on the CPU, so that they are the same on every device.

        Stratified: over the whole update one is in each of `total` equal parts, in a random order (less noise in the loss).
        """
        stream = splitmix64(np.array([(self.key + GOLDEN * self.calls) % (1 << 64)], np.uint64))
        numbers = (splitmix64(stream + np.uint64(GOLDEN) * self.positions) >> np.uint64(11)) * 2.0**-53
        if stratified:
            order = np.random.default_rng((self.key, self.calls, self.start)).permutation(self.total)
            numbers = (order[self.part] + numbers) / self.total
        self.calls += 1
        return copied_to(torch.from_numpy(numbers).to(widest_float(self.device)), self.device)

    def normal(self, shape: tuple[int, ...] | torch.Size) -> Tensor:
        """Noise float32 (b, *shape) on the device, of one generator that is seeded anew for each example: as fast as one draw for all."""
        noise, generator = torch.empty((len(self.positions), *shape), device=self.device), torch.Generator(self.device)
        for example, seed in zip(noise, self._seeds(), strict=True):
            example.normal_(generator=generator.manual_seed(seed))
        return noise

    def _seeds(self) -> list[Any]:
        """32 bits an example, all that torch's generator takes on the CPU; no two of 2^32 positions of a stage in a row have the same."""
        first, second = np.uint32(self.key & 0xFFFFFFFF), np.uint32(self.key >> 32)
        low, high = self.positions.astype(np.uint32), (self.positions >> np.uint64(32)).astype(np.uint32)
        return _murmur3(_murmur3(low + first) ^ (second + high)).tolist()


def _murmur3(z: np.ndarray) -> np.ndarray:
    """MurmurHash3's finaliser of uint32 numbers: a permutation of them all."""
    z = (z ^ (z >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    z = (z ^ (z >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return z ^ (z >> np.uint32(16))
