"""What fewstep costs over the bare network called in a plain loop: sampling and training, all measured in this one run.

    python -m benchmarks.speed.overhead                       the bundled digits teacher; writes benchmarks/results/overhead.json
    python -m benchmarks.speed.overhead --model MY-TEACHER --batch-size 16 --device cuda

Exits with 1 where a ratio is above its goal. Measure on a machine that does nothing else.
"""

from types import SimpleNamespace

import torch

from benchmarks.command import parser_of, progress, run_main, write_result
from fewstep import Model, open_model
from fewstep.errors import InputError
from fewstep.evaluation.latency import bench_model, bench_training, table
from fewstep.models.metadata import bundled
from fewstep.training.distill import new_teacher, student_of
from fewstep.training.recipe import load_recipe


def teacher_of(path: str | None) -> tuple[Model, str]:
    """The teacher to measure, and what it is."""
    if path is None and not bundled("digits-teacher").is_dir():
        data = SimpleNamespace(classes=tuple("0123456789"), size=8, channels=1, description={})
        model = new_teacher(load_recipe("digits"), data)
        model.denoiser.network.eval()
        return model, "random weights of the digits recipe"
    return open_model(path or "digits"), path or "the bundled digits teacher"


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
