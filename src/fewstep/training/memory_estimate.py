"""What a training takes of a device's memory and of the disk, counted before it begins, and whether there is so much."""

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from fewstep.errors import InputError
from fewstep.method.stage_two import rungs
from fewstep.models.half_weights import DTYPES, widened
from fewstep.models.lora import lora_student
from fewstep.models.metadata import INFO
from fewstep.models.model import Model
from fewstep.models.shapes import shapes_of
from fewstep.training.bucketing import largest_size
from fewstep.training.network_cost import bytes_of, count, decoding_bytes
from fewstep.training.plan_of_stages import stages_of
from fewstep.training.recipe import Recipe
from fewstep.training.sample_plan import sample_plans
from fewstep.training.settings import TrainSettings
from fewstep.training.stage_settings import LoraSettings

PROCESS = {
    "cpu": 600 << 20,
    "cuda": 500 << 20,
}  # bytes of Python and PyTorch with its libraries; on a GPU those of CUDA's own context
CHECKPOINTS = 3  # that a run has at a time: the last two, and the one being written
GB = 1e9
Parts = dict[str, int]


def student(teacher: Model, lora: LoraSettings | None = None) -> Model:
    """The teacher's student, untrained, with adapters where the settings say so."""
    with torch.random.fork_rng(devices=[]):
        if lora is None:
            network = widened(teacher.family.student_of(teacher.denoiser.network)).eval()
        else:
            network = lora_student(teacher.denoiser.network, teacher.family, 0, **lora.model_dump())
    info = teacher.info.model_copy(update={"kind": "student"})
    return replace(teacher, info=info, denoiser=replace(teacher.denoiser, network=network))


def student_shapes(teacher: Model, lora: LoraSettings | None = None) -> Model:
    """The teacher's student with a network of shapes alone; the teacher's weights are neither copied nor touched."""
    with torch.device("meta"):
        made = student(shapes_of(teacher), lora)
    made.denoiser.network.to("meta")  # where adapters may have been made elsewhere
    return made


def saved_bytes(recipe: Recipe, teacher: Model, parameters: int) -> int:
    """Bytes of a saved network of so many parameters."""
    dtype = DTYPES.get(recipe.student.dtype or "") or teacher.family.stored_dtype()
    return parameters * dtype.itemsize


def memory(cost: dict[str, Any], teacher: int, train: TrainSettings, kind: str, saved: int = 0, pictures: int = 0) -> Parts:
    """Bytes on each device, by what holds them, when they are most: in training, when a student is saved and compared, or when pictures are drawn.

    Activations are as in float32, of which mixed precision keeps less. `teacher` is what is not the student's too, `saved` the network
    as stock diffusers opens it, `pictures` what decodes latents.
    """
    trained, frozen = cost["trained_bytes"], {"weights": cost["bytes"], "teacher": teacher, "process": PROCESS.get(kind, 0)}
    moments = (2 if train.optimizer == "adamw" else 0.5) * trained
    average = 0 if train.ema_device == "cpu" and kind != "cpu" else trained
    training = frozen | {"gradients": trained, "moments": round(moments), "average": average, "activations": cost["activations"]}
    if kind != "cpu":  # what is saved is merged there, and compared and decoded there where a GPU has no room
        return training | {"total": sum(training.values())}
    saving = frozen | {"average": average, "comparison": saved + cost["evaluation"]}
    drawing = frozen | {"moments": round(moments), "average": average, "pictures": pictures}
    most = max(training, saving, drawing, key=lambda parts: sum(parts.values()))
    return most | {"total": sum(most.values())}


def needed(recipe: Recipe, teacher: Model, kind: str, cost: dict[str, Any] | None = None) -> tuple[dict[str, Any], Parts, Parts]:
    """(cost of the student's network, memory of stage one, memory of a rung) of `distill`; `teacher` may have shapes alone.

    A `cost` that was counted before, as for another batch size, is taken as it is.
    A frozen network counts in the dtype that it is kept in: the teacher in its own, a rung's teacher in that which it was saved in.
    """
    train, lora, own = recipe.train, recipe.student.lora, bytes_of(teacher.denoiser.network.parameters())
    cost = cost or count(student_shapes(largest_size(recipe, teacher), lora), train.batch_size, train.gradient_checkpointing)
    adapters = cost["trained_bytes"] if lora else 0
    saved = saved_bytes(recipe, teacher, cost["parameters"] - adapters // 4)
    first, later = (0, adapters) if lora else (own, saved)
    pictures = decoding_bytes(teacher) if kind == "cpu" and draws_pictures(recipe, teacher) else 0
    return cost, memory(cost, first, train, kind, saved, pictures), memory(cost, later, train, kind, saved, pictures)


def draws_pictures(recipe: Recipe, teacher: Model) -> bool:
    """Whether pictures of a distillation's students are drawn while they train."""
    batch = recipe.train.batch_size * recipe.train.gradient_accumulation
    return teacher.info.pictured and bool(
        sample_plans(recipe, stages_of(recipe, distilling=True), batch, teacher.info.image_size is not None)
    )


def room(device: torch.device) -> int:
    """Bytes of memory that a device has in all; of a CPU those of the machine, or of the control group that the process is in."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [psutil.virtual_memory().total]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max"
            limits.append(int(Path(file).read_text()))
    return min(limits)


def check_memory(recipe: Recipe, teacher: Model, device: torch.device) -> None:
    """Raises InputError where a distillation needs more memory than the device has, with what to change."""
    try:
        _, first, later = needed(recipe, teacher, device.type)
    except InputError:
        raise
    except Exception:  # a network of one's own that cannot be evaluated on shapes alone: then nothing is known
        return
    parts, has = max(first, later, key=lambda parts: parts["total"]), room(device)
    if parts["total"] <= has:
        return
    train, smaller = recipe.train, []
    if train.batch_size > 1 and parts.get("activations", 0) > 0.1 * has:
        smaller.append(f"train.batch_size below {train.batch_size} (with train.gradient_accumulation)")
    if not train.gradient_checkpointing:
        smaller.append("train.gradient_checkpointing = true")
    if recipe.student.lora is None:
        smaller.append("student.lora.rank = 64")
    if device.type != "cpu" and train.ema_device != "cpu":
        smaller.append("train.ema_device = 'cpu'")
    if train.optimizer == "adamw" and recipe.student.lora is None:
        smaller.append("train.optimizer = 'adamw8bit'")
    raise InputError(
        f"the distillation needs about {parts['total'] / GB:.1f} GB of memory, and the {device.type} has {has / GB:.1f} GB: set "
        f"{', '.join(smaller) or 'train.batch_size to 1'}, or take a larger device (--dry-run shows the parts)"
    )


def written_bytes(recipe: Recipe, teacher: Model, run: Path) -> int:
    """Bytes that `distill` has still to write into the run folder: students, the parts beside them once, and checkpoints."""
    shapes = student_shapes(teacher, recipe.student.lora).denoiser.network
    trained = bytes_of(p for p in shapes.parameters() if recipe.student.lora is None or p.requires_grad)
    parameters = sum(p.numel() for p in shapes.parameters()) - (trained // 4 if recipe.student.lora else 0)
    network = saved_bytes(recipe, teacher, parameters) + (trained if recipe.student.lora else 0)
    encoders = rungs(recipe.encoder.ladder) if recipe.encoder.ladder else []
    names = [
        "stage-one",
        *(f"steps-{n:04d}" for n, _ in rungs(recipe.stage_two.ladder)),
        *(f"encoder-{n:04d}" for n, _ in encoders),
    ]
    left = sum(not (run / name / INFO).is_file() for name in names)
    parts, folder = 0, teacher.family.folder
    if folder is not None and left == len(names):
        component = folder / teacher.family.component
        parts = sum(f.stat().st_size for f in folder.rglob("*.safetensors") if component not in f.parents)
    return left * network + parts + (CHECKPOINTS * 4 * trained if left else 0)  # weights, average, two moments


def check_disk(recipe: Recipe, teacher: Model, run: Path) -> None:
    """Raises InputError where the disk of a run folder has less room than the run will still write."""
    place = next(path for path in (run.absolute(), *run.absolute().parents) if path.exists())
    try:
        writes = written_bytes(recipe, teacher, run)
    except InputError:
        raise
    except Exception:  # as in `check_memory`
        return
    free = shutil.disk_usage(place).free
    if writes > free:
        raise InputError(
            f"the run will write about {writes / GB:.1f} GB into {run}, and its disk has {free / GB:.1f} GB free: free some space, name an "
            "--out on another disk, or set student.dtype = 'bfloat16' or student.lora.rank = 64"
        )
