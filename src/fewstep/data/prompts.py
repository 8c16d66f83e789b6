"""Training inputs without pictures: prompts, and for each of them the teacher's own guided samples in place of data."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewstep.data.datasets import rows_at, span
from fewstep.data.encoding import conditions
from fewstep.errors import InputError
from fewstep.method.conditioning import Condition, take, to
from fewstep.method.guidance import draw_w
from fewstep.method.samplers import deterministic
from fewstep.models.model import Model


def read_prompts(path: str | Path, key: str = "data.prompts") -> tuple[str, ...]:
    """The prompts of a text file, one a line; blank lines are none. `key` of the recipe names the file.

    Raises:
        InputError: there is no such file, it is not UTF-8, or it holds no prompt.
    """
    file = Path(path).expanduser()
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"prompts '{path}' cannot be read ({error.strerror}): set {key} to a text file") from None
    prompts = tuple(line for line in lines if line)
    if not prompts:
        raise InputError(f"{file} holds no prompt ({len(lines)} lines, all blank): write one prompt a line")
    return prompts


class PromptRows:
    """`samples` guided samples of a teacher for each prompt, in order, each a function of its row and the seed.

    The guidance scale of each is drawn uniformly from the range, which is the student's; the steps are DDIM's.
    """

    def __init__(
        self,
        prompts: tuple[str, ...],
        model: Model,
        guidance_scale: tuple[float, float],
        steps: int,
        samples: int = 1,
        seed: int = 0,
    ) -> None:
        """Raises InputError where the model takes no prompts, or fewer steps."""
        limit = model.denoiser.process.train_timesteps
        if model.info.condition != "text":
            raise InputError("data.prompts: this teacher takes class labels, no prompts; give pictures with classes as data.path")
        if steps > limit:
            raise InputError(f"data.sampling_steps is {steps}; this teacher takes 1 to {limit}")
        self.prompts, self.model, self.guidance_scale = prompts, model, guidance_scale
        self.steps, self.samples, self.seed, self.total = steps, samples, seed, len(prompts) * samples

    def items(self) -> Iterator[tuple[int, str]]:
        """(row, prompt), the samples of a prompt one after another."""
        return map(self.item, range(self.total))

    def item(self, row: int) -> tuple[int, str]:
        """The row and its prompt."""
        return row, self.prompts[row // self.samples]

    def prompt_or_label(self, item: tuple[int, str]) -> str:
        """The prompt."""
        return item[1]

    @torch.no_grad()
    def encode(self, items: list[tuple[int, str]], condition: Condition) -> tuple[dict[str, Tensor], list[int], list[str]]:
        """({"x": samples float32 (n, ...)}, all places in `items`, nothing skipped) for their condition (n, ...)."""
        denoiser, device = self.model.denoiser, self.model.denoiser.device
        noise, uniform = map(torch.stack, zip(*(self.draw(row) for row, _ in items), strict=True))
        w = draw_w(uniform, self.guidance_scale).float().to(device)
        x = deterministic(denoiser.guided(), noise.to(device), self.steps, to(condition, device), w, denoiser.process)
        return {"x": x.float().cpu()}, list(range(len(items))), []

    def draw(self, row: int) -> tuple[Tensor, Tensor]:
        """Noise (...) and a uniform number () of a row."""
        state = int(np.random.SeedSequence((self.seed, row)).generate_state(1, np.uint32)[0])
        generator = torch.Generator().manual_seed(state)
        return torch.randn(self.model.info.shape, generator=generator), torch.rand((), generator=generator, dtype=torch.float64)


class TeacherSamples:
    """The samples of `PromptRows` made as they are asked for, in epochs shuffled by the seed."""

    ahead = False  # not made beside training, which asks the same network

    def __init__(self, rows: PromptRows, batch: int, seed: int) -> None:
        self.rows, self.encode_batch, self.seed = rows, batch, seed

    def batch(self, start: int, count: int) -> tuple[Tensor, Condition]:
        """Samples (count, ...) and conditions (count, ...) from position `start` on."""
        items = [self.rows.item(int(row)) for row in rows_at(span(start, count), self.rows.total, self.seed)]
        condition = conditions(self.rows.model, [prompt for _, prompt in items], self.encode_batch)
        parts = [slice(k, k + self.encode_batch) for k in range(0, count, self.encode_batch)]
        return torch.cat([self.rows.encode(items[part], take(condition, part))[0]["x"] for part in parts]), condition
