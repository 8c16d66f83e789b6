"""Samples as files: one PNG an image, a grid of them, their settings, and on request the numbers themselves."""

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.api import Model
from fewstep.errors import InputError
from fewstep.files import check_new
from fewstep.method.conditioning import Condition, leaf
from fewstep.models.sampling import to_images
from fewstep.progress import LiveLine

FRAME = 1000 / 16  # milliseconds, of a video


def grid_of(x: Tensor, columns: int | None = None, margin: int = 1) -> Any:
    """One PIL image of x (n, c, h, w) in [-1, 1], row by row on white; tiny images are enlarged to at least 32 pixels.

    Of videos (n, c, frames, h, w), each is a row.
    """
    from PIL import Image

    if x.ndim == 5:
        columns, x = x.shape[2], x.transpose(1, 2).flatten(0, 1)
    enlarge = max(1, 32 // x.shape[-1])
    images = [image.resize((image.width * enlarge, image.height * enlarge), Image.Resampling.NEAREST) for image in to_images(x)]
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows, (width, height) = -(-len(images) // columns), images[0].size
    grid = Image.new(images[0].mode, (columns * (width + margin) - margin, rows * (height + margin) - margin), "white")
    for i, image in enumerate(images):
        grid.paste(image, (i % columns * (width + margin), i // columns * (height + margin)))
    return grid


def write_samples(
    out: Path, model: Model, condition: Condition, wanted: dict[str, Any], choices: dict[str, Any], batch_size: int, raw: bool
) -> str:
    """Sample for a condition (n, ...) and write the pictures into `out`, `wanted` in its record; a line that says what was done.

    Raises:
        InputError: `out` holds something else or cannot be written, or a choice does not fit the model.
    """
    check_new(out)
    line = LiveLine()
    total = len(leaf(condition))
    drawn = model.sample_tensor(
        condition, batch_size=batch_size, progress=lambda done: line.show(f"{done}/{total} images", done == total), **choices
    )
    pictures = drawn.pictures()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(to_images(pictures)):
            first, *rest = image if isinstance(image, list) else [image]
            first.save(out / f"{i:05d}.png", **({"save_all": True, "append_images": rest, "duration": FRAME} if rest else {}))
        grid_of(pictures[:100]).save(out / "grid.png")
        if raw:
            from safetensors.torch import save_file

            save_file({"noise": drawn.noise.float(), "samples": drawn.samples}, out / "samples.safetensors")
        settings = choices | {"steps": choices["steps"] or drawn.steps, "sampler": drawn.sampler}
        settings["guidance_scale"] = model.scale_or_own(choices["guidance_scale"])
        record = wanted | settings | {"evaluations": drawn.evaluations, "seconds": drawn.seconds}
        (out / "samples.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error}; free some space or name another --out") from None
    plural = "s" if drawn.evaluations > 1 else ""
    each = 1000 * drawn.seconds / total
    return f"{total} images, {drawn.evaluations} evaluation{plural} of the network each, {each:.2f} ms an image: {out / 'grid.png'}"
