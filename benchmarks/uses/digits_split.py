"""Handwritten digits in two files, so that what was trained on one can be measured on the other.

    python -m benchmarks.uses.digits_split --out runs/digits-split

Writes train.npz and test.npz, `images` uint8 (n, 8, 8) and `labels` (n,): a fixed random 300 of the 1,797 images are held out. The same
people wrote both parts.
"""

from pathlib import Path

import numpy as np
from benchmarks.command import parser_of

from fewstep.data.loading import Data, open_data

HELD_OUT = 300


def split(out: Path) -> dict[str, int]:
    """Write both files; how many images each has."""
    data = open_data(name="digits")
    assert isinstance(data, Data)
    order = np.random.default_rng(0).permutation(len(data))
    out.mkdir(parents=True, exist_ok=True)
    parts = {"test": order[:HELD_OUT], "train": order[HELD_OUT:]}
    for name, rows in parts.items():
        np.savez_compressed(out / f"{name}.npz", images=data.pixels.numpy()[rows, 0], labels=data.labels.numpy()[rows])
    return {name: len(rows) for name, rows in parts.items()}


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    out = parser.parse_args(words).out
    for name, count in split(out).items():
        print(f"{out / name}.npz: {count} images")


if __name__ == "__main__":
    main()
