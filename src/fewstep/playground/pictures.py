"""Pictures and masks as the playground's page gives and shows them: small ones enlarged and brought back, what is painted, and halves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.data.images import open_picture, read_images
from fewstep.errors import InputError
from fewstep.models.metadata import Info

SHOWN = 256  # pixels: at least so wide are pictures shown that a person is to change
LARGEST = 4096  # pixels, to which none is enlarged
BOXES = {"top half": (0, 0, 2, 1), "bottom half": (0, 1, 2, 2), "left half": (0, 0, 1, 2), "right half": (1, 0, 2, 2)}


def pixels_of(image: Any, info: Info, say: Callable[[str], None]) -> Tensor:
    """The pixels (1, c, size, size) in [-1, 1] of a file or of an image of Pillow; what is done to it is said.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if image is None:
        raise InputError("no picture is given; upload one, or take the one that was drawn last")
    name = Path(image).name if isinstance(image, str) else "the picture"
    try:
        whole = open_picture(image, name, lambda line: say(line.replace(str(image), name)))
    except InputError as error:  # where the server keeps an upload is nobody's business
        raise InputError(str(error).replace(str(image), name)) from None
    return read_images([natural(whole, info.picture[1])], info, say).pixels


def enlarged(image: Any, least: int = SHOWN, smooth: bool = False) -> Any:
    """A small picture with every pixel a square of whole pixels, or smooth, so that it is at least so wide; a larger one as it is."""
    times = min(-(-least // image.width), max(1, LARGEST // max(image.size)))
    how = 3 if smooth else 0  # bicubic, or the nearest pixel
    return image.resize((image.width * times, image.height * times), how) if times > 1 else image


def natural(image: Any, size: int) -> Any:
    """The small picture that `enlarged` made this of, else the picture as it is."""
    if image.width != image.height or image.width % size or not max(size, SHOWN - 1) < image.width < SHOWN + size:
        return image
    small = image.resize((size, size), 0)
    return small if small.resize(image.size, 0).tobytes() == image.tobytes() else image


def painted(value: dict[str, Any] | None) -> tuple[Any, Any]:
    """The picture and the mask (mode L, white where painted) of an editor's value; None for what there is not."""
    if not value or value.get("background") is None:
        return None, None
    from PIL import Image, ImageChops

    image, mask = value["background"], Image.new("L", value["background"].size)
    for layer in value.get("layers") or []:
        alpha = layer.convert("RGBA").getchannel("A").resize(mask.size)
        mask = ImageChops.lighter(mask, alpha.point([0] * 64 + [255] * 192))
    return image, mask


def mask_of(mask: Any, size: int) -> Tensor:
    """bool (1, 1, size, size) of what was painted over a picture, or of a half of that name.

    What is painted over by a quarter is filled; where nothing is, whatever was touched.

    Raises:
        InputError: nothing is painted, or only what lies outside the central square; there is no half of that name.
    """
    from PIL import Image

    if isinstance(mask, str):
        if mask not in BOXES:
            raise InputError(f"mask '{mask}' is not known; known: {', '.join(BOXES)}")
        left, top, right, bottom = (round(edge * size / 2) for edge in BOXES[mask])
        half = torch.zeros(1, 1, size, size, dtype=torch.bool)
        half[..., top:bottom, left:right] = True
        return half
    if mask is None or not mask.getbbox():
        raise InputError("nothing is painted; paint over what is to be drawn anew, or choose a half")
    side = min(mask.size)
    left, top = (mask.width - side) // 2, (mask.height - side) // 2
    shrunk = mask.resize((size, size), Image.Resampling.BOX, box=(left, top, left + side, top + side))
    small = shrunk.point([0] * 64 + [255] * 192)
    small = small if small.getbbox() else shrunk.point([0] + [255] * 255)
    if not small.getbbox():
        raise InputError("only what lies outside the picture's central square is painted, which is cut away; paint within it")
    return torch.from_numpy(np.asarray(small) > 0)[None, None]
