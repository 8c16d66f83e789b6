"""The paper's headline in wall clock: an image by the 4-step student against the guided teacher at 1024 steps, with the quality of both.

    fewstep quickstart --out runs/quickstart
    python -m benchmarks.speed.headline --run runs/quickstart

The teacher takes 2048 evaluations of its network, the student 4: 512 times fewer. How much of that is left in seconds is the share, to be
at least 0.9. Each batch of the teacher is timed between runs of the student on the same noise, and the ratio is the median over batches, so
that what else the machine does slows both; the ratio of CPU time beside it does not see it at all. The same samples are measured, in the
features of a digit classifier. Writes benchmarks/results/headline.json.
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.command import parser_of, run_main, write_result
from benchmarks.quality.digit_measures import DigitMeasures
from benchmarks.speed import tables
from fewstep import Model, open_model
from fewstep.data.loading import Data
from fewstep.errors import InputError
from fewstep.evaluation.metrics import inception_score
from fewstep.evaluation.teacher_samples import fixed_noise
from fewstep.models.sampling import Samples
from fewstep.progress import LiveLine, clock
from fewstep.training.recipe import load_recipe
from fewstep.training.run_folder import open_examples

GOAL = 0.9  # share of the ratio of evaluations that is left in wall clock
STUDENT_RUNS = 5  # before and after each run of the teacher
Row = dict[str, Any]


def race(
    teacher: Model, student: Model, noise: Tensor, labels: Tensor, batch_size: int, steps: tuple[int, int], scale: float
) -> tuple[Row, list[Samples]]:
    """Both models' samples from noise (n, c, h, w), and the median seconds and ratios of its batches; `steps` of teacher and student."""
    timed(teacher, noise[:batch_size], labels[:batch_size], 4, scale)  # to warm up
    long, short, spans = [], [], []
    line, began = LiveLine(), time.monotonic()
    for z, label in zip(noise.split(batch_size), labels.split(batch_size), strict=True):
        around = [timed(student, z, label, steps[1], scale) for _ in range(STUDENT_RUNS)]
        slow = timed(teacher, z, label, steps[0], scale)
        around += [timed(student, z, label, steps[1], scale) for _ in range(STUDENT_RUNS)]
        if len(z) == batch_size:  # the last batch may be smaller
            fast = (statistics.median(run[0] for run in around), statistics.median(run[1] for run in around))
            spans.append((slow[0], slow[1], *fast))
        long.append(slow[2])
        short.append(around[0][2])
        done = sum(len(one.samples) for one in long)
        left = clock((len(noise) - done) * (time.monotonic() - began) / done)
        line.show(f"batches of {batch_size}: {done}/{len(noise)} images, {left} left", done == len(noise))
    drawn = [joined(long), joined(short)]
    return {"batch_size": batch_size} | ratios(spans, batch_size, [one.evaluations for one in drawn]), drawn


def timed(model: Model, z: Tensor, labels: Tensor, steps: int, scale: float) -> tuple[float, float, Samples]:
    """Seconds by the clock and of the CPU for one batch, and its samples."""
    cpu = time.process_time()
    samples = model.sample_tensor(labels, steps=steps, guidance_scale=scale, noise=z, batch_size=len(z))
    return samples.seconds, time.process_time() - cpu, samples


def ratios(spans: list[tuple[float, ...]], batch_size: int, evaluations: list[int]) -> Row:
    """What the (clock, CPU) seconds of the teacher and of the student in each batch amount to."""
    fewer = evaluations[0] / evaluations[1]
    wall, cpu = ([span[i] / span[i + 2] for span in spans] for i in (0, 1))
    return {
        "batches": len(spans), "evaluations": evaluations, "ratio_of_evaluations": fewer,
        "teacher_seconds": statistics.median(span[0] for span in spans) / batch_size,
        "student_seconds": statistics.median(span[2] for span in spans) / batch_size,
        "ratio": statistics.median(wall), "ratios": wall, "cpu_ratio": statistics.median(cpu), "cpu_ratios": cpu,
        "share": statistics.median(wall) / fewer, "cpu_share": statistics.median(cpu) / fewer, "goal": GOAL,
    }  # fmt: skip


def joined(parts: list[Samples]) -> Samples:
    """The samples of several batches as one."""
    noise, samples = (torch.cat([getattr(one, key) for one in parts]) for key in ("noise", "samples"))
    return replace(parts[0], noise=noise, samples=samples, seconds=sum(one.seconds for one in parts))


def call_row(teacher: Model, student: Model, batch_size: int, repeats: int = 100) -> Row:
    """Seconds of one guided step of the teacher (both branches in one call) over one step of the student: 2 if work alone counted."""
    info = teacher.info
    z, t = torch.randn(batch_size, info.channels, info.size, info.size), torch.full((batch_size,), 0.5)
    labels, w = torch.arange(batch_size) % len(info.classes), torch.ones(batch_size)

    def seconds(estimate: Any) -> float:
        began = time.perf_counter()
        with torch.no_grad():
            estimate(z, t, labels, w)
        return time.perf_counter() - began

    guided = teacher.denoiser.guided()
    pairs = [(seconds(guided), seconds(student.denoiser)) for _ in range(repeats + 3)][3:]
    return {"batch_size": batch_size, "guided_call_over_student_call": statistics.median(a / b for a, b in pairs)}


def quality_rows(drawn: list[Samples], labels: Tensor, data: Data) -> list[Row]:
    """Fréchet distance, Inception Score and class accuracy of the teacher's and the student's samples from the same noise."""
    measures, rows = DigitMeasures.of_data(data), []
    for name, samples in zip(("teacher", "student"), drawn, strict=True):
        logits = measures.features.logits(measures.features(samples.samples))
        assert logits is not None
        p = logits.double().softmax(1)
        row = measures.row(samples, labels, drawn[0].samples, model=name, steps=samples.steps)
        rows.append(row | {"inception_score": inception_score(p.sum(0), float(torch.special.entr(p).sum()), len(p))})
    return rows


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "headline")
    parser.add_argument("--run", type=Path, required=True, help="run folder with teacher/ and the student's steps-0004/")
    parser.add_argument("--teacher", type=Path, help="the teacher's folder; by default RUN/teacher")
    parser.add_argument("--student-steps", type=int, default=4)
    parser.add_argument("--teacher-steps", type=int, default=1024)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--samples", type=int, default=1000, help="to draw at the largest batch size, and measure the quality of")
    parser.add_argument("--repeats", type=int, default=5, help="batches to draw at each other size")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    teacher, student = open_model(args.teacher or args.run / "teacher"), open_model(args.run, steps=args.student_steps)
    data = open_examples(load_recipe(args.run / "recipe.toml"))
    if not isinstance(data, Data) or args.samples < max(args.batch_size):
        raise InputError("quality is measured against data in memory, on one batch or more: check the run's data and --samples")
    noise, labels = fixed_noise(teacher, args.samples)
    speed, calls, drawn = [], [], []
    for size in sorted(args.batch_size):
        n = args.samples if size == max(args.batch_size) else min(size * args.repeats, args.samples)
        calls.append(call_row(teacher, student, size))
        steps = (args.teacher_steps, args.student_steps)
        row, drawn = race(teacher, student, noise[:n], labels[:n], size, steps, args.guidance_scale)
        speed.append(row)
    quality = quality_rows(drawn, labels, data)
    result = {"guidance_scale": args.guidance_scale, "samples": args.samples, "speed": speed, "calls": calls, "quality": quality}
    write_result(args.out, result)
    print(tables.headline(result))


if __name__ == "__main__":
    run_main(main)
