"""A user's own pictures and masks at a model's size, and the step between pixels and the space that a model works in."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.data.decoding import as_array, as_mode, central_box, fitted, upright
from fewstep.data.encoding import latents
from fewstep.errors import InputError, first_line
from fewstep.files import path_of
from fewstep.models.metadata import Info
from fewstep.models.model import DECODED, Model
from fewstep.models.sounds import check_no_sound

Picture = str | Path | Any  # a file, or an image of Pillow
Say = Callable[[str], None]  # called with a line that a person should read
LARGEST = 4.0  # of a picture's values: samples that are not clipped leave -1 to 1 by a little
FORMATS = "give a PNG, JPEG or WebP picture"


@dataclass(frozen=True)
class Pictures:
    """`pixels` float32 (n, c, height, width) in [-1, 1], with each picture's name and its own width and height, upright."""

    pixels: Tensor
    names: list[str]
    shapes: list[tuple[int, int]]


def warn(line: str) -> None:
    """Say a line as Python warns."""
    warnings.warn(line, stacklevel=3)


def into_model(model: Model, pixels: Tensor) -> Tensor:
    """What the model works on, (n, c, h, w), of pixels (n, c, h, w) in [-1, 1]: for a model in pixel space the pixels themselves."""
    return pixels if model.info.image_size is None else latents(model, pixels, DECODED)


def read_images(images: Tensor | Picture | Sequence[Picture], info: Info, say: Say = warn) -> Pictures:
    """Pictures at the model's size: upright, over white where transparent, the central part with its proportions resized.

    A tensor (n, c, height, width) in [-1, 1] passes as it is. What else is done to a picture is said through `say`.

    Raises:
        InputError: one cannot be read, or there is none; a tensor of another shape or with numbers that are not finite.
    """
    check_no_sound(info, "what changes a picture")
    channels, height, size = shape = info.picture_shape
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1:] != shape or not len(images):
            raise InputError(f"images are shaped {tuple(images.shape)}; this model takes (n, {', '.join(map(str, shape))})")
        if not images.is_floating_point() or not bool((images.abs() <= LARGEST).all()):  # so written, NaN is refused too
            raise InputError(f"images are {range_of(images)}; give floats from -1 to 1 (of 0 to 255: x / 127.5 - 1)")
        return Pictures(images.float().cpu(), [f"image {i}" for i in range(len(images))], [(size, height)] * len(images))
    found: list[tuple[np.ndarray, str, tuple[int, int]]] = []
    for i, source in enumerate(_listed(images, "image")):
        image, name = open_picture(source, f"image {i}", say), _name(source, f"image {i}")
        small = _attempt(lambda image=image: fitted(as_mode(_central(image, height, size), channels), (height, size)), name)
        found.append((as_array(small), name, image.size))
    pixels = torch.from_numpy(np.stack([array for array, _, _ in found])).float() / 127.5 - 1
    return Pictures(pixels, [name for _, name, _ in found], [shape for _, _, shape in found])


def read_masks(masks: Tensor | Picture | Sequence[Picture], pictures: Pictures, say: Say = warn) -> Tensor:
    """What is to be filled in, bool (n, 1, height, width), one mask a picture or one for all, cropped and resized as they are.

    White (128 and above) is filled in; where a mask is transparent in parts, its alpha counts instead and what is opaque is
    filled. A pixel that white touches when the mask shrinks is filled.

    Raises:
        InputError: one cannot be read, or has other proportions than its picture; neither one mask nor one a picture.
    """
    n, (height, size) = len(pictures.pixels), pictures.pixels.shape[-2:]
    if isinstance(masks, Tensor):
        if masks.ndim != 4 or masks.shape[1:] != (1, height, size) or len(masks) not in (1, n):
            raise InputError(f"masks are shaped {tuple(masks.shape)}; give ({n}, 1, {height}, {size}), 1 where filled in, else 0")
        if masks.is_complex() or not bool(((masks >= 0) & (masks <= 1)).all()):
            raise InputError(f"masks are {range_of(masks)}; give 1 where filled in, else 0")
        return (masks > 0.5).cpu().expand(n, 1, height, size)
    sources = _listed(masks, "mask")
    if len(sources) not in (1, n):
        raise InputError(f"there are {len(sources)} masks for {n} images; give one mask, or one for each image")
    return torch.stack([_mask(sources[min(i, len(sources) - 1)], i, pictures, (height, size), say) for i in range(n)])


def range_of(values: Tensor) -> str:
    """The type of a tensor and the range of its numbers, as a message has them."""
    if values.is_complex() or not bool(values.isfinite().all()):
        return f"{values.dtype} that are not finite numbers"
    return f"{values.dtype} from {values.min().item():g} to {values.max().item():g}"


def _mask(source: Picture, i: int, pictures: Pictures, size: tuple[int, int], say: Say) -> Tensor:
    from PIL import Image

    image, name, (width, height) = open_picture(source, f"mask {i}", say), _name(source, f"mask {i}"), pictures.shapes[i]
    if abs(image.width * height - image.height * width) > (width + height) / 2:  # what rounding a smaller copy's size explains
        raise InputError(
            f"{name} is {image.width}x{image.height}, {pictures.names[i]} {width}x{height}; give a mask of the picture's proportions"
        )
    white = _attempt(lambda: _white(_central(image, *size)), name)
    return torch.from_numpy(np.asarray(white.resize(size[::-1], Image.Resampling.BOX)) > 0)[None]


def _white(image: Any) -> Any:
    """The mask in mode L, 0 or 255."""
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        image = alpha if alpha.getextrema()[0] < 255 else image
    return as_mode(image, 1).point([0] * 128 + [255] * 128)


def _listed(sources: Any, what: str) -> Sequence[Picture]:
    listed = sources if isinstance(sources, Sequence) and not isinstance(sources, str) else [sources]
    if not len(listed):
        raise InputError(f"no {what} is given; give at least one")
    return listed


def _name(source: Picture, otherwise: str) -> str:
    return str(source) if isinstance(source, str | Path) else otherwise


def open_picture(source: Picture, otherwise: str, say: Say) -> Any:
    """The upright image; that an animation was cut to its first frame is said."""
    from PIL import Image

    name = _name(source, otherwise)
    if not isinstance(source, str | Path):
        if not isinstance(source, Image.Image):
            raise InputError(f"{name} is a {type(source).__name__}; give a file, an image of Pillow, or one tensor for all")
        return _attempt(lambda: upright(source.copy()), name)
    path = path_of("the picture", source)
    image = _attempt(lambda: upright(path), name)
    with Image.open(source) as file:
        if getattr(file, "is_animated", False):
            say(f"{name} has several frames; the first is taken")
    return image


def _central(image: Any, height: int, width: int) -> Any:
    """The central part with these proportions, before anything is converted: a long strip costs the memory of its part alone."""
    box = central_box(image, height, width)
    return image if box == (0, 0, *image.size) else image.crop(box)


def _attempt(read: Callable[[], Any], name: str) -> Any:
    """What `read` gives; whatever Pillow raises of a damaged picture becomes one line."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return read()
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise InputError(f"{name} has more than the limit of {Image.MAX_IMAGE_PIXELS} pixels; make it smaller first") from None
        except Exception as error:  # damaged files raise nearly anything: OSError, SyntaxError, struct.error, EOFError, ...
            why = first_line(error) if name in str(error) else f"{name}: {first_line(error)}"
            raise InputError(f"{'' if why.startswith('cannot ') else 'cannot read '}{why}; {FORMATS}") from None
