"""Style transfer: the way to noise and back by a distilled encoder and decoder, against the teacher's DDIM.

    fewstep distill digits-uses --out runs/digits-uses
    python -m benchmarks.uses.style_transfer --run runs/digits-uses --picture docs/style-transfer.png

Round trip: pictures are encoded and decoded under their own class, without guidance, and should come back. Translation: they are decoded
under another class, at each guidance scale. Encoder and decoder of N steps take 2 x N evaluations; the teacher takes 256 steps each way
(two evaluations a step where it is guided), or as many evaluations as they take. With --second another run's decoder draws what this
run's encoder encoded: two models, two data sets. Writes benchmarks/results/style-transfer.json.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.command import Row, run_main, write_result
from benchmarks.uses import tables
from benchmarks.uses.subject import SHOWN, Subject, distance, measured, models_of, run_parser, subject
from fewstep import Model
from fewstep.editing.style_transfer import pair_of, translate
from fewstep.errors import InputError
from fewstep.grids import labelled_grid
from fewstep.models.sampling import Samples, to_images

REFERENCE = 256  # steps of the teacher, each way
BATCH = 256


class Translator:
    """Translates a subject's pictures, each code and each answer made once."""

    def __init__(self, tried: Subject, encoders: dict[int, Model], decoders: dict[int, Model]) -> None:
        self.tried, self.encoders, self.decoders = tried, encoders, decoders
        self.codes: dict[Any, Tensor] = {}
        self.kept: dict[Any, Samples] = {}

    def answer(self, by: str, steps: int, scale: float | None) -> Samples:
        """By "student" or "teacher" with so many evaluations each way; scale None: under the picture's own class."""
        if (by, steps, scale) not in self.kept:
            teacher, labels = self.tried.teacher, self.tried.labels
            models = (self.decoders[steps], self.encoders[steps]) if by == "student" else (teacher, teacher)
            halved = by == "teacher" and steps != REFERENCE and scale not in (None, 1.0)  # a guided step costs two evaluations
            choices = {"steps": steps // 2 if halved else steps, "encoder_steps": steps}
            pair = pair_of(*models, guidance_scale=1.0 if scale is None else scale, **choices)
            with torch.no_grad():
                if (by, steps) not in self.codes:
                    self.codes[by, steps] = pair.encode(self.tried.images, labels, BATCH)[0]
                codes, target = self.codes[by, steps], labels if scale is None else self.tried.others
                drawn, seconds = pair.decode(codes, target, BATCH, lambda done: None)
            self.kept[by, steps, scale] = Samples(codes, drawn, pair.decoding.steps, "deterministic", pair.evaluations, seconds)
        return self.kept[by, steps, scale]

    def row(self, by: str, steps: int, scale: float | None) -> Row:
        """What is measured of it, and how its code and its pictures compare with those of the teacher's many steps."""
        drawn, reference = self.answer(by, steps, scale), self.answer("teacher", REFERENCE, scale)
        target = self.tried.labels if scale is None else self.tried.others
        away = {"rms_to_teacher": distance(drawn, reference), "codes_alike": alike(drawn.noise, reference.noise)}
        return self.tried.measures(drawn, target) | away | {"code_deviation": float(drawn.noise.std())}


def alike(codes: Tensor, others: Tensor) -> float:
    """Mean correlation of codes (n, c, h, w) with others of the same pictures."""
    one, other = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (codes, others))
    return float(((one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))).mean())


def jobs_of(translator: Translator, scales: list[float]) -> list[tuple[Row, Any]]:
    """Round trips, then translations at each scale: student and teacher at equal evaluations, and the teacher with many."""
    each_way = sorted(set(translator.encoders) & set(translator.decoders))
    jobs = []
    for scale in (None, *scales):
        for by, steps in [*((by, n) for n in each_way for by in ("student", "teacher")), ("teacher", REFERENCE)]:
            task = "round trip" if scale is None else "translation"
            known = {"task": task, "guidance_scale": scale or 1.0, "model": by, "each_way": steps}
            jobs.append((known, lambda b=by, n=steps, s=scale: translator.row(b, n, s)))
    return jobs


def second_rows(
    tried: Subject, other: Subject, encoders: dict[int, Model], decoders: dict[int, Model], scale: float
) -> tuple[list[Row], Any]:
    """Pictures of `tried` drawn by another model as its classes in turn, and the pictures themselves by what drew them."""
    target, kept = torch.arange(len(tried.labels)) % len(other.data.classes), {}
    rows: list[Row] = []
    for by, steps in [*(("student", n) for n in sorted(set(encoders) & set(decoders))), ("teacher", REFERENCE)]:
        pair = (decoders[steps], encoders[steps]) if by == "student" else (other.teacher, tried.teacher)
        choices = {"steps": steps, "encoder_steps": steps, "guidance_scale": scale}
        kept[by, steps] = drawn = translate(*pair, tried.images, tried.labels, target, **choices)
        x = drawn.samples.clamp(-1, 1)
        known = {"task": "two models", "guidance_scale": scale, "model": by, "each_way": steps}
        measured = tried.measures(drawn, target) | {"class_accuracy": other.classifier.class_accuracy(other.classifier(x), target)}
        rows.append(known | measured)
    for row in rows:
        row["rms_to_teacher"] = distance(kept[row["model"], row["each_way"]], kept["teacher", REFERENCE])
    return rows, (target, kept)


def draw(translator: Translator, scale: float, path: Path, second: tuple[Subject, Any] | None = None) -> None:
    """The figure: pictures, their round trips, and their translations, those of the students over those of the teacher."""
    tried, each_way = translator.tried, sorted(set(translator.encoders) & set(translator.decoders))
    lines, sides = [to_images(tried.images[:SHOWN])], ["picture"]

    def add(drawn: Samples, side: str) -> None:
        lines.append(to_images(drawn.samples[:SHOWN]))
        sides.append(side)

    for by, steps in [*(("student", n) for n in each_way), ("teacher", REFERENCE)]:
        add(translator.answer(by, steps, None), f"and back\n{by}, 2 x {steps}")
    for by, steps in [*(("student", n) for n in each_way), ("teacher", REFERENCE)]:
        add(translator.answer(by, steps, scale), f"scale {scale:g}\n{by}, 2 x {steps}")
    tops = tried.titles[:SHOWN]
    if second:
        other, (target, kept) = second
        tops = [f"{top} /\n{other.data.classes[k]}" for top, k in zip(tops, target.tolist(), strict=False)]
        for by, steps in kept:
            add(kept[by, steps], f"second model\n{by}, 2 x {steps}")
    path.parent.mkdir(parents=True, exist_ok=True)
    labelled_grid(lines, sides, tops).save(path, optimize=True)


def main(words: list[str] | None = None) -> None:
    parser = run_parser(__doc__, "style-transfer", images=200)
    parser.add_argument("--guidance-scale", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--second", type=Path, help="run folder whose students draw what this run's encoders encoded")
    parser.add_argument("--second-data", help="its data, in place of its recipe's")
    args = parser.parse_args(words)
    tried, encoders = subject(args.run, args.images, args.teacher, args.data), models_of(args.run, "encoder")
    translator = Translator(tried, encoders, models_of(args.run))
    if not set(encoders) & set(translator.decoders):
        raise InputError(f"{args.run} has no encoder and student of the same steps; distil with encoder.ladder = [64, 16, 8, 4]")
    rows = measured(jobs_of(translator, args.guidance_scale))
    second = None
    if args.second:
        other = subject(args.second, args.images, None, args.second_data)
        more, shown = second_rows(tried, other, encoders, models_of(args.second), max(args.guidance_scale))
        rows, second = rows + more, (other, shown)
    result = {"pictures": tried.facts(), "rows": rows}
    if second:
        result["second"] = {"classifier_accuracy": second[0].classifier.held_out_accuracy, "data": second[0].facts()["data"]}
    if args.picture:
        draw(translator, max(args.guidance_scale), args.picture, second)
    write_result(args.out, result)
    print(tables.style_transfer(result))


if __name__ == "__main__":
    run_main(main)
