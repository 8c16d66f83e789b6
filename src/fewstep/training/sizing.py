"""What distilling a network takes before any of it is here: parameters, memory and time from the configs of its folder alone."""

from dataclasses import replace
from typing import Any

from torch import nn

from fewstep.errors import InputError
from fewstep.models.lora import added, lora_student
from fewstep.models.model import Model
from fewstep.training.cost_estimate import memory, shapes_of
from fewstep.training.network_cost import count, size_of
from fewstep.training.settings import LoraSettings, TrainSettings

DEVICES = 8  # that share sharded training, unless another number is asked for
UPDATES = 1000
TEACHER_CALLS = 2  # for an example: both branches in stage one, two steps in a rung that halves the steps


def size_up(
    teacher: Model, images_per_second: float | None = None, batch_size: int | None = None, devices: int = DEVICES
) -> dict[str, Any]:
    """Parameters, bytes a device for each way to train, and what 1,000 updates take; `teacher` may have shapes alone.

    Memory is that of float32 with AdamW, one image at a time on each device. `images_per_second` is what one device trains the
    network on, forward and backward; without it no time is told.

    Raises:
        InputError: a student, which is not distilled.
    """
    if teacher.info.kind != "teacher":
        raise InputError("this is a student or an encoder, which is not distilled again; name its teacher")
    shapes = shapes_of(teacher)
    cost, batch = count(shapes, 1), batch_size or TrainSettings().batch_size
    full = memory(cost, size_of(teacher.denoiser.network))
    sharded = (full["total"] - full["activations"]) // devices + full["activations"]
    ways = {"weights": full["teacher"], "full training": full["total"], f"full training sharded over {devices}": sharded}
    trained = lora_parameters(teacher)
    if trained is not None:  # the teacher's weights once, and of the adapters weights, gradients, two moments and the average
        rank = LoraSettings().rank
        ways[f"LoRA training of rank {rank}"] = full["teacher"] + 5 * 4 * trained + full["activations"]
    images, work = UPDATES * batch, cost["flops"]
    per: dict[str, Any] = {"batch_size": batch, "images": images, "evaluations": (TEACHER_CALLS + 1) * images}
    if images_per_second:
        share = (TEACHER_CALLS * work["forward"] + work["trained"]) / work["trained"]  # of an image in training alone
        per |= {"images_per_second": images_per_second, "seconds": share * images / images_per_second}
    return {
        "parameters": sum(p.numel() for p in teacher.denoiser.network.parameters()), "lora_parameters": trained, "memory_bytes": ways,
        "activations_of_one_image": full["activations"], "flops": work, "per_1000_updates": per,
    }  # fmt: skip


def lora_parameters(teacher: Model) -> int | None:
    """How many parameters the adapters of a student with the usual settings have; None where the family takes none."""
    try:
        student: nn.Module = lora_student(on_shapes(teacher).denoiser.network, teacher.family, LoraSettings(), 0)
    except InputError:
        return None
    return sum(p.numel() for p in added(student).values())


def on_shapes(teacher: Model) -> Model:
    """The teacher with a network of shapes alone, its own weights neither copied nor touched."""
    import copy

    network = teacher.denoiser.network
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta")) for p in network.parameters()}
    memo |= {id(b): b.to("meta") for b in network.buffers()}
    return replace(teacher, denoiser=replace(teacher.denoiser, network=copy.deepcopy(network, memo)))
