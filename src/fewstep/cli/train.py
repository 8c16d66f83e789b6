"""The commands that make models: quickstart, teach, distill."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fewstep.cli import options
from fewstep.cli.options import app, changes_of, listed, say
from fewstep.errors import InputError
from fewstep.progress import print_once


@app.command(epilog="Example:  fewstep quickstart --out runs/quickstart")
def quickstart(
    out: options.Out = Path("runs/quickstart"), settings: options.Set = None, seed: options.Seed = None,
    device: options.Device = None,
) -> None:  # fmt: skip
    """Distil the bundled teacher of handwritten digits on this machine, measure, and write a page about it."""
    from fewstep.api import save_with_card
    from fewstep.evaluation.quickstart import quickstart
    from fewstep.evaluation.results_table import text_table

    metrics = quickstart(out, changes=changes_of(settings, seed), say=say, device=device, save=save_with_card)
    print(text_table(metrics["rows"], brief=True))
    missed = [f"  missed: {check['claim']}" for check in metrics["checks"] if not check["holds"]]
    reached = f"{len(metrics['checks']) - len(missed)} of {len(metrics['checks'])} goals reached"
    print("", metrics["summary"], reached, *missed, f"page: {out / 'report.html'}", sep="\n")


@app.command(epilog="Example:  fewstep teach digits --out runs/digits-teacher")
def teach(
    recipe: Annotated[str, typer.Argument(help="A TOML file or the name of a shipped recipe.")],
    out: options.Out, settings: options.Set = None, seed: options.Seed = None, device: options.Device = None,
    dry_run: options.DryRun = False,
) -> None:  # fmt: skip
    """Train a guided teacher, its condition dropped at random."""
    from fewstep.training.recipe import load_recipe

    chosen = load_recipe(recipe, changes_of(settings, seed))
    if dry_run:
        return print_plan(chosen, teaching=True, device=device)
    from fewstep.api import teach

    teach(chosen, out, device=device)
    return print_once(out / "teacher")


@app.command(epilog="Example:  fewstep cache mine.toml --out caches/mine; fewstep distill mine.toml --set data.cache=caches/mine")
def cache(
    out: options.Out, recipe: options.Recipe = None, teacher: options.Teacher = None,
    variant: options.Variant = None, lora: options.Lora = None, force: options.Force = False, data: options.DataPath = None,
    prompts: options.PromptFile = None, settings: options.Set = None, seed: options.Seed = None,
    device: options.Device = None,
) -> None:  # fmt: skip
    """Encode what a teacher is distilled on, once: latents and text embeddings, in shards that distill reads."""
    from fewstep.training.recipe import arguments, load_recipe
    from fewstep.training.run_folder import write_cache

    changes = arguments(recipe, teacher, data, None, None, variant, lora, force) | changes_of(settings, seed, prompts)
    written = write_cache(load_recipe(recipe, changes), out, device=device)
    print_once(f"{out}: {len(written)} examples in {len(written.shards)} shards")


@app.command(
    epilog="Examples:  fewstep distill digits --out runs/digits    "
    "fewstep distill --teacher runs/mine/teacher --data images/ --steps 4 --out runs/mine-4"
)
def distill(
    out: options.Out, recipe: options.Recipe = None, teacher: options.Teacher = None,
    variant: options.Variant = None, lora: options.Lora = None, force: options.Force = False, data: options.DataPath = None,
    prompts: options.PromptFile = None,
    steps: Annotated[int | None, typer.Option(help="Step count of the last student.")] = None,
    guidance_scale: Annotated[str | None, typer.Option(metavar="LOW,HIGH", help="Range that the student serves.")] = None,
    settings: options.Set = None, seed: options.Seed = None, device: options.Device = None,
    dry_run: options.DryRun = False,
) -> None:  # fmt: skip
    """Stage one, then the ladder of stage two: each rung a model folder in OUT."""
    from fewstep.training.recipe import arguments, load_recipe

    scales = listed("guidance-scale", guidance_scale, float)
    if scales and len(scales) != 2:
        raise InputError(f"--guidance-scale {guidance_scale}: a range has 2 numbers, as 1,5")
    chosen = load_recipe(
        recipe, arguments(recipe, teacher, data, steps, scales, variant, lora, force) | changes_of(settings, seed, prompts)
    )
    if dry_run:
        return print_plan(chosen, teaching=False, device=device)
    from fewstep.api import distill

    distill(recipe=chosen, out=out, device=device)
    return print_once(*sorted(path.parent for path in out.glob("*/fewstep.json")))


def print_plan(recipe: Any, teaching: bool, device: str | None = None) -> None:
    """The resolved recipe, and what it will cost; `device` may be of a kind that is not here."""
    from fewstep.training.cost_estimate import plan, plan_text, planned_model, planned_teacher
    from fewstep.training.recipe import to_toml
    from fewstep.training.run_folder import open_examples

    print(to_toml(recipe))
    start, classes = None, None
    if not teaching:
        start = planned_teacher(recipe)
    elif recipe.teach.start:
        start = planned_model(recipe.teach.start)
    elif recipe.data.path or recipe.data.name:
        data = open_examples(recipe)
        known = recipe.data.model_copy(update={"size": data.size, "channels": data.channels})
        recipe, classes = recipe.model_copy(update={"data": known}), len(data.classes)
    print(plan_text(plan(recipe, start, classes=classes, device=device, teaching=teaching)))
