"""Latents whose size no config of diffusers names (Flux, Qwen-Image, Z-Image, Wan), and those that a transformer takes as packed tokens."""

from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.errors import InputError
from fewstep.models.families import AnySize
from fewstep.models.families.diffusers_family import DiffusersFamily
from fewstep.models.metadata import Info

TEXT_TOKENS = 512  # of a prompt: the stock pipelines' default


class ChosenSize(DiffusersFamily):
    """The part of `Family` that follows from `sides`: the stock pipeline's default, or `sample_size` in the network's config."""

    component = "transformer"
    patches = 2, 2  # how many latents along each side make a token

    def usual_sides(self, folder: Path) -> tuple[int, ...]:
        """The sides of the latents of the stock pipeline's default size, here those of 1024x1024 pixels."""
        return (1024 // self.pixels_of_latent(folder),) * 2

    def sides(self, folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
        """The sides of the latents.

        Raises:
            InputError: another number of sides than usual, or one that is not a multiple of the patch.
        """
        usual, patch = self.usual_sides(folder), self.patch(config)
        given = config.get("sample_size") or usual
        sides = (given,) * len(usual) if isinstance(given, int) else tuple(given)
        if len(sides) != len(usual) or any(side < 1 or side % step for side, step in zip(sides, patch, strict=False)):
            raise InputError(
                f"{folder}: sample_size {given} makes no patches; {len(usual)} multiples of {list(patch)} are needed, in latents, as {list(usual)}"
            )
        return sides

    def describe(self, folder: Path) -> Info:
        """As `DiffusersFamily` does, the pictures in colour.

        Raises:
            InputError: as `DiffusersFamily` does, or latents that make no patches.
        """
        return super().describe(folder).model_copy(update={"image_channels": 3})

    def patch(self, config: dict[str, Any]) -> tuple[int, ...]:
        """How many latents along each side make a token."""
        return self.patches

    def frames_of_latent(self, folder: Path) -> int | None:
        """How many frames a latent of a video stands for; None of a picture."""
        return None

    def any_size(self) -> AnySize:
        """Whole patches."""
        return AnySize(self.patches[-1])

    def stock_call(self, pipeline: Any, z: Tensor, condition: Any, settings: dict[str, Any]) -> Tensor:
        """Samples, of a pipeline that takes the size of its picture, if it is one."""
        size = self.picture_size(z) if z.ndim == 4 else {}
        return super().stock_call(pipeline, z, condition, size | settings)

    def picture_size(self, z: Tensor) -> dict[str, int]:
        """The stock pipeline's arguments for the picture that latents z (b, c, h, w) stand for."""
        assert self.folder is not None
        pixels = self.pixels_of_latent(self.folder)
        return {"height": z.shape[2] * pixels, "width": z.shape[3] * pixels}


class VideoLatents(ChosenSize):
    """Latents of videos, whose `ratios` say what one stands for."""

    video: tuple[int, int, int]  # frames, height and width: the stock pipeline's defaults

    def ratios(self, folder: Path) -> tuple[int, int]:
        """How many frames, and how many pixels along a side, a latent stands for."""
        raise NotImplementedError

    def frames_of_latent(self, folder: Path) -> int:
        """How many frames a latent stands for."""
        return self.ratios(folder)[0]

    def pixels_of_latent(self, folder: Path) -> int:
        """How many pixels a latent stands for, along a side."""
        return self.ratios(folder)[1]

    def usual_sides(self, folder: Path) -> tuple[int, ...]:
        """(frames, h, w) of the stock pipeline's default video."""
        (frames, height, width), (times, space) = self.video, self.ratios(folder)
        return (frames - 1) // times + 1, height // space, width // space


class Packed(ChosenSize):
    """The method sees latents (b, c, h, w); the network and the stock pipeline tokens (b, h/2 w/2, 4 c)."""

    def usual_sides(self, folder: Path) -> tuple[int, ...]:
        """Those of 1024x1024 pixels of a VAE of 8x."""
        return 128, 128

    def tokens(self, folder: Path, config: dict[str, Any]) -> int:
        """One for each patch."""
        h, w = self.sides(folder, config)
        return h * w // 4

    def channels(self, config: dict[str, Any]) -> int:
        """Of latents: a token is a patch of four."""
        return int(config["in_channels"]) // 4

    def packed(self, z: Tensor) -> Tensor:
        """Tokens (b, h/2 w/2, 4 c) of latents z (b, c, h, w)."""
        return pack(z)

    def output(self, output: Tensor, z: Tensor) -> Tensor:
        """Latents shaped as z of tokens."""
        return unpack(output, z)

    def stock_call(self, pipeline: Any, z: Tensor, condition: Any, settings: dict[str, Any]) -> Tensor:
        """Samples (1, c, h, w): the pipeline takes tokens."""
        return unpack(super().stock_call(pipeline, pack(z), condition, settings | self.picture_size(z)), z)


def check_video(x: Tensor) -> Tensor:
    """The videos x (n, 3, frames, h, w) themselves; InputError for pictures."""
    if x.ndim != 5:
        raise InputError(
            "this model makes videos (n, 3, frames, height, width), not pictures; give data whose batches hold latents of videos"
        )
    return x


def pack(z: Tensor) -> Tensor:
    """Tokens (b, h/2 w/2, 4 c) of latents z (b, c, h, w)."""
    return z.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, like: Tensor) -> Tensor:
    """Latents shaped as `like` (b, c, h, w) of tokens (b, h/2 w/2, 4 c)."""
    b, c, h, w = like.shape
    return tokens.reshape(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)
