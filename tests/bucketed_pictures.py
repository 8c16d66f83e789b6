"""Folders of pictures of many proportions with captions, and what is trained on of them."""

import numpy as np
from PIL import Image

import fewstep
from conftest import TINY
from fewstep.training.examples import prepared
from fewstep.training.recipe import load_recipe

SQUARE, WIDE, TALL = (16, 16), (24, 12), (12, 24)  # width, height
BUCKETS = [list(SQUARE), list(WIDE), list(TALL)]
SIZES = [(40, 40)] * 5 + [(60, 30)] * 6 + [(30, 60)] * 2 + [(200, 20), (9, 8)]  # of which 7 are wide, 6 square, 2 tall


def pictures(folder, sizes=SIZES):
    """A folder with a picture of each size, all different, with a caption of a letter."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k, (width, height) in enumerate(sizes):
        small = rng.integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
        Image.fromarray(small).resize((width, height)).save(folder / f"{k:02d}.png")
        (folder / f"{k:02d}.txt").write_text("abcdefgh"[k % 8])
    return folder


def recipe_of(data, **changes):
    """A tiny recipe for them."""
    tiny = {key: value for key, value in TINY.items() if not key.startswith(("network", "teach"))}
    known = {
        "data.path": str(data),
        "data.buckets": BUCKETS,
        "data.shard_size": 4,
        "data.encode_batch": 3,
        "train.log_with": "none",
    }
    return load_recipe(None, tiny | known | {key.replace("__", "."): value for key, value in changes.items()})


def examples_of(teacher, data, cache=None, **changes):
    """What a teacher's folder is trained on, from a cache or encoded as it is asked for."""
    recipe = recipe_of(data, data__on_the_fly=cache is None, **changes)
    made = prepared(None, recipe, fewstep.open_model(teacher))
    return made if cache is None else made.written(cache, recipe, "cpu", True)
