"""The share of a run's time that waits for data: JPEGs of 512 pixels, decoded while training, in front of a device that takes 50 ms an update.

    python -m benchmarks.speed.input                          writes benchmarks/results/input.json
    python -m benchmarks.speed.input --batch-size 16 --seconds 0.1

The device is a stand-in: sleep, during which the processor is free, as it is while a GPU computes. Rows: batches read in turn with the
computing, and read ahead on a thread (as every run does); of pictures that are decoded, and of a cache of latents. Exits with 1
where a row of those read ahead is above its goal.
"""

import argparse
import json
import tempfile
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image, ImageFilter
from torch import Tensor, nn

from benchmarks.command import Row, parser_of, progress, run_main, write_result
from fewstep.data.cache_writer import Writer
from fewstep.data.encoding import Encoded
from fewstep.data.latent_cache import CachedData
from fewstep.data.loading import open_data
from fewstep.method.conditioning import Condition
from fewstep.models.denoiser import Denoiser
from fewstep.training.draws import Draws
from fewstep.training.recipe import make_recipe
from fewstep.training.stage import Batch, Stage
from fewstep.training.trainer import Trainer

GOAL = 0.03  # largest share of the time that a run waits for what is read ahead
PICTURES, SIZE = 256, 512
UPDATES = 80


def write_pictures(folder: Path) -> None:
    """JPEGs in two classes, of blurred noise: as large as photographs of that size (about 50 kB)."""
    rng = np.random.default_rng(0)
    for k in range(PICTURES):
        file = folder / "ab"[k % 2] / f"{k:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
        noise.filter(ImageFilter.GaussianBlur(1.5)).save(file, quality=90)


class Latents:
    """Rows of a cache: random latents of the size of Stable Diffusion's for pictures of 512 pixels, and embeddings of 77 tokens."""

    total, classes, buckets = 4096, ("a", "b"), None

    def items(self) -> Any:
        """The numbers of the rows."""
        return iter(range(self.total))

    def prompt_or_label(self, item: int) -> int:
        """A label; the embedding that stands for a prompt's is in `encode`."""
        return item % 2

    def encode(self, items: list[int], condition: Condition) -> tuple[list[Encoded], list[str]]:
        """(latents of all items, nothing skipped)."""
        return [Encoded({"x": torch.randn(len(items), 4, 64, 64)}, list(range(len(items))))], []


def write_latents(folder: Path) -> CachedData:
    """A cache of random latents with labels."""
    model: Any = SimpleNamespace(info=SimpleNamespace(condition="class"))
    Writer(Latents(), model, folder, 256, 256, PartialState(cpu=True), quiet=True).write({"data": {}}, lambda line: None)  # pyright: ignore[reportArgumentType]
    return CachedData(folder)


def sleeping(data: Any, seconds: float) -> Stage:
    """A stage whose error takes so long and is of one weight; nothing else is drawn or computed."""

    def draw(draws: Draws) -> Batch:
        return {}

    def error(denoiser: Denoiser, batch: Batch) -> Tensor:
        time.sleep(seconds)
        network: Any = denoiser.network
        return network.weight.square().expand(len(batch["x"]))

    return Stage("sleeping", UPDATES, 1e-3, "constant", draw, error, data=data)


class Sleeper(nn.Module):
    """A network of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))


def measured(data: Any, options: argparse.Namespace, name: str, ahead: bool) -> Row:
    """A run of the trainer with the data, read ahead or in turn."""
    data.ahead = ahead
    changes = {"batch_size": options.batch_size, "log_every": UPDATES // 4, "log_with": "none", "checkpoint_every": UPDATES}
    recipe = make_recipe({"train": changes})
    with tempfile.TemporaryDirectory() as folder:
        with closing(Trainer(Path(folder), data, recipe.train, "cpu", quiet=True)) as trainer:
            trainer.train(sleeping(data, options.seconds), Denoiser(Sleeper(), "x"))
        lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()][
            1:
        ]  # the first has the opening
    share, speed = (sum(line[key] for line in lines) / len(lines) for key in ("waiting_for_data", "images_per_second"))
    row = {"data": name, "read": "ahead" if ahead else "in turn", "batch_size": options.batch_size, "seconds": options.seconds}
    return row | {"waiting": share, "images_per_second": speed}


def main() -> int:
    """Measure every row; 1 where what is read ahead is waited for longer than the goal."""
    parser = parser_of(__doc__, "input")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.05, help="that the stand-in takes for an update")
    options, rows = parser.parse_args(), []
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(pictures := Path(folder) / "pictures")
        cache = write_latents(Path(folder) / "cache")
        for ahead in (False, True):
            for name, data in (("JPEG", open_data(path=str(pictures), size=SIZE, streaming=True)), ("latents", cache)):
                progress(f"{name}, read {'ahead' if ahead else 'in turn'}")
                rows.append(measured(data, options, name, ahead))
    for row in rows:
        print(f"{row['data']:8} read {row['read']:8} waiting {row['waiting']:6.1%}  {row['images_per_second']:6.1f} images/s")
    write_result(options.out, {"goal": GOAL, "updates": UPDATES, "rows": rows})
    return int(any(row["waiting"] > GOAL for row in rows if row["read"] == "ahead"))


if __name__ == "__main__":
    run_main(main)
