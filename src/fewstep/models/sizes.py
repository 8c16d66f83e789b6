"""The same model for pictures of another height and width, where its network takes any, or for shorter sounds."""

from dataclasses import replace
from typing import TypeVar

from fewstep.errors import InputError, check_number, check_whole_number
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
    if info.makes_sounds and (height, width) != (None, None):
        raise InputError("this model makes sounds, which have neither height nor width: give seconds")
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


def at_length(model: M, seconds: float | None = None) -> M:
    """The model of sounds of so many seconds, to which its network is conditioned and they are cut; without them as it is.

    Raises:
        InputError: a model of pictures, or a length that is no number, or longer than its latents stand for.
    """
    info = model.info
    if seconds is None:
        return model
    if info.sampling_rate is None:
        raise InputError("seconds are for models of sounds, and this one makes pictures or videos: leave them out")
    longest = model.family.longest_sound()
    check_number("seconds", seconds, 1 / info.sampling_rate, longest + 1e-4)  # what is written in a message rounds it up
    return replace(model, info=info.model_copy(update={"image_size": int(min(seconds, longest) * info.sampling_rate)}))


def sizes_taken(model: Model) -> tuple[int, int] | None:
    """(of which sides are multiples, the largest side), in pixels, of the pictures that a model's network takes; None: of its own size alone."""
    info, known = model.info, model.family.any_size()
    if known is None or len(info.shape) != 3:
        return None
    pixels = info.picture[1] // info.shape[-1]
    return known.step * pixels, min(LARGEST, (known.largest or LARGEST) * pixels)
