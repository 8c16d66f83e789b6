"""What all commands share: the application, the options that several take, and the parsing of their words."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fewstep.errors import InputError

app = typer.Typer(
    help="Distil a guided diffusion model into one that samples in 1 to 4 steps, for every guidance scale.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option("--out", help="Folder to write; the same command again resumes.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe, e.g. stage_one.updates=200.")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps; without it, the best there is.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print the resolved recipe and what it will cost.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def say(line: str) -> None:
    """A line on stderr."""
    print(line, file=sys.stderr, flush=True)


def changes_of(settings: list[str] | None, seed: int | None = None) -> dict[str, Any]:
    """The recipe's changes that --set and --seed ask for."""
    from fewstep.training.recipe import parse_change

    return dict(parse_change(text) for text in settings or []) | ({} if seed is None else {"train.seed": seed})


def pair(text: str) -> tuple[float, float]:
    """The two numbers of a range.

    Raises:
        InputError: not two numbers separated by a comma.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--guidance-scale {text}: 2 numbers separated by a comma are needed, as 1,5") from None
    return low, high
