"""Whether a student is sampled as fast by fewstep as by the stock pipeline of its own folder, family by family, timed in turn in one run.

    python -m benchmarks.speed.stock_pipelines                          the tiny networks of tests/; writes benchmarks/results/stock-pipelines.json
    python -m benchmarks.speed.stock_pipelines --only "Stable Diffusion, eps" Flux
    python -m benchmarks.speed.stock_pipelines --student runs/mine/steps-0004 --device cuda

One picture from one noise and one encoded prompt, latents out, so that text encoder and VAE, which are the same for both, are left out. Of a tiny
network the time is that of everything around it, which is what the two differ in; of a large one, of `--student`, it is the network's. A student without
stock pipeline (class-conditional UNets, whose pipelines take no labels) has no row. Exits with 1 where a ratio is above its goal. Measure on a machine that does nothing else.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import Row, parser_of, progress, run_main, write_result
from benchmarks.speed import tables
from fewstep.api import Model, open_model
from fewstep.evaluation.latency import timed
from fewstep.method.conditioning import to
from fewstep.models.families.diffusers_family import DiffusersFamily
from fewstep.models.families.pipeline_folder import quiet
from fewstep.models.families.unchanged_parts import bare_pipeline
from fewstep.training.distill import next_student, student_of
from fewstep.training.recipe import load_recipe

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from family_cases import CASES

GOAL = 1.0  # largest ratio of our time to the stock pipeline's
STEPS = 4
SCALE = 2.0  # that is baked in, for pipelines that give a student none


def tiny_student(name: str, root: Path) -> Model:
    """A family's tiny student of `STEPS` steps in a folder, plain where its pipeline gives it no scale."""
    teacher = open_model(CASES[name].build(root / "teacher"))
    made = next_student(student_of(load_recipe(), teacher), STEPS)
    student = Model(made.denoiser, made.info, made.family)
    takes_w = getattr(student.family, "stock_takes_w", False)
    return open_model((student if takes_w else student.bake(SCALE)).save(root / "student"))


def row_of(name: str, model: Model, repeats: int) -> Row | None:
    """Seconds of a picture by fewstep and by the folder's stock pipeline, and how far apart the two are; None where it has none.

    Both draw from the same noise for the same condition, at the scale that is baked in, or at the middle of the range.
    """
    family, info, device = model.family, model.info, model.denoiser.device
    if not isinstance(family, DiffusersFamily) or type(family).stock_sample is not DiffusersFamily.stock_sample:
        return None
    assert family.folder is not None and info.guidance_scale is not None
    steps, scale = info.steps or STEPS, sum(info.guidance_scale) / 2
    if info.takes_w and not family.stock_takes_w:
        model = model.bake(scale)
    noise = torch.randn(1, *info.shape, generator=torch.Generator().manual_seed(0))
    condition = to(model.example(1), device)
    with quiet():
        parts = family.stock_parts(model.denoiser.network)
        if family.stock_reads_autoencoder:
            parts[family.autoencoder] = family.autoencoder_on(device)
        pipeline: Any = bare_pipeline(family.sampling_class(), family.folder, parts, family.autoencoder)
        pipeline.set_progress_bar_config(disable=True)
        settings = family.stock_settings(family.folder, pipeline, steps)
        settings["guidance_scale"] = scale if family.stock_takes_w else family.unguided
        found: dict[str, Any] = {}

        def ours() -> None:
            found["ours"] = model.sample_tensor(condition, steps=steps, guidance_scale=scale, noise=noise).samples

        @torch.no_grad()
        def stock() -> None:
            found["stock"] = family.stock_call(pipeline, noise.to(device), condition, dict(settings))

        row = timed(ours, stock, repeats, device)
    difference = float((found["ours"] - found["stock"].float().cpu()).abs().max())
    known = {"family": name, "pipeline": type(pipeline).__name__, "steps": steps, "goal": GOAL, "difference": difference}
    parameters = sum(p.numel() for p in model.denoiser.network.parameters())
    return known | {"parameters": parameters} | {key: row[key] for key in ("seconds", "bare_seconds", "ratio", "repeats")}


def main(words: list[str] | None = None) -> int:
    parser = parser_of(__doc__, "stock-pipelines")
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--student", help="a student's folder, in place of the tiny ones")
    parser.add_argument("--repeats", type=int, default=20, help="pairs of runs of which the median is taken")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    rows = []
    for name in [args.student] if args.student else args.only:
        progress(name)
        with tempfile.TemporaryDirectory(prefix="stock-") as root:
            model = open_model(args.student) if args.student else tiny_student(name, Path(root))
            if (row := row_of(name, model.to(args.device), args.repeats)) is not None:
                rows.append(row)
    result = {"rows": rows}
    print(tables.stock_pipelines(result))
    write_result(args.out, result, args.device)
    return int(any(row["ratio"] > row["goal"] for row in rows))


if __name__ == "__main__":
    run_main(main)
