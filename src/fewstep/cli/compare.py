"""The command that puts models side by side: compare."""

from typing import Annotated

import typer

from fewstep.cli import options
from fewstep.cli.options import app, listed


@app.command(
    epilog="Examples:  fewstep compare runs/a runs/b --out compared    "
    'fewstep compare my-student my-teacher --prompt "a cat" --guidance-scale 2,5 --out compared'
)
def compare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Run folders (all their students), model folders, pipelines.")],
    out: options.NewOut,
    steps: Annotated[str | None, typer.Option(help="Students of runs, as 1,2,4; all without it.")] = None,
    teacher_steps: Annotated[int, typer.Option(min=1, help="Of models that take any number.")] = 64,
    guidance_scale: Annotated[str | None, typer.Option(help="As 1,2,5; ends and middle of the common range without it.")] = None,
    class_label: options.Labels = None, prompt: options.Prompts = None,
    num_images: Annotated[int | None, typer.Option(min=1, help="Of each model and scale. [8, or one a prompt]")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at a time; by default by device and image size.")] = None,
    seed: options.Seed = 0, device: options.Device = None,
) -> None:  # fmt: skip
    """Draw models from the same noise onto one page, with their facts, settings and measured quality beside each other."""
    from fewstep.evaluation.compare import compare as put_together

    found = put_together(
        models, out, steps=listed("steps", steps, int), teacher_steps=teacher_steps, guidance_scale=listed("guidance-scale", guidance_scale, float),
        class_labels=class_label, prompts=prompt, num_images=num_images, batch_size=batch_size, seed=seed or 0, device=device,
    )  # fmt: skip
    print(found["summary"], out / "compare.html", sep="\n")
