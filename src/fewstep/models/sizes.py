"""The same model for pictures of another height and width, where its network takes any."""

from dataclasses import replace
from typing import TypeVar

from fewstep.errors import InputError, check_whole_number
from fewstep.models.model import Model

LARGEST = 16384  # pixels a side
M = TypeVar("M", bound=Model)


def at_size(model: M, height: int | None = None, width: int | None = None) -> M:
    """The model with pictures of that height and width in pixels, to sample with; a side that is left out stays as it is.

    Pictures are best near the size that it was trained at: a network that takes any size has seen one.

    Raises:
        InputError: a side is out of bounds or no multiple of what a latent stands for, or the network takes its own size alone.
    """
    info = model.info
    own = list(info.picture_shape[1:])
    sides = [mine if given is None else given for given, mine in zip((height, width), own, strict=True)]
    if sides == own:
        return model
    if not model.family.oblong or len(info.shape) != 3:
        raise InputError(f"this model's network takes pictures of {own[1]}x{own[0]} alone: leave out height and width")
    pixels = own[1] // info.shape[-1]  # of a latent
    for name, side in zip(("height", "width"), sides, strict=True):
        check_whole_number(name, side, pixels, LARGEST)
        if side % pixels:
            raise InputError(f"{name} {side} is no multiple of {pixels}, the pixels of a latent: give {side // pixels * pixels}")
    shape = (info.shape[0], *(side // pixels for side in sides))
    image_size = None if info.image_size is None else sides[1]
    return replace(model, info=info.model_copy(update={"latent_shape": shape, "size": shape[-1], "image_size": image_size}))
