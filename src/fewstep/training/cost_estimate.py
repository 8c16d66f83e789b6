"""What a recipe will cost, before it runs: updates, evaluations of the network, memory and time."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from fewstep.errors import InputError
from fewstep.models.half_weights import DTYPES
from fewstep.models.lora import added, lora_student
from fewstep.models.metadata import HUB_ID, INFO, bundled
from fewstep.models.model import Model
from fewstep.models.shapes import download_configs, has_configs_alone, open_shapes, shapes_of
from fewstep.training.bucketing import largest_size
from fewstep.training.distill import new_teacher
from fewstep.training.memory_estimate import memory, needed, student, student_shapes
from fewstep.training.network_cost import bytes_of, count, measure
from fewstep.training.plan_of_stages import stages_of
from fewstep.training.recipe import Recipe
from fewstep.training.run_folder import teacher_of
from fewstep.training.sample_plan import evaluations_of
from fewstep.training.settings import TrainSettings
from fewstep.training.stage_settings import LoraSettings, TeacherSettings
from fewstep.training.trainer import checkpoint_blocks

LARGEST_PROBED = 2e12  # FLOPs of an evaluation above which no probe is run
ASSUMED_SPEED = {"cpu": 1e11, "cuda": 5e13, "mps": 2e12}  # FLOP/s where none is run: a modest machine of the kind
BUILT_IN = {"digits": (10, 8, 1)}  # classes, size and channels of data that every installation has
DEVICES = 8  # that share sharded training, unless another number is asked for
TEACHER_CALLS = 2  # for an example: both branches in stage one, two steps in a rung that halves the steps


def plan(
    recipe: Recipe,
    teacher: Model | None,
    classes: int | None = None,
    device: str | None = None,
    probe: bool = True,
    teaching: bool = False,
) -> dict[str, Any]:
    """What one process of `distill` will do with `teacher`, or of `teach`, without one or with `teaching`: values for JSON and `plan_text`.

    Without a teacher `classes` is needed, unless the data is built in or the recipe says them. No probe is run of a teacher of shapes
    alone, nor for a device that is not here.

    Raises:
        InputError: the recipe does not say how large the network is.
    """
    train, lora = recipe.train, recipe.student.lora
    distilling = teacher is not None and not teaching
    model = teacher or untrained(recipe, classes)
    here = torch.device(torch.accelerator.current_accelerator() or "cpu").type
    kind = torch.device(device).type if device else here
    if distilling:
        cost, first, later = needed(recipe, model, kind)
    else:
        cost = count(shapes_of(largest_size(recipe, model) if teacher else model), train.batch_size, train.gradient_checkpointing)
        first = later = memory(cost, 0, train, kind, cost["bytes"])
    known = kind in (here, "cpu") and (teacher is None or teacher.denoiser.device.type != "meta")
    if probe and known and cost["flops"]["forward"] <= LARGEST_PROBED:
        probed = (student(model, lora) if distilling else copy.deepcopy(model)) if teacher else untrained(recipe, classes, "cpu")
        if train.gradient_checkpointing:
            checkpoint_blocks(probed.denoiser.network)
        rates = measure(probed, torch.device(kind), cost["flops"]["trained"], train.batch_size, train.precision)
    else:
        speed = ASSUMED_SPEED.get(kind, 1e11)
        rates = {key: flops / speed for key, flops in cost["flops"].items()} | {"speed": speed}
    batch = train.batch_size * train.gradient_accumulation
    stages, planned = [], stages_of(recipe, distilling)
    for name, updates, calls, trained in planned:
        examples = updates * batch if trained else recipe.paths.count
        stages.append({
            "name": name, "updates": updates, "batch_size": batch,
            "evaluations": {"forward": round(calls * examples), "trained": trained * examples, "total": round((calls + trained) * examples)},
            "seconds": examples * (calls * rates["forward"] + trained * rates["trained"]), "memory": first if name == "stage-one" else later,
        })  # fmt: skip
    drawn = train.sample_every and model.info.pictured
    pictures = evaluations_of(recipe, planned, batch, model.info.image_size is not None) if drawn else 0
    spent = {"evaluations": pictures, "seconds": pictures * rates["forward"]}  # of pictures by default next to nothing
    return {
        "parameters": cost["parameters"], "trained_parameters": cost["trained_parameters"], "flops": cost["flops"], "rates": rates, "device": kind,
        "stages": stages, "pictures": spent, "seconds": sum(stage["seconds"] for stage in stages) + spent["seconds"], "memory": max(stage["memory"]["total"] for stage in stages),
    }  # fmt: skip


def distillation_size(
    teacher: Model, images_per_second: float | None = None, batch_size: int | None = None, devices: int = DEVICES
) -> dict[str, Any]:
    """Parameters, bytes a device for each way to train, and what 1,000 updates take; `teacher` may have shapes alone.

    Memory is that of float32 with AdamW, one image at a time on each device. `images_per_second` is what one device trains the
    network on, forward and backward; without it no time is given.

    Raises:
        InputError: a student, which is not distilled.
    """
    if teacher.info.kind != "teacher":
        raise InputError("this is a student or an encoder, which is not distilled again; name its teacher")
    cost, images = count(student_shapes(teacher), 1), 1000 * (batch_size or TrainSettings().batch_size)
    full, work = memory(cost, bytes_of(teacher.denoiser.network.parameters()), TrainSettings(), ""), cost["flops"]
    sharded = (full["total"] - full["activations"]) // devices + full["activations"]
    ways = {"weights": full["teacher"], "full training": full["total"], f"full training sharded over {devices}": sharded}
    try:
        adapters = added(lora_student(shapes_of(teacher).denoiser.network, teacher.family, 0, **LoraSettings().model_dump()))
        trained = sum(p.numel() for p in adapters.values())
        # the teacher's weights once, and of the adapters weights, gradients, two moments and the average
        ways[f"LoRA training of rank {LoraSettings().rank}"] = full["teacher"] + 5 * 4 * trained + full["activations"]
    except InputError:  # a family that takes no adapters
        trained = None
    per: dict[str, Any] = {"batch_size": images // 1000, "images": images, "evaluations": (TEACHER_CALLS + 1) * images}
    if images_per_second:
        share = (TEACHER_CALLS * work["forward"] + work["trained"]) / work["trained"]  # of an image in training alone
        per |= {"images_per_second": images_per_second, "seconds": share * images / images_per_second}
    return {
        "parameters": sum(p.numel() for p in teacher.denoiser.network.parameters()), "lora_parameters": trained, "memory_bytes": ways,
        "activations_of_one_image": full["activations"], "flops": work, "per_1000_updates": per,
    }  # fmt: skip


def planned_teacher(recipe: Recipe) -> Model:
    """The teacher that `distill` would open; where its weights are not here, of shapes alone, and nothing but configs is downloaded.

    Without a teacher in the recipe, the one that `teach` would make by it.

    Raises:
        InputError: neither a teacher nor what a new one's data is like, or a folder or hub id that cannot be read.
    """
    if recipe.teacher.path is None:
        return untrained(recipe, None) if recipe.data.size or recipe.data.name else teacher_of(None, None)
    return planned_model(recipe.teacher.path, recipe.teacher)


def planned_model(path: str, settings: TeacherSettings | None = None) -> Model:
    """The model of a folder, hub id or name; where its weights are not here, of shapes alone, and nothing but configs is downloaded.

    Raises:
        InputError: a folder or hub id that cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        if bundled(f"{path}-teacher").is_dir() or folder.exists() or not HUB_ID.fullmatch(path):
            return teacher_of(path, None, settings)
        folder = download_configs(path, settings and settings.revision)
    stock = not (folder / INFO).is_file() and not (folder / "recipe.toml").is_file()
    dtype = DTYPES.get((settings and settings.dtype) or "")
    return (
        open_shapes(folder, bool(settings and settings.force), dtype)
        if stock and has_configs_alone(folder)
        else teacher_of(folder, None, settings)
    )


def untrained(recipe: Recipe, classes: int | None, device: str = "meta") -> Model:
    """The recipe's own teacher. Raises InputError where images' size and channels, or the number of classes, are not given."""
    names, labels = recipe.data.classes, recipe.network.num_class_embeds
    built_in = BUILT_IN.get(recipe.data.name or "", (None, None, None))
    known = {
        "classes": classes or (len(names) if names else labels and labels - 1) or built_in[0],
        "data.size": recipe.data.size or built_in[1],
        "data.channels": recipe.data.channels or built_in[2],
    }
    if missing := [key for key, value in known.items() if value is None]:
        raise InputError(f"{' and '.join(missing)} must be known to plan a network; set it, or name built-in data: digits")
    number, size, channels = known.values()
    data = SimpleNamespace(classes=("",) * (number or 0), size=size, channels=channels, description={})
    with torch.random.fork_rng(devices=[]), torch.device(device):
        model = new_teacher(recipe, data)
    model.denoiser.network.train()
    return model


def plan_text(planned: dict[str, Any]) -> str:
    """A plan for people: the network, its memory, where the times are from, a line a stage, and the sum."""
    flops, rates, stages = planned["flops"], planned["rates"], planned["stages"]
    measured = f"measured at batch {rates['probed_batch']}" if "probed_batch" in rates else ""
    source = measured or f"for {short(rates['speed'])}FLOP/s, not measured"
    parts = max((stage["memory"] for stage in stages), key=lambda memory: memory["total"])
    sizes = ", ".join(f"{key} {short(value, 1024)}B" for key, value in parts.items() if value and key != "total")
    trained = planned["trained_parameters"]
    part = "" if trained == planned["parameters"] else f", {short(trained)} of them trained"
    lines = [
        f"network   {short(planned['parameters'])} parameters{part}; {short(flops['forward'])}FLOP an evaluation, "
        f"{short(flops['trained'])}FLOP with its gradient",
        f"memory    about {short(planned['memory'], 1024)}B: {sizes}",
        f"time      {source}; {planned['device']}, 1 process",
    ]
    pictures = planned["pictures"]
    rows = [(s["name"], f"{s['updates']:,}", f" x {s['batch_size']:<6}", s["evaluations"]["total"], s["seconds"]) for s in stages]
    if pictures["evaluations"]:
        rows.append(("pictures", "", "", pictures["evaluations"], pictures["seconds"]))
    if len(rows) > 1:
        rows.append(("in all", "", " " * 9, sum(row[3] for row in rows), planned["seconds"]))
    for name, updates, batch, evaluations, span in rows:
        counts = f"{updates:>10} updates{batch}" if updates else " " * 27
        lines.append(f"{name:<13}{counts}{short(evaluations):>7} evaluations  about {about(span)}")
    return "\n".join(lines)


def short(number: float, unit: int = 1000) -> str:
    """1234567 as "1.2 M", or with unit 1024 as "1.2 Mi"."""
    power = 0
    while number >= unit * 0.9995 and power < 5:
        number, power = number / unit, power + 1
    prefix = ("", "Ki", "Mi", "Gi", "Ti", "Pi")[power] if unit == 1024 else ("", "k", "M", "G", "T", "P")[power]
    return f"{number:.{int(number < 10 and power > 0)}f} {prefix}"


def about(span: float) -> str:
    """Seconds as "40 s", "31 min", "5.2 h" or "3.1 days"."""
    for limit, unit, text in ((90, 1, "{:.0f} s"), (5400, 60, "{:.0f} min"), (48 * 3600, 3600, "{:.1f} h")):
        if span < limit:
            return text.format(span / unit)
    return f"{span / 86400:,.1f} days"
