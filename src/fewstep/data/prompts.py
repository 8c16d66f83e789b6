"""Training inputs without pictures: prompts, and for each of them the teacher's own guided samples in place of data."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewstep.data.datasets import rows_at, span
from fewstep.data.encoding import Encoded, conditions, own_leaves, with_own
from fewstep.data.listings import LISTS, rows_of
from fewstep.data.sidecars import CAPTION_NAMES, lines_of, one_caption
from fewstep.errors import InputError, shown
from fewstep.files import path_of
from fewstep.method.conditioning import Condition, take, to
from fewstep.method.guidance import draw_w
from fewstep.method.samplers import deterministic
from fewstep.models.model import Model


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file, and what in it is none."""

    path: str
    prompts: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def read_prompts(path: str | Path, key: str = "data.prompts") -> tuple[str, ...]:
    """The prompts of a file, as `prompt_file` reads them."""
    return prompt_file(path, key).prompts


def prompt_file(path: str | Path, key: str = "data.prompts") -> PromptFile:
    """The prompts of a text file, one a line, or of the column of a .csv, .tsv or .jsonl with a usual name, or of its only one.

    Of a text file blank lines, lines that begin with # and a first line that is the name of a column are no prompts; `\\#` begins a
    prompt with #. `key` of the recipe names the file.

    Raises:
        InputError: there is no such file, it is not UTF-8, or it holds no prompt.
    """
    file = path_of(key, path).expanduser()
    if file.exists() and not file.is_file():  # a pipe may never end, and the file is read more than once
        raise InputError(f"prompts '{path}' are no regular file: set {key} to a text file")
    if file.suffix.lower() in LISTS and file.is_file():
        return prompts_of_list(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"prompts '{path}' cannot be read ({error.strerror}): set {key} to a text file") from None
    lines, left = lines_of(text), []
    columns = [name.strip().strip('"').casefold() for name in re.split("[,;\t]", lines[0])] if lines else []
    if len(columns) > 1 and set(columns) & set(CAPTION_NAMES) and all(re.fullmatch(r"[\w ]{1,20}", name) for name in columns):
        raise InputError(
            f"{file}: the first line {shown(lines[0])} may be the header of a table: end the file's name in .csv or .tsv"
        )
    if columns[:1] == columns and set(columns) & set(CAPTION_NAMES):
        left.append(f"the header {lines.pop(0)!r}")
    if comments := [line for line in lines if line.startswith("#")]:
        left.append(f"{len(comments)} lines that begin with # ({comments[0][:40]})")
    prompts = tuple(line.removeprefix("\\") if line.startswith("\\#") else line for line in lines if not line.startswith("#"))
    if not prompts:
        raise InputError(f"{file} holds no prompt ({text.count(chr(10))} lines, none is one): write one prompt a line")
    return PromptFile(str(path), prompts, tuple(left))


def prompts_of_list(file: Path) -> PromptFile:
    """The prompts of a .csv, .tsv or .jsonl; raises InputError where no column is plainly theirs."""
    rows = rows_of(file)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    column = next((name for name in CAPTION_NAMES if name in columns), columns[0] if len(columns) == 1 else None)
    if column is None:
        raise InputError(f"{file} has no column of prompts ({', '.join(columns) or 'it is empty'}): name one of them 'prompt'")
    found = [one_caption(row.get(column))[0] for row in rows]
    prompts = tuple(prompt for prompt in found if prompt)
    if not prompts:
        raise InputError(f"{file} holds no prompt ({len(rows)} rows, '{column}' is empty in all): write one prompt a row")
    blank = len(found) - len(prompts)
    return PromptFile(str(file), prompts, (f"{blank} rows without a {column}",) if blank else ())


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
        file: PromptFile | None = None,
    ) -> None:
        """`file` is what the prompts were read from. Raises InputError where the model takes no prompts, or fewer steps."""
        limit = model.denoiser.process.train_timesteps
        if model.info.condition != "text":
            raise InputError("data.prompts: this teacher takes class labels, no prompts; give pictures with classes as data.path")
        if steps > limit:
            raise InputError(f"data.sampling_steps is {steps}; this teacher takes 1 to {limit}")
        self.file = file or PromptFile("prompts", prompts)
        self.prompts, self.model, self.guidance_scale = prompts, model, guidance_scale
        self.steps, self.samples, self.seed, self.total = steps, samples, seed, len(prompts) * samples

    buckets = None  # all have the model's size

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
    def encode(self, items: list[tuple[int, str]], condition: Condition) -> tuple[list[Encoded], list[str]]:
        """(those of all items: "x", samples float32 (n, ...) for their condition (n, ...), and "own.LEAF" of what is drawn for each; nothing left out)."""
        denoiser, device = self.model.denoiser, self.model.denoiser.device
        noise, uniform, length = map(torch.stack, zip(*(self.draw(row) for row, _ in items), strict=True))
        own = self.model.family.with_lengths(condition, length)
        w = draw_w(uniform, self.guidance_scale).float().to(device)
        x = deterministic(denoiser.guided(), noise.to(device), self.steps, to(own, device), w, denoiser.process)
        tensors = {"x": x.float().cpu()} | own_leaves(condition, own)
        return [Encoded(tensors, list(range(len(items))))], []

    def draw(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """Noise (...) and two uniform numbers () of a row."""
        state = int(np.random.SeedSequence((self.seed, row)).generate_state(1, np.uint32)[0])
        generator = torch.Generator().manual_seed(state)
        noise = torch.randn(self.model.info.shape, generator=generator)
        one, other = (torch.rand((), generator=generator, dtype=torch.float64) for _ in range(2))
        return noise, one, other


class TeacherSamples:
    """The samples of `PromptRows` made as they are asked for, in epochs shuffled by the seed."""

    ahead = False  # not made beside training, which asks the same network

    def __init__(self, rows: PromptRows, batch: int, seed: int) -> None:
        self.rows, self.encode_batch, self.seed = rows, batch, seed

    def first_conditions(self, count: int) -> tuple[list[str], Condition]:
        """(prompts, conditions (n, ...)) of the first different prompts, at most `count` of them."""
        names = list(dict.fromkeys(self.rows.prompts))[:count]
        return names, conditions(self.rows.model, names, self.encode_batch)

    def batch(self, start: int, count: int) -> tuple[Tensor, Condition]:
        """Samples (count, ...) and conditions (count, ...) from position `start` on."""
        items = [self.rows.item(int(row)) for row in rows_at(span(start, count), self.rows.total, self.seed)]
        condition = conditions(self.rows.model, [prompt for _, prompt in items], self.encode_batch)
        parts = [slice(k, k + self.encode_batch) for k in range(0, count, self.encode_batch)]
        made = [one for part in parts for one in self.rows.encode(items[part], take(condition, part))[0]]
        tensors = {name: torch.cat([one.tensors[name] for one in made]) for name in made[0].tensors}
        return tensors.pop("x"), with_own(condition, tensors)
