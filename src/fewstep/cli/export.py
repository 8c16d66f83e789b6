"""The command that writes models for use elsewhere: export."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from fewstep.cli.options import Device, Lora, Seed, Variant, app
from fewstep.errors import InputError

EXAMPLES = """\b
Examples:
  fewstep export runs/mine my-student
  fewstep export runs/mine plain --guidance-scale 2.5
  fewstep export runs/mine checkpoint --format comfyui --guidance-scale 2.5
  fewstep export runs/mine half --dtype float16 --max-shard-size 5GB
  fewstep export runs/mine network --format onnx
  fewstep export runs/lora adapters --format lora --guidance-scale 2.5
  fewstep export runs/lora adapters --format lora --layout kohya --guidance-scale 2 --guidance-scale 4
  fewstep export runs/mine --push-to-hub me/my-student --private"""


@app.command(epilog=EXAMPLES)
def export(
    model: Annotated[str, typer.Argument(help="Model folder, run folder, or 'digits'.")],
    out: Annotated[Path | None, typer.Argument(help="Folder to write, new or empty; not needed with --push-to-hub.")] = None,
    guidance_scale: Annotated[
        list[float] | None, typer.Option(help="Bake this scale in; again for more, of a DiT or as LoRA files.")
    ] = None,
    format: Annotated[
        str, typer.Option(help="diffusers, comfyui (one file and a workflow), onnx (the network), or lora (of a LoRA student).")
    ] = "diffusers",
    layout: Annotated[str, typer.Option(help="Names in LoRA files: diffusers, or kohya (sd-scripts, ComfyUI).")] = "diffusers",
    dtype: Annotated[str | None, typer.Option(help="Write the weights in it: float32, float16 or bfloat16.")] = None,
    max_shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Write a pipeline's network in files of at most this size, as 5GB.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="Bake this in, of a student of student.negative_prompts.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Which student of a run; the one of fewest steps without it.")] = None,
    variant: Variant = None,
    lora: Lora = None,
    push_to_hub: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to this repository of the hub.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository a private one.")] = False,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Write a model for use elsewhere: a pipeline folder, with a guidance scale baked in or without, or its network as ONNX."""
    from fewstep.api import open_model
    from fewstep.devices import best_device
    from fewstep.export.formats import export as write
    from fewstep.export.hub import check_id, push_folder

    if out is None and push_to_hub is None:
        raise InputError("no folder to write is given; name one, or a repository with --push-to-hub OWNER/NAME")
    if push_to_hub:
        check_id(push_to_hub)
    opened = open_model(model, best_device(device or "cpu"), steps, variant=variant, lora=lora)
    if negative_prompt is not None and not opened.info.negative_prompts:
        raise InputError("--negative-prompt: only a student distilled with student.negative_prompts = true takes one; leave it out")
    opened, chosen = (
        opened.with_negative_prompt(negative_prompt),
        {
            "guidance_scale": guidance_scale or (),
            "format": format,
            "layout": layout,
            "dtype": dtype,
            "max_shard_size": max_shard_size,
        },
    )
    with tempfile.TemporaryDirectory(prefix="fewstep-") as aside:
        folder = write(opened, out or Path(aside) / "model", name=push_to_hub, **chosen)
        if out:
            print(out)
        if push_to_hub:
            print(push_folder(folder, push_to_hub, private=private))
