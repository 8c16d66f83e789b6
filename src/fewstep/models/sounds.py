"""Sounds as users hold them: samples with their rate, written as WAV."""

import wave
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.models.metadata import Info


@dataclass(frozen=True)
class Sound:
    """`samples` float32 (channels, n), about -1 to 1, `sampling_rate` of them a second."""

    samples: Tensor
    sampling_rate: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.samples.shape[1] / self.sampling_rate

    def save(self, path: str | Path) -> None:
        """Write a WAV file of 16 bits a sample; what is outside -1 to 1 is clipped."""
        values = (self.samples.T.nan_to_num().clamp(-1, 1) * 32767).round().to(torch.int16)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(len(self.samples))
            file.setsampwidth(2)
            file.setframerate(self.sampling_rate)
            file.writeframes(values.numpy().astype("<i2").tobytes())


def check_no_sound(info: Info, what: str) -> None:
    """Raises InputError where a model makes sounds: `what` is for pictures."""
    if info.makes_sounds:
        raise InputError(f"this model makes sounds, and {what} is for pictures alone; draw sounds with fewstep sample")
