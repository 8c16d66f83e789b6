"""What commands share: the application, the options that several take, and the reading of their values."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from fewstep.errors import InputError
from fewstep.files import NO_VERIFY
from fewstep.progress import to_stderr as say  # noqa: F401 - what every command prints lines with

app = typer.Typer(
    help="Distil a guided diffusion model into one that samples in 1 to 4 steps, for every guidance scale.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Seed = Annotated[int | None, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps; without it, the best there is.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# of the commands that make models
Recipe = Annotated[str | None, typer.Argument(help="A TOML file or the name of a shipped recipe.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; the same command again resumes.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as stage_one.updates=200.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print the resolved recipe and what it will cost.")]
Teacher = Annotated[str | None, typer.Option(help="Model folder of the teacher, or 'digits'.")]
DataPath = Annotated[str | None, typer.Option("--data", help="Image folder, .npz, or anything that datasets opens.")]
PromptFile = Annotated[str | None, typer.Option("--prompts", help="Text file, one prompt a line: train without images.")]

# of the commands that draw
ModelPath = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, run folder, or 'digits'.")]
Variant = Annotated[
    str | None, typer.Option(help="Of a teacher's weights, as fp16; without it plain ones, or the only one there is.")
]
Lora = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE[:WEIGHT]", help="LoRA file merged into the model, made for its base; again for more."),
]
Force = Annotated[bool, typer.Option("--force", help="Take a teacher whose scheduler or name says that it is distilled already.")]
NewOut = Annotated[Path, typer.Option("--out", help="Folder to write, new or empty.")]
Labels = Annotated[list[str] | None, typer.Option(help="Class to draw, by name or by index as 3 or #3; again for more.")]
Prompts = Annotated[list[str] | None, typer.Option("--prompt", help="What to draw, of a model that takes text; again for more.")]
NegativePrompt = Annotated[
    str | None, typer.Option(help="What to keep away from; teachers take it, and students trained with student.negative_prompts.")
]
Scales = Annotated[
    list[float] | None, typer.Option(help="As in diffusers (1: none, the default), or that baked in; again for more.")
]
Seeds = Annotated[list[int], typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of everything random; again for more.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Number of steps; a student's own without it.")]
Sampler = Annotated[str | None, typer.Option(help="deterministic or stochastic.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at a time.")]


@app.callback()
def common(
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not compare files with their hashes when they are read.")
    ] = False,
) -> None:
    """Distil a guided diffusion model into one that samples in 1 to 4 steps, for every guidance scale."""
    if no_verify:
        os.environ[NO_VERIFY] = "1"


def changes_of(settings: list[str] | None, seed: int | None = None, prompts: str | None = None) -> dict[str, Any]:
    """The changes of the recipe that --set, --seed and --prompts stand for."""
    from fewstep.training.recipe import parse_change

    changes = {} if prompts is None else {"data.prompts": prompts}
    changes |= dict(parse_change(text) for text in settings or [])
    return changes | ({} if seed is None else {"train.seed": seed})


def listed(option: str, text: str | None, kind: Any = str, separator: str = ",") -> Any:
    """The values of a list as 1,2,4, each of a kind (str, int, float); None without a text.

    Raises:
        InputError: one is not of that kind.
    """
    try:
        return None if text is None else [kind(word.strip()) for word in text.split(separator)]
    except ValueError:
        what = f"{'whole ' if kind is int else ''}numbers separated by {separator!r}, as {separator.join('124')}"
        raise InputError(f"--{option} {str(text)[:40]}: give {what}") from None


def scale_or_scales(text: str | None) -> float | list[float] | None:
    """The guidance scale of `--guidance-scale 2`, or those of each step of `1/2/2/2`; an InputError where they are not numbers."""
    scales = listed("guidance-scale", text, float, "/")
    return scales[0] if scales and len(scales) == 1 else scales
