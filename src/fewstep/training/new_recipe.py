"""A new recipe for a teacher, data and a device: values that fit them, and the file with a comment for each."""

import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewstep.data.class_names import class_order
from fewstep.data.loading import NAMED, open_source
from fewstep.data.prompts import prompt_file
from fewstep.data.summary import summary
from fewstep.errors import InputError
from fewstep.files import write_atomically
from fewstep.models.half_weights import holds_half
from fewstep.models.model import Model
from fewstep.models.shapes import shapes_of
from fewstep.training.cost_estimate import plan, plan_text, planned_model, short
from fewstep.training.distill import check_teacher
from fewstep.training.examples import check_pictured, source_settings
from fewstep.training.memory_estimate import GB, needed
from fewstep.training.recipe import Recipe, load_recipe, to_toml

SMALL, LARGE = 10e6, 100e6  # parameters: below the first a network learns fast, above the second slowly
SHARE = 0.9  # of a device's memory that is planned with
BATCHES = ((SMALL, 128), (1e9, 64), (4e9, 32), (float("inf"), 8))  # images an update of networks below so many parameters
LEAST = 4  # images at a time, below which the next way to train is taken
RANK = 64
ASKED = "as asked for"

Values = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """A value of a recipe and why it was chosen."""

    value: Any
    why: str = ""


def open_teacher(path: str, changes: Values) -> tuple[Model, str]:
    """(the teacher of a folder, hub id or name, a line on what it is); of a hub id the configs alone are downloaded.

    Raises:
        InputError: nothing there, or a student.
    """
    model = planned_model(path, load_recipe(None, changes | {"teacher.path": path}).teacher)
    check_teacher(model)
    info, (channels, height, width) = model.info, model.info.picture_shape
    what = "text" if info.condition == "text" else f"{len(info.classes)} classes"
    if info.sampling_rate is None:
        pictures = (
            f"{'videos' if len(info.shape) > 3 else 'pictures'} of {width}x{height}, {channels} channel{'s' * (channels > 1)}"
        )
    else:
        pictures = f"sounds of {width / info.sampling_rate:.3g} seconds, {channels} channel{'s' * (channels > 1)}"
    return model, f"teacher {path}: {info.family}, {what}, {pictures}, {short(parameters_of(model))} parameters"


def open_data_of(given: str, teacher: Model, changes: Values) -> tuple[Values, str]:
    """(the recipe's keys for data of this path or name, or a list of prompts, a line on what it is), without decoding it all.

    Raises:
        InputError: nothing there, or data that do not fit the teacher.
    """
    text = teacher.info.condition == "text"
    if given.lower().endswith(".txt"):
        if not text:
            raise InputError(f"{given} is a list of prompts, and this teacher takes classes: name pictures of its classes")
        return {"data.prompts": given}, summary(prompt_file(given))
    check_pictured(teacher)
    keys = {"data.name": given} if given in NAMED and not Path(given).exists() else {"data.path": given}
    source = open_source(source_settings(load_recipe(None, changes | keys), text))
    if not text and source.classes is not None:
        class_order(source.classes, teacher.info.classes, source.path, lambda line: None, changes.get("data.class_names", "match"))
    return keys, summary(source)


def chosen(teacher: Model, keys: Values, changes: Values, kind: str, room: int) -> dict[str, Choice]:
    """Every key of the recipe: `keys` name teacher and data, `changes` are asked for; of the rest what fits a device of `room` bytes.

    Raises:
        InputError: no way to train fits.
    """
    picked = {key: Choice(value) for key, value in keys.items()} | usual(teacher, kind)
    picked |= {key: Choice(value, ASKED) for key, value in changes.items()}
    most = next(images for limit, images in BATCHES if parameters_of(teacher) < limit)
    asked = {key for change in changes for key in (change, ".".join(change.split(".")[:2]))}
    ways = (adapters, half_adapters) if "student.lora" in asked else (whole, recomputed, adapters, half_adapters)
    found, least = [], math.inf
    for way in ways:
        keys_of_way = picked | {key: choice for key, choice in way(teacher).items() if key not in asked}
        batch, smallest = largest_batch(keys_of_way, teacher, most, kind, room)
        found, least = [*found, (batch, keys_of_way)], min(least, smallest)
        if batch >= (min(LEAST, most) if way in (whole, recomputed) and "train.batch_size" not in asked else 1):
            break
    batch, picked = max(found, key=lambda one: one[0])
    if not batch:
        raise InputError(
            f"to train this teacher takes {least / GB:.1f} GB at least, and the {kind} has {room / GB:.1f} GB, of which {SHARE:.0%} are planned "
            "with: take a larger device (--device, --memory), or a smaller teacher"
        )
    sizes = {"train.batch_size": Choice(batch, f"images at a time, within {room / GB:.1f} GB ({kind})")}
    if batch < most:
        sizes["train.gradient_accumulation"] = Choice(most // batch, f"for {most} images an update")
    return picked | {key: choice for key, choice in sizes.items() if key not in asked}


def usual(teacher: Model, kind: str) -> dict[str, Choice]:
    """What follows from the teacher alone: guidance scales, ladder, updates and learning rates."""
    info, size = teacher.info, parameters_of(teacher)
    flow, decimal = info.prediction == "flow", teacher.denoiser.process.train_timesteps % 100 == 0
    discrete = decimal and info.process["name"] == "discrete_betas"
    if info.condition == "class" or size < SMALL:
        scales = Choice(
            [1.0, 8.0 if info.condition == "text" else 5.0], "one student for all of them; in pixel space the paper has 1 to 5"
        )
    elif flow or info.image_size is None:
        scales = Choice([1.0, 8.0 if flow else 10.0], "one student for all of them; the paper did not try this kind of model")
    else:
        scales = Choice([3.0, 15.0], "one student for all of them; the paper's range in latent space")
    if discrete:
        ladder = Choice(
            [200, 40, 8, 4, 2, 1] if size > LARGE else [40, 8, 4, 2, 1], "they divide 1000: exact under the stock DDIMScheduler"
        )
    else:
        ladder = Choice([64, 16, 8, 4, 2, 1], "few rungs with many updates do better than many with few")
    small, slow = size < SMALL, size > LARGE
    picked = {
        "student.guidance_scale": scales,
        "stage_one.updates": Choice(2_000 if small else 10_000),
        "stage_one.learning_rate": Choice(1e-3 if small else 1e-5 if slow else 1e-4, "to be tuned"),
        "stage_two.ladder": ladder,
        "stage_two.updates": Choice(500 if small else 5_000, "a rung"),
        "stage_two.last_updates": Choice(
            1_000 if small else 10_000, "each of the rungs to 2 and to 1 step, which have most to learn"
        ),
        "stage_two.learning_rate": Choice(5e-4 if small else 1e-5 if slow else 1e-4, "to be tuned"),
    }
    return picked | (
        {"train.precision": Choice("bf16", "weights and optimiser stay float32")} if kind == "cuda" and not small else {}
    )


def whole(teacher: Model) -> dict[str, Choice]:
    """The keys that train the whole network."""
    return {}


def recomputed(teacher: Model) -> dict[str, Choice]:
    """The keys that train the whole network in less memory."""
    return {"train.gradient_checkpointing": Choice(True, "a third more computation, for the memory of activations")}


def adapters(teacher: Model) -> dict[str, Choice]:
    """The keys that train adapters on the teacher's frozen weights."""
    rate = Choice(1e-4, "of adapters; to be tuned")
    lora = Choice({"rank": RANK, "alpha": RANK}, "adapters on frozen weights: the whole network does not fit (docs/lora.md)")
    return recomputed(teacher) | {"student.lora": lora, "stage_one.learning_rate": rate, "stage_two.learning_rate": rate}


def half_adapters(teacher: Model) -> dict[str, Choice]:
    """The same, the frozen weights kept in half precision."""
    return adapters(teacher) | {"teacher.dtype": Choice("bfloat16", "of its frozen weights")}


def largest_batch(picked: dict[str, Choice], teacher: Model, most: int, kind: str, room: int) -> tuple[int, float]:
    """(images at a time, a power of two up to `most`, or those asked for, with which training fits into the room, else 0; the least bytes)."""
    asked = picked.get("train.batch_size")
    recipe = recipe_of(picked | {"train.batch_size": Choice(1)})
    teacher = weights_in(teacher, recipe)
    try:
        cost, *_ = needed(recipe, teacher, kind)
    except InputError:  # a family that takes no adapters
        if recipe.student.lora is None:
            raise
        return 0, math.inf

    def total(batch: int) -> int:
        held = cost | {"activations": batch * cost["activations"]}
        return max(parts["total"] for parts in needed(recipe, teacher, kind, held)[1:])

    sizes = [asked.value] if asked else [most >> i for i in range(most.bit_length())]
    return next((batch for batch in sizes if total(batch) <= SHARE * room), 0), total(sizes[-1])


def weights_in(teacher: Model, recipe: Recipe) -> Model:
    """The teacher, of shapes alone in the dtype that the recipe keeps it in where that is half as large."""
    if recipe.teacher.dtype in (None, "float32") or holds_half(teacher.denoiser.network):
        return teacher
    made = shapes_of(teacher)
    torch.nn.Module.to(made.denoiser.network, getattr(torch, recipe.teacher.dtype))  # diffusers' own warns
    return made


def parameters_of(model: Model) -> int:
    """How many numbers its network has."""
    return sum(p.numel() for p in model.denoiser.network.parameters())


def recipe_of(picked: dict[str, Choice]) -> Recipe:
    """The checked recipe of these keys; raises InputError where one does not fit."""
    return load_recipe(None, {key: choice.value for key, choice in picked.items()})


def write_new(
    out: Path,
    picked: dict[str, Choice],
    teacher: Model,
    facts: list[str],
    device: str,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Write the recipe with its comments and its predicted cost to a new file; its text.

    Raises:
        InputError: a key that does not fit, or a file that cannot be written.
    """
    recipe = recipe_of(picked)
    say("predicting what it will cost ...")
    cost = plan_text(plan(recipe, weights_in(teacher, recipe), device=device)).splitlines()
    run = f"fewstep distill {out.name} --out runs/{out.stem} --device {device}"
    head = [*facts, "Written by `fewstep new`: a start, to be tuned.", "", f"  {run}", f"  {run} --dry-run", "", "Predicted cost:"]
    text = toml_of(recipe, picked, [*head, *(f"  {line}" for line in cost)], out.parent)
    write_atomically(out, lambda aside: aside.write_text(text, encoding="utf-8"))
    return text


def toml_of(recipe: Recipe, picked: dict[str, Choice], head: list[str], folder: Path) -> str:
    """The picked keys as TOML, sections and keys in the order of the settings, paths as seen from `folder`, comments beside them."""
    values, lines = tomllib.loads(to_toml(recipe, folder)), [f"# {printable(line)}".rstrip() for line in head]
    for section in type(recipe).model_fields:
        names = [key.split(".")[1] for key in picked if key.startswith(f"{section}.")]
        written = [name for name in values.get(section, {}) if name in names]
        lines += ["", f"[{section}]"] if written else []
        for name in written:
            line, why = f"{name} = {inline(values[section][name])}", picked.get(f"{section}.{name}", Choice(None, ASKED)).why
            lines.append(f"{line:<34} # {printable(why)}" if why else line)
    return "\n".join(lines) + "\n"


def inline(value: Any) -> str:
    """A value as TOML on one line."""
    import tomli_w

    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {inline(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def printable(text: str) -> str:
    """Text that a comment may hold."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
