"""What Flux and Qwen-Image share: flows whose transformer takes patches of 2x2 latents as a sequence of tokens, and long texts."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.models.families.stock import Stock, config_of
from fewstep.models.metadata import Info

SIDES = (128, 128)  # of the latents, where the folder does not say: the stock pipelines' default, 1024x1024 pixels
TEXT_TOKENS = 512  # of a prompt: the stock pipelines' default


class Packed(Stock):
    """The method sees latents (b, c, h, w); the network and the stock pipeline tokens (b, h/2 w/2, 4 c)."""

    component = "transformer"

    def describe(self, folder: Path) -> Info:
        """As `Stock` does, with the shape of latents that are not square.

        Raises:
            InputError: as `Stock` does, or latents that make no patches.
        """
        info, (h, w) = super().describe(folder), self.sides(folder)
        return info if h == w else info.model_copy(update={"latent_shape": (info.channels, h, w)})

    def sides(self, folder: Path) -> tuple[int, ...]:
        """(h, w) of the latents."""
        return sides_of(folder, config_of(folder, self.component), SIDES, (2, 2))

    def tokens(self, folder: Path, config: dict[str, Any]) -> int:
        """One for each patch."""
        h, w = self.sides(folder)
        return h * w // 4

    def shape(self, folder: Path, config: dict[str, Any]) -> tuple[int, int, int]:
        """(channels, width) of latents, and the width of pictures."""
        width = self.sides(folder)[1]
        return int(config["in_channels"]) // 4, width, width * self.pixels_of_latent(folder)

    def pixels_of_latent(self, folder: Path) -> int:
        """How many pixels a latent stands for, along a side."""
        return 2 ** (len(config_of(folder, "vae")["block_out_channels"]) - 1)

    def stock_latents(self, z: Tensor, pipeline: Any) -> dict[str, Any]:
        """Tokens, and the size of the picture, without which the pipeline would not know theirs."""
        factor = pipeline.vae_scale_factor
        return {"latents": pack(z), "height": z.shape[2] * factor, "width": z.shape[3] * factor}

    def stock_sample(self, folder: Path, z: Tensor, steps: int, condition: Condition, w: Tensor | None) -> Tensor:
        """Samples (b, c, h, w) from noise z by the folder's stock pipeline."""
        samples = super().stock_sample(folder, z, steps, condition, w)
        assert samples is not None
        return unpack(samples, z)


def pack(z: Tensor) -> Tensor:
    """Tokens (b, h/2 w/2, 4 c) of latents z (b, c, h, w)."""
    return z.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, like: Tensor) -> Tensor:
    """Latents shaped as `like` (b, c, h, w) of tokens (b, h/2 w/2, 4 c)."""
    b, c, h, w = like.shape
    return tokens.reshape(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)


def sides_of(folder: Path, config: dict[str, Any], usual: tuple[int, ...], patch: tuple[int, ...]) -> tuple[int, ...]:
    """The sides of latents: `sample_size` in the network's config, a number or a list as long as `usual`, else `usual`.

    Raises:
        InputError: another number of sides, or one that is not a multiple of the patch.
    """
    given = config.get("sample_size") or usual
    sides = (given,) * len(usual) if isinstance(given, int) else tuple(given)
    if len(sides) != len(usual) or any(side < 1 or side % step for side, step in zip(sides, patch, strict=False)):
        raise InputError(
            f"{folder}: sample_size {given} makes no patches; {len(usual)} multiples of {list(patch)} are needed, in latents, as {list(usual)}"
        )
    return sides


def random_text(n: int, *shape: int, seed: int = 0) -> Tensor:
    """Text (n, ...) that is always the same, on the CPU, for `example`."""
    return torch.randn(n, *shape, generator=torch.Generator(device="cpu").manual_seed(seed), device="cpu")
