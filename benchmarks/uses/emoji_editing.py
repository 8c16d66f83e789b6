"""Editing by text in latent space: emoji redrawn under the name of another, by students and by their teacher.

    python -m benchmarks.uses.emoji_editing --teacher runs/emoji-teacher/teacher --run runs/emoji --data runs/emoji-teacher/data \
        --judge runs/emoji-judge/judge --out benchmarks/results/emoji-editing.json --picture docs/emoji-editing.png

As benchmarks/uses/editing.py: the same strengths, models and measures, but that a small CLIP model (benchmarks/quality/emoji_judge.py) says what a picture
shows: the share for which the target caption is among the five that it finds most alike, of all captions. Fidelity is to the pictures
as the VAE gives them back, which is the bound of any edit.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.command import Row, parser_of, run_main, write_result
from benchmarks.quality.emoji_judge import found_captions, read, share_within
from benchmarks.uses import tables
from benchmarks.uses.editing import Editor, bounds, jobs_of, sheet
from benchmarks.uses.subject import edge_correlation, measured, models_of
from fewstep import Model, open_model
from fewstep.data.images import into_model
from fewstep.data.sources import shuffled
from fewstep.evaluation.clip_score import ClipScore
from fewstep.evaluation.metrics import psnr
from fewstep.method.conditioning import Condition
from fewstep.models.sampling import Samples

FOUND_AMONG = 5


@dataclass(frozen=True)
class CaptionedSubject:
    """Pictures (n, 3, h, w) with captions, the captions that they are to become, and the judge: what `Editor` asks of a subject."""

    teacher: Model
    images: Tensor
    captions: list[str]
    target: list[str]
    among: list[str]
    score: ClipScore

    @property
    def others(self) -> Condition:
        """The condition (n, ...) of the target captions."""
        return self.teacher.condition(prompts=self.target)

    @property
    def titles(self) -> list[str]:
        """What each picture is, and what it is to become."""
        return [f"{one[:16]} to\n{other[:16]}" for one, other in zip(self.captions, self.target, strict=True)]

    def measures(self, drawn: Samples, _target: Condition) -> Row:
        """Nearness to the pictures, and how well the answers fit the target captions."""
        x = drawn.pictures().clamp(-1, 1)
        places = found_captions(self.score, x, self.target, self.among)
        return {
            "psnr": psnr(x, self.images), "edges": float(edge_correlation(x, self.images).mean()), "evaluations": drawn.evaluations,
            "found": share_within(places, FOUND_AMONG), "clip_score": float(self.score(x, self.target).mean()),
        }  # fmt: skip


def subject_of(teacher: Model, judge: Path, data: Path, count: int) -> CaptionedSubject:
    """The first pictures of a fixed random order, each to become what the next one is."""
    (x, captions), (_, unseen) = read(data / "train.npz"), read(data / "test.npz")
    chosen = shuffled(len(x), 0, 0)[:count].tolist()
    own = [captions[k] for k in chosen]
    again = teacher.decode(into_model(teacher, x[chosen])).clamp(-1, 1)
    among = [*dict.fromkeys([*captions, *unseen])]
    return CaptionedSubject(teacher, again, own, own[1:] + own[:1], among, ClipScore.open(str(judge)))


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="pipeline folder")
    parser.add_argument("--run", type=Path, required=True, help="run folder of fewstep distill")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.npz and test.npz: images, captions")
    parser.add_argument("--judge", type=Path, required=True, help="folder of a CLIP model")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    args = parser.parse_args(words)
    tried, by_steps = (subject_of(open_model(args.teacher), args.judge, args.data, args.images), models_of(args.run))
    editor: Any = Editor(tried, args.guidance_scale)
    rows = bounds(tried) + measured(jobs_of(editor, by_steps))
    pictures = {"images": len(tried.captions), "captions": len(tried.among), "found_among": FOUND_AMONG}
    result = {"guidance_scale": args.guidance_scale, "pictures": pictures, "rows": rows}
    if args.picture:
        sheet(editor, by_steps).save(args.picture, optimize=True)
    write_result(args.out, result)
    print(tables.editing(result))


if __name__ == "__main__":
    run_main(main)
