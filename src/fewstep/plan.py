"""What a recipe will cost, told before it runs: updates, evaluations of the network, memory and time."""

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from fewstep.cost import count, measure, size_of
from fewstep.distillation import new_teacher
from fewstep.errors import InputError
from fewstep.model import Model
from fewstep.recipe import Recipe
from fewstep.stage_two import rungs

LARGEST_PROBED = 2e12  # FLOPs of an evaluation above which no probe is run
ASSUMED_SPEED = {"cpu": 1e11, "cuda": 5e13, "mps": 2e12}  # FLOP/s where none is run: a modest machine of the kind
BUILT_IN = {"digits": (10, 8, 1)}  # classes, size and channels of data that every installation has


def plan(
    recipe: Recipe,
    teacher: Model | None,
    classes: int | None = None,
    processes: int = 1,
    device: str | None = None,
    probe: bool = True,
    speed: float | None = None,
) -> dict[str, Any]:
    """What `distill` will do with `teacher`, or without one what `teach` will do: plain values for JSON and `plan_text`.

    Without a teacher `classes` is needed, unless the data is built in. `speed` is the FLOP/s to assume where no probe is run.

    Raises:
        InputError: the recipe does not say how large the network is.
    """
    train, shapes = recipe.train, untrained(recipe, classes) if teacher is None else shapes_of(teacher)
    cost = count(shapes, train.batch_size)
    kind = torch.device(device or torch.accelerator.current_accelerator() or "cpu").type
    if probe and cost["flops"]["forward"] <= LARGEST_PROBED:
        real = untrained(recipe, classes, "cpu") if teacher is None else with_w(teacher)
        rates: dict[str, Any] = measure(real, torch.device(kind), cost["flops"]["trained"], train.batch_size, train.precision)
    else:
        speed = speed or ASSUMED_SPEED.get(kind, 1e11)
        rates = {key: flops / speed for key, flops in cost["flops"].items()} | {"speed": speed}
    batch = train.batch_size * train.gradient_accumulation
    stages = []
    for name, updates, calls in stages_of(recipe, teacher is not None):
        examples = updates * batch * processes
        frozen = 0 if teacher is None else size_of(teacher.denoiser.network) if name == "stage-one" else cost["bytes"]
        stages.append({
            "name": name, "updates": updates, "batch_size": batch * processes,
            "evaluations": {"forward": calls * examples, "trained": examples, "total": (calls + 1) * examples},
            "seconds": updates * batch * (calls * rates["forward"] + rates["trained"]), "memory": memory(cost, frozen),
        })  # fmt: skip
    return {
        "parameters": cost["parameters"], "flops": cost["flops"], "rates": rates, "device": kind, "processes": processes,
        "stages": stages, "seconds": sum(stage["seconds"] for stage in stages), "memory": max(stage["memory"]["total"] for stage in stages),
    }  # fmt: skip


def plan_text(planned: dict[str, Any]) -> str:
    """A plan for people: the network, its memory, where the times are from, a line a stage, and the sum."""
    flops, rates, stages = planned["flops"], planned["rates"], planned["stages"]
    source = (
        f"measured at batch {rates['probed_batch']}"
        if "probed_batch" in rates
        else f"for {short(rates['speed'])}FLOP/s, not measured"
    )
    parts = max((stage["memory"] for stage in stages), key=lambda memory: memory["total"])
    lines = [
        f"network   {short(planned['parameters'])} parameters; {short(flops['forward'])}FLOP an evaluation, "
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
    names = recipe.data.classes
    given = {
        "classes": classes or (len(names) if names else None),
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


def shapes_of(teacher: Model) -> Model:
    """The teacher's student with a network of shapes alone; the teacher's weights are neither copied nor touched."""
    network = teacher.denoiser.network
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta")) for p in network.parameters()}
    memo |= {id(b): b.to("meta") for b in network.buffers()}
    with torch.device("meta"):
        return with_w(replace(teacher, denoiser=replace(teacher.denoiser, network=copy.deepcopy(network, memo))))


def with_w(teacher: Model) -> Model:
    """The teacher's student, untrained."""
    with torch.random.fork_rng(devices=[]):
        network = teacher.family.student_of(teacher.denoiser.network).eval()
    return replace(
        teacher, info=teacher.info.model_copy(update={"kind": "student"}), denoiser=replace(teacher.denoiser, network=network)
    )


def memory(cost: dict[str, Any], teacher: int) -> dict[str, int]:
    """Bytes on each device, by what holds them; activations as in float32, of which mixed precision keeps less."""
    parts = {key: times * cost["bytes"] for key, times in (("weights", 1), ("gradients", 1), ("moments", 2), ("average", 1))}
    parts |= {"teacher": teacher, "activations": cost["activations"]}
    return parts | {"total": sum(parts.values())}
