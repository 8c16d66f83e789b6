"""The commands that use models: sample, show, bench."""

import json
from typing import Annotated

import typer

from fewstep.cli import options
from fewstep.cli.options import app, say, scale_or_scales


@app.command(epilog="Example:  fewstep sample runs/quickstart --steps 2 --class-label 3 --class-label 8 --out pictures")
def sample(
    model: options.ModelPath, out: options.NewOut, variant: options.Variant = None, lora: options.Lora = None, steps: options.Steps = None,
    guidance_scale: Annotated[
        str | None, typer.Option(help="As in diffusers, or one a step as 1/2/2/2; without it 1, which is none, or that baked in.")
    ] = None,
    class_label: options.Labels = None, prompt: options.Prompts = None,
    negative_prompt: options.NegativePrompt = None,
    num_images: Annotated[int | None, typer.Option(min=1, help="How many; labels or prompts are taken in turn.")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="In pixels, of a network that takes any size; without it the model's own.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="As --height.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Length of a sound; without it the longest that the model makes.")] = None,
    batch_size: options.BatchSize = 256, sampler: options.Sampler = None,
    raw: Annotated[bool, typer.Option("--raw", help="Also samples.safetensors: noise and samples, float32, not clipped.")] = False,
    seed: options.Seed = 0, device: options.Device = None,
) -> None:  # fmt: skip
    """Draw images: 00000.png, ..., grid.png and samples.json; of a model of sounds 00000.wav, ... in place of pictures."""
    from torch import Tensor

    from fewstep.api import open_model
    from fewstep.cli.sample_files import write_samples
    from fewstep.devices import best_device
    from fewstep.models.sizes import at_length, at_size

    opened = at_size(open_model(model, best_device(device), steps, variant=variant, lora=lora), height, width)
    opened = at_length(opened, seconds)
    labels = class_label or (None if opened.info.condition == "text" or prompt else list(range(len(opened.info.classes))))
    condition = opened.condition(labels, prompt, num_images)
    record = {"class_labels": condition.tolist()} if isinstance(condition, Tensor) else {"prompts": prompt}
    record = (
        {"model": model}
        | record
        | ({"negative_prompt": negative_prompt} if negative_prompt else {})
        | ({"lora": lora} if lora else {})
        | {name: side for name, side in (("height", height), ("width", width), ("seconds_of_sound", seconds)) if side}
    )
    choices = {"steps": steps, "guidance_scale": scale_or_scales(guidance_scale), "seed": seed or 0, "sampler": sampler}
    print(write_samples(out, opened.with_negative_prompt(negative_prompt), condition, record, choices, batch_size, raw))


@app.command(
    epilog="Examples:  fewstep show runs/quickstart    fewstep show digits --json    fewstep show images/ --buckets 1024    "
    "fewstep show configs-of-a-pipeline/ --images-per-second 40"
)
def show(
    path: Annotated[str, typer.Argument(help="Model folder, run folder, recipe, cache, or data; or a shipped name.")],
    variant: options.Variant = None,
    images_per_second: Annotated[
        float | None, typer.Option(min=1e-9, help="Images a second that a device trains the teacher on: the time of distilling.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images an update, for that. [default: 128]")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="Devices of sharded training. [default: 8]")] = None,
    buckets: Annotated[
        int | None, typer.Option(min=64, max=8192, help="Of data: how pictures go to the aspect-ratio buckets of this square's area.")
    ] = None,
    as_json: options.AsJson = False, seed: options.Seed = None, device: options.Device = None,
) -> None:  # fmt: skip
    """Say what a model, run, recipe, cache or data folder is, with its memory and cost."""
    from fewstep.training.describe import describe, describe_text

    found = describe(path, variant, buckets, images_per_second=images_per_second, batch_size=batch_size, devices=devices)
    print(json.dumps(found, indent=1) if as_json else describe_text(found))


@app.command(epilog="Example:  fewstep bench runs/quickstart/steps-0004")
def bench(
    model: options.ModelPath, variant: options.Variant = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time, for the throughput.")] = 64,
    repeats: Annotated[int, typer.Option(min=3, help="Runs that a median is taken of.")] = 20,
    as_json: options.AsJson = False, seed: options.Seed = None, device: options.Device = None,
) -> None:  # fmt: skip
    """Latency, throughput, overhead over the bare network, and peak memory."""
    from fewstep.api import open_model
    from fewstep.devices import best_device
    from fewstep.evaluation.latency import bench_model, bench_text

    found = bench_model(open_model(model, best_device(device), variant=variant), batch_size, repeats, progress=say)
    print(json.dumps(found, indent=1) if as_json else bench_text(found))
