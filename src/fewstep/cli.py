"""The commands: each parses its words, makes one call of the library, and prints. Results to stdout, progress to stderr.

Exit codes: 0 done, 2 wrong input (one line), 130 interrupted (state saved). Heavy libraries are imported inside the commands.
"""

import json
import os
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
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps; without it, the best there is.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print the resolved recipe and what it will cost.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def say(line: str) -> None:
    """A line on stderr."""
    print(line, file=sys.stderr, flush=True)


def changes_of(settings: list[str] | None, seed: int | None = None) -> dict[str, Any]:
    """The recipe's changes that --set and --seed ask for."""
    from fewstep.recipe import parse_change

    return dict(parse_change(text) for text in settings or []) | ({} if seed is None else {"train.seed": seed})


@app.command(epilog="Example:  fewstep quickstart --out runs/quickstart")
def quickstart(out: Out = Path("runs/quickstart"), settings: Set = None, seed: Seed = None, device: Device = None) -> None:
    """Distil the bundled teacher of handwritten digits on this machine, measure, and write a page about it."""
    from fewstep.quickstart import quickstart
    from fewstep.report import text_table

    metrics = quickstart(out, changes=changes_of(settings, seed), say=say, device=device)
    print(text_table(metrics["rows"]))
    missed = [check["claim"] for check in metrics["checks"] if not check["holds"]]
    print("\n" + metrics["summary"])
    print(
        f"{len(metrics['checks']) - len(missed)} of {len(metrics['checks'])} goals reached"
        + "".join(f"\n  missed: {claim}" for claim in missed)
    )
    print(f"page: {out / 'report.html'}")


@app.command(epilog="Example:  fewstep teach digits --out runs/digits-teacher")
def teach(
    recipe: Annotated[str, typer.Argument(help="A TOML file or the name of a shipped recipe.")],
    out: Out,
    settings: Set = None,
    seed: Seed = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Train a guided teacher, its condition dropped at random."""
    from fewstep.recipe import load_recipe

    chosen = load_recipe(recipe, changes_of(settings, seed))
    if dry_run:
        return print_plan(chosen, teaching=True)
    from fewstep.run import teach

    teach(chosen, out, device=device)
    print(out / "teacher")
    return None


@app.command(
    epilog="Examples:  fewstep distill digits --out runs/digits    "
    "fewstep distill --teacher runs/mine/teacher --data images/ --steps 4 --out runs/mine-4"
)
def distill(
    out: Out,
    recipe: Annotated[str | None, typer.Argument(help="A TOML file or the name of a shipped recipe.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Model folder of the teacher, or 'digits'.")] = None,
    data: Annotated[str | None, typer.Option(help="Image folder, .npz, or anything that datasets opens.")] = None,
    steps: Annotated[int | None, typer.Option(help="Step count of the last student.")] = None,
    guidance_scale: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Range of guidance scales that the student serves.")
    ] = None,
    settings: Set = None,
    seed: Seed = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Stage one, then the ladder of stage two: each rung a model folder in OUT."""
    from fewstep.recipe import arguments, load_recipe

    scales = pair(guidance_scale) if guidance_scale else None
    changes = arguments(recipe, teacher, data, steps, scales) | changes_of(settings, seed)
    chosen = load_recipe(recipe, changes)
    if dry_run:
        return print_plan(chosen, teaching=False)
    from fewstep.run import distill

    distill(recipe=chosen, out=out, device=device)
    for folder in sorted(path.parent for path in out.glob("*/fewstep.json")):
        print(folder)
    return None


@app.command(
    epilog="Example:  fewstep sample runs/quickstart --steps 2 --class-label 3 --class-label 8 --guidance-scale 2.5 --out pictures"
)
def sample(
    model: Annotated[str, typer.Argument(help="Model folder, run folder, or 'digits'.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write, new or empty.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps; a student's own without it.")] = None,
    guidance_scale: Annotated[float, typer.Option(help="1 is none, as in diffusers.")] = 1.0,
    class_label: Annotated[list[str] | None, typer.Option(help="Class, by name or number; again for more. All without it.")] = None,
    num_images: Annotated[int | None, typer.Option(min=1, help="How many; the labels are taken in turn.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 256,
    sampler: Annotated[str | None, typer.Option(help="deterministic or stochastic.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Also write samples.safetensors: noise and samples, float32, not clipped.")
    ] = False,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Draw images: 00000.png, ..., grid.png and samples.json."""
    from fewstep.folder import open_model
    from fewstep.pictures import best_device, write_samples

    opened = open_model(model, best_device(device), steps)
    labels = opened.labels(class_label or list(range(len(opened.info.classes))), num_images)
    choices = {"steps": steps, "guidance_scale": guidance_scale, "seed": seed or 0, "sampler": sampler}
    print(write_samples(out, opened, labels, choices, batch_size, raw, str(model)))


@app.command(epilog="Examples:  fewstep show runs/quickstart    fewstep show digits --json    fewstep show images/")
def show(
    path: Annotated[str, typer.Argument(help="Model folder, run folder, recipe, or data; or a shipped name.")],
    as_json: AsJson = False,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Say what a model, run, recipe or data folder is, with its memory and cost."""
    from fewstep.show import describe, describe_text

    found = describe(path)
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
    from fewstep.bench import bench_model, bench_text
    from fewstep.folder import open_model
    from fewstep.pictures import best_device

    found = bench_model(open_model(model, best_device(device)), batch_size, repeats, progress=say)
    print(json.dumps(found, indent=1) if as_json else bench_text(found))


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


def print_plan(recipe: Any, teaching: bool) -> None:
    """The resolved recipe, and what it will cost."""
    from fewstep.plan import plan, plan_text
    from fewstep.recipe import to_toml
    from fewstep.run import open_examples, teacher_of

    print(to_toml(recipe))
    if teaching:
        data = open_examples(recipe)
        known = recipe.data.model_copy(update={"size": data.size, "channels": data.channels})
        print(plan_text(plan(recipe.model_copy(update={"data": known}), None, classes=len(data.classes))))
    else:
        print(plan_text(plan(recipe, teacher_of(recipe.teacher.path, None))))


def main() -> None:
    """The entry point: errors become one line and an exit code."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # threads that wait in a loop make a small network 10 times slower on a busy machine
    try:
        app(standalone_mode=False)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except Exception as error:
        sys.exit(exit_code(error))


def exit_code(error: Exception) -> int:
    """Print what a user is to know of an error; its exit code. What is a fault of ours is raised again."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, InputError):
        say(f"error: {' '.join(str(error).split())}")
        return 2
    if hasattr(error, "format_message"):  # how typer says that the words of a command are wrong
        say(f"error: {' '.join(error.format_message().split())} (see: fewstep --help)")  # pyright: ignore[reportAttributeAccessIssue]
        return 2
    if type(error).__name__ == "Interrupted":  # of training, which is not imported here for its weight
        say(str(error))
        return 130
    raise error
