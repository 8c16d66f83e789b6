"""The commands that use models: sample, show, bench."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fewstep.cli.options import AsJson, Device, Seed, app, say


@app.command(
    epilog="Example:  fewstep sample runs/quickstart --steps 2 --class-label 3 --class-label 8 --guidance-scale 2.5 --out pictures"
)
def sample(
    model: Annotated[str, typer.Argument(help="Model folder, run folder, or 'digits'.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write, new or empty.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps; a student's own without it.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="1 is none, as in diffusers; without it 1.")] = None,
    class_label: Annotated[list[str] | None, typer.Option(help="Class, by name or number; again for more. All without it.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What to show, of a model that takes text; again for more.")] = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(help="What to keep away from; teachers take it, and students trained with student.negative_prompts."),
    ] = None,
    num_images: Annotated[int | None, typer.Option(min=1, help="How many; labels or prompts are taken in turn.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 256,
    sampler: Annotated[str | None, typer.Option(help="deterministic or stochastic.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Also write samples.safetensors: noise and samples, float32, not clipped.")
    ] = False,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Draw images: 00000.png, ..., grid.png and samples.json."""
    from torch import Tensor

    from fewstep.api import open_model
    from fewstep.cli.sample_files import write_samples
    from fewstep.devices import best_device

    opened = open_model(model, best_device(device), steps)
    labels = class_label or (None if opened.info.condition == "text" or prompt else list(range(len(opened.info.classes))))
    condition = opened.condition(labels, prompt, num_images)
    said = {"class_labels": condition.tolist()} if isinstance(condition, Tensor) else {"prompts": prompt}
    wanted = {"model": str(model)} | said | ({"negative_prompt": negative_prompt} if negative_prompt else {})
    choices = {"steps": steps, "guidance_scale": guidance_scale, "seed": seed or 0, "sampler": sampler}
    print(write_samples(out, opened.with_negative_prompt(negative_prompt), condition, wanted, choices, batch_size, raw))


@app.command(
    epilog="Examples:  fewstep show runs/quickstart    fewstep show digits --json    fewstep show images/    "
    "fewstep show configs-of-a-pipeline/ --images-per-second 40"
)
def show(
    path: Annotated[str, typer.Argument(help="Model folder, run folder, recipe, or data; or a shipped name.")],
    images_per_second: Annotated[
        float | None,
        typer.Option(min=1e-9, help="Of a teacher: images that one device trains its network on; tells the time of distilling."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images an update, for that. [default: 128]")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="Devices of sharded training. [default: 8]")] = None,
    as_json: AsJson = False,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Say what a model, run, recipe or data folder is, with its memory and cost."""
    from fewstep.training.describe import describe, describe_text

    found = describe(path, images_per_second=images_per_second, batch_size=batch_size, devices=devices)
    print(json.dumps(found, indent=1) if as_json else describe_text(found))


@app.command(epilog="Example:  fewstep bench runs/quickstart/steps-0004")
def bench(
    model: Annotated[str, typer.Argument(help="Model folder, run folder, or 'digits'.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time, for the throughput.")] = 64,
    repeats: Annotated[int, typer.Option(min=3, help="Runs that a median is taken of.")] = 20,
    as_json: AsJson = False,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Latency, throughput, overhead over the bare network, and peak memory."""
    from fewstep.api import open_model
    from fewstep.devices import best_device
    from fewstep.evaluation.latency import bench_model, bench_text

    found = bench_model(open_model(model, best_device(device)), batch_size, repeats, progress=say)
    print(json.dumps(found, indent=1) if as_json else bench_text(found))
