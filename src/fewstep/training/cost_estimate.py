"""What a recipe will cost, told before it runs: updates, evaluations of the network, memory and time."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from fewstep.errors import InputError, first_line
from fewstep.method.stage_two import rungs
from fewstep.models.lora import lora_student
from fewstep.models.metadata import HUB_ID, INFO, bundled
from fewstep.models.model import Model
from fewstep.training.distill import new_teacher
from fewstep.training.network_cost import count, measure, meta_model, on_meta, size_of, weightless
from fewstep.training.recipe import Recipe
from fewstep.training.run_folder import teacher_of
from fewstep.training.settings import LoraSettings, TeacherSettings
from fewstep.training.trainer import checkpoint_blocks

LARGEST_PROBED = 2e12  # FLOPs of an evaluation above which no probe is run
ASSUMED_SPEED = {"cpu": 1e11, "cuda": 5e13, "mps": 2e12}  # FLOP/s where none is run: a modest machine of the kind
BUILT_IN = {"digits": (10, 8, 1)}  # classes, size and channels of data that every installation has
CONFIGS = ["model_index.json", "*/config.json", "*/scheduler_config.json"]  # all of a hub repository that a plan reads


def plan(
    recipe: Recipe,
    teacher: Model | None,
    classes: int | None = None,
    processes: int = 1,
    device: str | None = None,
    probe: bool = True,
    speed: float | None = None,
    teaching: bool = False,
) -> dict[str, Any]:
    """What `distill` will do with `teacher`, or without one what `teach` will do: plain values for JSON and `plan_text`.

    With `teaching` it is what `teach` will do that trains on `teacher`.

    Without a teacher `classes` is needed, unless the data is built in or the recipe says them. No probe is run of a teacher of shapes
    alone, nor for a device that is not here: `speed` is the FLOP/s to assume then.

    Raises:
        InputError: the recipe does not say how large the network is.
    """
    train, lora = recipe.train, recipe.student.lora
    distilling = teacher is not None and not teaching
    model = teacher or untrained(recipe, classes)
    shapes = shapes_of(model, lora) if distilling else alike(model)
    cost = count(shapes, train.batch_size, train.gradient_checkpointing)
    here = torch.device(torch.accelerator.current_accelerator() or "cpu").type
    kind = torch.device(device).type if device else here
    known = kind in (here, "cpu") and (teacher is None or not on_meta(teacher))
    if probe and known and cost["flops"]["forward"] <= LARGEST_PROBED:
        rates = measured_rates(recipe, teacher, distilling, classes, cost, kind)
    else:
        speed = speed or ASSUMED_SPEED.get(kind, 1e11)
        rates = {key: flops / speed for key, flops in cost["flops"].items()} | {"speed": speed}
    batch = train.batch_size * train.gradient_accumulation
    stages = []
    for name, updates, calls in stages_of(recipe, distilling):
        examples = updates * batch * processes
        frozen = 0 if teacher is None or teaching else frozen_bytes(teacher, cost, name == "stage-one", lora is not None)
        stages.append({
            "name": name, "updates": updates, "batch_size": batch * processes,
            "evaluations": {"forward": calls * examples, "trained": examples, "total": (calls + 1) * examples},
            "seconds": updates * batch * (calls * rates["forward"] + rates["trained"]), "memory": memory(cost, frozen),
        })  # fmt: skip
    return {
        "parameters": cost["parameters"], "trained_parameters": cost["trained_parameters"], "flops": cost["flops"], "rates": rates, "device": kind, "processes": processes,
        "stages": stages, "seconds": sum(stage["seconds"] for stage in stages), "memory": max(stage["memory"]["total"] for stage in stages),
    }  # fmt: skip


def measured_rates(
    recipe: Recipe, teacher: Model | None, distilling: bool, classes: int | None, cost: dict[str, Any], kind: str
) -> dict[str, Any]:
    """Seconds for an example's evaluation and for its training, by a short probe on the device of this kind."""
    train, lora = recipe.train, recipe.student.lora
    if teacher is None:
        probed = untrained(recipe, classes, "cpu")
    else:
        probed = with_w(teacher, lora) if distilling else copy.deepcopy(teacher)
    if train.gradient_checkpointing:
        checkpoint_blocks(probed.denoiser.network)
    return measure(probed, torch.device(kind), cost["flops"]["trained"], train.batch_size, train.precision)


def planned_teacher(recipe: Recipe) -> Model:
    """The teacher that `distill` would open; where its weights are not here, of shapes alone, and nothing but configs is downloaded.

    Without a teacher in the recipe, the one that `teach` would make by it.

    Raises:
        InputError: neither a teacher nor what a new one's data is like, or a folder or hub id that cannot be read.
    """
    path = recipe.teacher.path
    if path is None:
        return untrained(recipe, None) if recipe.data.size or recipe.data.name else teacher_of(None, None)
    return planned_model(path, recipe.teacher)


def planned_model(path: str, settings: TeacherSettings | None = None) -> Model:
    """The model of a folder, hub id or name; where its weights are not here, of shapes alone, and nothing but configs is downloaded.

    Raises:
        InputError: a folder or hub id that cannot be read.
    """
    settings = settings or TeacherSettings()
    if Path(path).is_dir():
        folder = Path(path)
    elif bundled(f"{path}-teacher").is_dir() or Path(path).exists() or not HUB_ID.fullmatch(path):
        return teacher_of(path, None, settings)
    else:
        folder = configs_of(path, settings.revision)
    plain = not (folder / INFO).is_file() and not (folder / "recipe.toml").is_file()
    return meta_model(folder) if plain and weightless(folder) else teacher_of(folder, None, settings)


def configs_of(hub_id: str, revision: str | None) -> Path:
    """The folder of a hub repository's configs, downloaded, and of whatever else of it is here already.

    Raises:
        InputError: no such repository, or no connection.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=CONFIGS))
    except Exception as error:  # the hub's own kinds of error are many: no repository, no connection, gated, offline
        reason = first_line(error)
        raise InputError(
            f"the configs of '{hub_id}' cannot be had: {reason}; name a folder that holds them: --teacher FOLDER"
        ) from error


def plan_text(planned: dict[str, Any]) -> str:
    """A plan for people: the network, its memory, where the times are from, a line a stage, and the sum."""
    flops, rates, stages = planned["flops"], planned["rates"], planned["stages"]
    source = (
        f"measured at batch {rates['probed_batch']}"
        if "probed_batch" in rates
        else f"for {short(rates['speed'])}FLOP/s, not measured"
    )
    parts = max((stage["memory"] for stage in stages), key=lambda memory: memory["total"])
    trained = planned["trained_parameters"]
    part = "" if trained == planned["parameters"] else f", {short(trained)} of them trained"
    lines = [
        f"network   {short(planned['parameters'])} parameters{part}; {short(flops['forward'])}FLOP an evaluation, "
        f"{short(flops['trained'])}FLOP with its gradient",
        f"memory    about {short(planned['memory'], 1024)}B: "
        + ", ".join(f"{key} {short(value, 1024)}B" for key, value in parts.items() if value and key != "total"),
        f"time      {source}; {planned['device']}, {planned['processes']} process{'es' * (planned['processes'] > 1)}",
    ]
    rows = [(s["name"], f"{s['updates']:,}", f" x {s['batch_size']:<6}", s["evaluations"]["total"], s["seconds"]) for s in stages]
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


def stages_of(recipe: Recipe, distilling: bool) -> list[tuple[str, int, int]]:
    """(name, updates, evaluations of the teacher for an example) of each stage of `distill`, or else of `teach`."""
    if not distilling:
        return [("teacher", recipe.teach.updates, 0)]
    two, encoder = recipe.stage_two, recipe.encoder
    stages = [("stage-one", recipe.stage_one.updates, 2)]
    stages += [(f"steps-{n:04d}", two.last_updates if n <= 2 else two.updates, k) for n, k in rungs(two.ladder)]
    return stages + [(f"encoder-{n:04d}", encoder.updates, k) for n, k in (rungs(encoder.ladder) if encoder.ladder else ())]


def untrained(recipe: Recipe, classes: int | None, device: str = "meta") -> Model:
    """The recipe's own teacher, as it is trained.

    Raises:
        InputError: the recipe does not say the size and channels of its images, or no number of classes is given.
    """
    known = BUILT_IN.get(recipe.data.name or "", (None, None, None))
    names, labels = recipe.data.classes, recipe.network.num_class_embeds
    given = {
        "classes": classes or (len(names) if names else labels and labels - 1),
        "data.size": recipe.data.size,
        "data.channels": recipe.data.channels,
    }
    values = [value or other for value, other in zip(given.values(), known, strict=True)]
    if missing := [key for key, value in zip(given, values, strict=True) if value is None]:
        raise InputError(f"{' and '.join(missing)} must be known to plan a network; set it, or name built-in data: digits")
    data = SimpleNamespace(classes=("",) * (values[0] or 0), size=values[1], channels=values[2], description={})
    with torch.random.fork_rng(devices=[]), torch.device(device):
        model = new_teacher(recipe, data)
    model.denoiser.network.train()
    return model


def shapes_of(teacher: Model, lora: LoraSettings | None = None) -> Model:
    """The teacher's student with a network of shapes alone; the teacher's weights are neither copied nor touched."""
    with torch.device("meta"):
        made = with_w(alike(teacher), lora)
    made.denoiser.network.to("meta")  # where adapters may have been made elsewhere
    return made


def alike(model: Model) -> Model:
    """The model with a network of shapes alone; its weights are neither copied nor touched."""
    network = model.denoiser.network
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta")) for p in network.parameters()}
    memo |= {id(b): b.to("meta") for b in network.buffers()}
    with torch.device("meta"):
        return replace(model, denoiser=replace(model.denoiser, network=copy.deepcopy(network, memo)))


def with_w(teacher: Model, lora: LoraSettings | None = None) -> Model:
    """The teacher's student, untrained, with adapters where they are wanted."""
    with torch.random.fork_rng(devices=[]):
        if lora is None:
            network = teacher.family.student_of(teacher.denoiser.network).eval()
        else:
            network = lora_student(teacher.denoiser.network, teacher.family, lora, 0)
    return replace(
        teacher, info=teacher.info.model_copy(update={"kind": "student"}), denoiser=replace(teacher.denoiser, network=network)
    )


def frozen_bytes(teacher: Model, cost: dict[str, Any], first: bool, lora: bool) -> int:
    """Bytes of a stage's teacher that are not its student's too: with adapters, only what the last stage trained."""
    if lora:
        return 0 if first else cost["trained_bytes"]
    return size_of(teacher.denoiser.network) if first else cost["bytes"]


def memory(cost: dict[str, Any], teacher: int) -> dict[str, int]:
    """Bytes on each device, by what holds them; activations as in float32, of which mixed precision keeps less."""
    parts = {"weights": cost["bytes"]} | {
        key: times * cost["trained_bytes"] for key, times in (("gradients", 1), ("moments", 2), ("average", 1))
    }
    parts |= {"teacher": teacher, "activations": cost["activations"]}
    return parts | {"total": sum(parts.values())}
