"""Pictures with classes as training data of models that denoise latents or read text: encoded as they are asked for."""

from typing import Any

import torch
from torch import Tensor

from fewstep.condition import Condition, take, to
from fewstep.errors import InputError
from fewstep.model import Model


class EncodedData:
    """The latents of a model's VAE for pictures, and the names of their classes as its prompts (or the labels themselves)."""

    def __init__(self, data: Any, model: Model) -> None:
        """Encode the names of the classes.

        Raises:
            InputError: the model needs more than a class or a prompt.
        """
        self.data, self.model = data, model
        self.classes, self.description = data.classes, data.description
        try:
            self._texts = None if model.info.condition == "class" else to(model.condition(prompts=list(data.classes)), "cpu")
        except InputError as error:
            raise InputError(
                f"pictures with classes are not enough: {error}; give data whose batches hold whole conditions"
            ) from None

    @torch.no_grad()
    def batch(self, start: int, count: int) -> tuple[Tensor, Condition]:
        """Latents (count, c, h, w) and conditions (count, ...) from position `start` on."""
        x, labels = self.data.batch(start, count)
        z = self.model.family.to_latents(x.to(self.model.denoiser.device)).float().cpu()
        return z, labels if self._texts is None else take(self._texts, labels)


def encoded(data: Any, model: Model) -> Any:
    """`data` itself where it is what the model denoises, else its pictures as the model's latents."""
    info = model.info
    pixels_of_classes = info.image_size is None and info.condition == "class"
    if pixels_of_classes or not hasattr(data, "classes") or data.batch(0, 1)[0].shape[-1] != info.picture[1]:
        return data
    return EncodedData(data, model)
