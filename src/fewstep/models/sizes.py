"""The same model for pictures of another height and width, where its network takes any."""

from dataclasses import replace
from typing import TypeVar

from fewstep.errors import InputError, check_whole_number
from fewstep.models.model import Model

LARGEST = 16384  # pixels a side
M = TypeVar("M", bound=Model)


def at_size(model: M, height: int | None = None, width: int | None = None) -> M:
    """The model with pictures of that height and width in pixels; a side that is left out stays as it is.

    Pictures are best near the sizes that it was trained at: a network that takes any size has seen one, or those of its buckets.

    Raises:
        InputError: a side is out of bounds or no multiple of what the network takes, or it takes its own size alone.
    """
    info = model.info
    own = info.picture_shape[1:]
    sides = (own[0] if height is None else height, own[1] if width is None else width)
    if sides == own:
        return model
    if (taken := sizes_taken(model)) is None:
        raise InputError(f"this model's network takes pictures of {own[1]}x{own[0]} alone: leave out height and width")
    step, largest = taken
    for name, side in zip(("height", "width"), sides, strict=True):
        check_whole_number(name, side, step, largest)
        if side % step:
            raise InputError(f"{name} {side} is no multiple of {step}, as the network takes them: give {side // step * step}")
    pixels = own[1] // info.shape[-1]  # of a latent
    shape = (info.shape[0], *(side // pixels for side in sides))
    image_size = None if info.image_size is None else sides[1]
    return replace(model, info=info.model_copy(update={"latent_shape": shape, "size": shape[-1], "image_size": image_size}))


def sizes_taken(model: Model) -> tuple[int, int] | None:
    """(of which sides are multiples, the largest side), in pixels, of the pictures that a model's network takes; None: of its own size alone."""
    info, known = model.info, model.family.any_size()
    if known is None or len(info.shape) != 3:
        return None
    pixels = info.picture[1] // info.shape[-1]
    return known.step * pixels, min(LARGEST, (known.largest or LARGEST) * pixels)
