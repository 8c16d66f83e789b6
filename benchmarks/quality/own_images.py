"""The recipe own-images on a folder of pictures, as a newcomer would run it: what it takes, how good it is, and a picture.

    python -m benchmarks.quality.own_images --fashion fashion_mnist/train.npz --run runs/own-images --out benchmarks/results/own-images.json

The folder is made of 500 pictures each of 4 classes of Fashion-MNIST. Time is that of the processor, on one thread; that of a command is
kept in the run's folder, so that the same call resumes.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import fewstep
from benchmarks.command import parser_of, run_main, write_result

CLASSES = {1: "Trouser", 7: "Sneaker", 8: "Bag", 9: "Boot"}
EACH = 500
SCALES = (1.0, 2.0, 3.0)
STEPS = 32  # of the teacher
SHOWN = 8  # pictures of each class


def write_folder(fashion: Path, folder: Path) -> Path:
    """A folder with a sub-folder a class, of the first pictures of each."""
    with np.load(fashion) as found:
        images, labels = found["images"], found["labels"]
    for label, name in CLASSES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, place in enumerate(np.flatnonzero(labels == label)[:EACH]):
            Image.fromarray(images[place].squeeze()).save(folder / name / f"{number:03d}.png")
    return folder


def timed(run: Path, *words: str) -> dict[str, float]:
    """Run `fewstep WORDS` on one thread; the seconds of the processor and of the clock that it took, also when it ran before."""
    kept = run / f"{words[0]}.json"
    if not kept.is_file():
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "fewstep", *words, "--device", "cpu"], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        kept.write_text(json.dumps({"cpu_seconds": round(used, 1), "seconds": round(seconds, 1)}))
    return json.loads(kept.read_text())


def draw(run: Path, path: Path) -> None:
    """The teacher's pictures of many steps over those of the students, from the same noise, at guidance scale 2."""
    teacher = fewstep.open_model(run / "teacher" / "teacher")
    models = [(teacher, STEPS), *((fewstep.open_model(run / "student", steps=n), n) for n in (4, 2))]
    labels = teacher.labels(list(range(len(CLASSES))) * SHOWN)
    noise = torch.randn(len(labels), *teacher.info.shape, generator=torch.Generator().manual_seed(0))
    rows = [model.sample_tensor(labels, steps=n, guidance_scale=2.0, noise=noise).images() for model, n in models]
    side, gap = 3 * teacher.info.size, 4
    sheet = Image.new("L", (len(labels) * side // 2, (2 * len(rows)) * side + (len(rows) - 1) * gap), "white")
    for y, images in enumerate(rows):
        for place, image in enumerate(images):
            half, x = divmod(place, len(labels) // 2)
            sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (x * side, (2 * y + half) * side + y * gap))
    sheet.save(path, optimize=True)


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "own-images")
    parser.add_argument("--fashion", type=Path, required=True, help="Fashion-MNIST's training images, .npz")
    parser.add_argument("--run", type=Path, default=Path("runs/own-images"), help="new: the times are those of the whole")
    parser.add_argument("--picture", type=Path, default=Path("docs/own-images.png"))
    parser.add_argument("--samples", type=int, default=300)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    run, images = args.run, str(write_folder(args.fashion, args.run / "images"))
    given, teacher = ("--set", f"data.path={images}"), run / "teacher" / "teacher"
    taught = timed(run, "teach", "own-images", *given, "--out", str(run / "teacher"))
    distilled = timed(run, "distill", "own-images", *given, "--set", f"teacher.path={teacher}", "--out", str(run / "student"))
    found = fewstep.evaluate(
        run / "student", images, run / "evaluation", against=teacher, steps=(4, 2), guidance_scale=SCALES,
        baselines=("ddim", "unipc"), budgets=(8, 16), samples=args.samples, reference_steps=STEPS, resize=True, device="cpu",
    )  # fmt: skip
    draw(run, args.picture)
    write_result(args.out, {"teach": taught, "distill": distilled, "data": found["data"], "rows": found["rows"]})


if __name__ == "__main__":
    run_main(main)
