"""The commands that make models: quickstart, teach, distill."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fewstep.cli.options import DataPath, Device, DryRun, Out, PromptFile, Recipe, Seed, Set, Teacher, app, changes_of, pair, say


@app.command(epilog="Example:  fewstep quickstart --out runs/quickstart")
def quickstart(out: Out = Path("runs/quickstart"), settings: Set = None, seed: Seed = None, device: Device = None) -> None:
    """Distil the bundled teacher of handwritten digits on this machine, measure, and write a page about it."""
    from fewstep.evaluation.quickstart import quickstart
    from fewstep.evaluation.results_table import text_table

    metrics = quickstart(out, changes=changes_of(settings, seed), say=say, device=device)
    print(text_table(metrics["rows"], brief=True))
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
    from fewstep.training.recipe import load_recipe

    chosen = load_recipe(recipe, changes_of(settings, seed))
    if dry_run:
        return print_plan(chosen, teaching=True, device=device)
    from fewstep.api import teach

    teach(chosen, out, device=device)
    print(out / "teacher")
    return None


@app.command(
    epilog="Example:  fewstep cache mine.toml --out caches/mine    (then: fewstep distill mine.toml --set data.cache=caches/mine)"
)
def cache(
    out: Out,
    recipe: Recipe = None,
    teacher: Teacher = None,
    data: DataPath = None,
    prompts: PromptFile = None,
    settings: Set = None,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Encode what a teacher is distilled on, once: latents and text embeddings, in shards that distill reads."""
    from fewstep.training.recipe import arguments, load_recipe
    from fewstep.training.run_folder import write_cache

    changes = arguments(recipe, teacher, data, None, None) | changes_of(settings, seed, prompts)
    written = write_cache(load_recipe(recipe, changes), out, device=device)
    print(f"{out}: {len(written)} examples in {len(written.shards)} shards")


@app.command(
    epilog="Examples:  fewstep distill digits --out runs/digits    "
    "fewstep distill --teacher runs/mine/teacher --data images/ --steps 4 --out runs/mine-4"
)
def distill(
    out: Out,
    recipe: Recipe = None,
    teacher: Teacher = None,
    data: DataPath = None,
    prompts: PromptFile = None,
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
    from fewstep.training.recipe import arguments, load_recipe

    scales = pair(guidance_scale) if guidance_scale else None
    changes = arguments(recipe, teacher, data, steps, scales) | changes_of(settings, seed, prompts)
    chosen = load_recipe(recipe, changes)
    if dry_run:
        return print_plan(chosen, teaching=False, device=device)
    from fewstep.api import distill

    distill(recipe=chosen, out=out, device=device)
    for folder in sorted(path.parent for path in out.glob("*/fewstep.json")):
        print(folder)
    return None


def print_plan(recipe: Any, teaching: bool, device: str | None = None) -> None:
    """The resolved recipe, and what it will cost; `device` may be of a kind that is not here."""
    from fewstep.training.cost_estimate import plan, plan_text, planned_model, planned_teacher
    from fewstep.training.recipe import to_toml
    from fewstep.training.run_folder import open_examples

    print(to_toml(recipe))
    if not teaching:
        print(plan_text(plan(recipe, planned_teacher(recipe), device=device)))
    elif recipe.teach.start:
        print(plan_text(plan(recipe, planned_model(recipe.teach.start), device=device, teaching=True)))
    elif recipe.data.path or recipe.data.name:
        data = open_examples(recipe)
        known = recipe.data.model_copy(update={"size": data.size, "channels": data.channels})
        print(plan_text(plan(recipe.model_copy(update={"data": known}), None, classes=len(data.classes), device=device)))
    else:
        print(plan_text(plan(recipe, None, device=device)))
