"""What fewstep costs over the bare network called in a plain loop: sampling and training, all measured in this one run.

    python -m benchmarks.speed.overhead                       the bundled digits teacher; writes benchmarks/results/overhead.json
    python -m benchmarks.speed.overhead --model MY-TEACHER --batch-size 16 --device cuda

Exits with 1 where a ratio is above its goal. Measure on a machine that does nothing else.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from benchmarks.command import Row, parser_of, progress, run_main, write_result
from fewstep import Model, open_model
from fewstep.data.datasets import Data
from fewstep.errors import InputError
from fewstep.evaluation.latency import bench_model, recorded, table, timed
from fewstep.models.metadata import bundled
from fewstep.training.distill import new_teacher, next_student, student_of
from fewstep.training.losses import stage_one, stage_two
from fewstep.training.recipe import Recipe, load_recipe, make_recipe
from fewstep.training.stage import Stage
from fewstep.training.train_state import State
from fewstep.training.trainer import Trainer

GOAL = 1.15  # largest ratio of an update to its bare calls


def teacher_of(path: str | None) -> tuple[Model, str]:
    """The teacher to measure, and what it is."""
    if path is None and not bundled("digits-teacher").is_dir():
        data = SimpleNamespace(classes=tuple("0123456789"), size=8, channels=1, description={})
        model = new_teacher(load_recipe("digits"), data)
        model.denoiser.network.eval()
        return model, "random weights of the digits recipe"
    return open_model(path or "digits"), path or "the bundled digits teacher"


def bench_training(teacher: Model, batch_size: int, repeats: int, progress: Callable[[str], Any]) -> list[Row]:
    """An update of the trainer, in stage one and in a rung of two teacher steps, against its bare calls, backward and optimiser.

    Raises:
        InputError: `teacher` cannot be guided, or is a student.
    """
    info = teacher.info
    pixels = torch.randint(0, 256, (1024, info.channels, info.size, info.size), dtype=torch.uint8)
    data = Data(pixels, torch.arange(len(pixels)) % len(info.classes), info.classes)
    recipe = make_recipe({"train": {"batch_size": batch_size}, "stage_two": {"ladder": (16, 8)}})
    device = teacher.denoiser.device.type
    trainer = Trainer(Path(os.devnull), data, recipe.train, device, quiet=True)  # nothing is logged or saved
    progress("an update of stage one")
    student = student_of(recipe, teacher)
    rows = [training_row(stage_one(recipe, teacher), student, [teacher.denoiser.network], trainer, recipe, repeats)]
    progress("an update of stage two")
    rung, later = stage_two(recipe, student, 8, 2), next_student(student, 8)
    rows.append(training_row(rung, later, [student.denoiser.network], trainer, recipe, repeats))
    return rows


def training_row(stage: Stage, student: Model, frozen: list[nn.Module], trainer: Trainer, recipe: Recipe, repeats: int) -> Row:
    """The row of one update of a stage; `frozen` are the networks that it calls besides the student's."""
    device, size = trainer.accelerator.device, recipe.train.batch_size
    network = student.denoiser.network.to(device).train(stage.dropout)
    state = State(stage, network, recipe.train, trainer.accelerator)
    trained = replace(student.denoiser, network=state.wrapped, autocast=trainer.accelerator.autocast)

    batches = trainer.batches_of(stage)

    def ours() -> None:
        state.step(trainer.gradients(stage, state, trained, batches))

    with recorded(network, *frozen) as calls:
        ours()
    # on the same weights, which a rate of 0 leaves alone at the same cost
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0, weight_decay=0.0, fused=True)

    def bare() -> None:
        for call in calls:
            with torch.set_grad_enabled(call.trained), trainer.accelerator.autocast():
                output = call()
            if call.trained:
                output.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    row = timed(ours, bare, repeats, device)
    batches.close()
    evaluations = sum(call.arguments[0].shape[0] for call in calls) / size
    trainer.accelerator.free_memory()
    row |= {"evaluations": round(evaluations), "batch_size": size, "images_per_second": size / row["seconds"]}
    return {"what": f"{stage.name}, an update", "goal": GOAL} | row


def main(words: list[str] | None = None) -> int:
    parser = parser_of(__doc__, "overhead")
    parser.add_argument(
        "--model", help="a teacher's folder; by default the bundled digits teacher, else random weights of its size"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=20, help="pairs of runs of which the median is taken")
    parser.add_argument("--threads", type=int, help="of PyTorch on a CPU; by default as many as it likes")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(words)
    if args.threads:
        torch.set_num_threads(args.threads)
    teacher, name = teacher_of(args.model)
    if teacher.info.kind != "teacher":
        raise InputError(f"{name} is a {teacher.info.kind}; name a teacher, from which a student is made here")
    teacher.to(args.device)
    student = student_of(load_recipe(), teacher)
    student.denoiser.network.eval()

    rows = bench_model(teacher, args.batch_size, args.repeats, progress=progress)["rows"]
    for steps in (1, 2, 4):
        rows += bench_model(student, args.batch_size, args.repeats, steps, progress)["rows"]
    rows += bench_training(teacher, args.batch_size, args.repeats, progress)
    print("\n".join(table(rows)))
    write_result(args.out, {"model": name, "rows": rows}, teacher.denoiser.device)
    return int(any(row["goal"] and row["ratio"] > row["goal"] for row in rows))


if __name__ == "__main__":
    run_main(main)
