"""Text to image in latent space, measured: the emoji's teacher, its students, and stock samplers of the teacher, from the same noise.

    python -m benchmarks.quality.emoji_judge --data runs/emoji-teacher/data --tokenizer runs/emoji-teacher/teacher --out runs/emoji-judge
    python -m benchmarks.quality.emoji --teacher runs/emoji-teacher/teacher --run runs/emoji --data runs/emoji-teacher/data \
        --judge runs/emoji-judge/judge --out benchmarks/results/emoji.json --grid docs/emoji.png

Without --run the teacher and its stock samplers alone. For each way to draw and each guidance scale, of --samples pictures for captions of
the training pictures and as many for captions that neither teacher nor judge has seen (there are fewer: several for each):

    clip score      cosine of picture and caption, times 100, by the judge (a small CLIP model trained on the real emoji)
    found           share of pictures whose caption the judge finds first among all captions
    frechet         distance of the judge's features from those of all real training pictures (of the training captions alone)
    to teacher      the same distance, from those of the teacher's pictures in many steps from the same noise
    rms to teacher  of pixels in [-1, 1], from these pictures

The judge's figures compare the rows with one another; they are no FID and no published CLIP score.
"""

import argparse
import hashlib
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.command import parser_of, run_main, write_result
from benchmarks.quality.emoji_judge import found_captions, read, share_within
from fewstep.data import fingerprints
from fewstep.data.sources import shuffled
from fewstep.evaluation.clip_score import ClipScore
from fewstep.evaluation.configurations import Configuration, configurations, open_models
from fewstep.evaluation.metrics import frechet_distance, rms, saturation, sharpness
from fewstep.evaluation.statistics import Statistics
from fewstep.models.sampling import to_images

SHOWN = ("smiling face with open mouth", "red apple", "tiger face", "blue heart", "thumbs up sign", "fire engine", "rainbow", "bicycle", "octopus", "sunflower")  # fmt: skip
SHOWN_SCALES = (1.0, 2.0, 4.0, 8.0)
SETS = {"training": "train.npz", "unseen": "test.npz"}


def prompts_of(captions: list[str], count: int) -> list[str]:
    """`count` captions in a fixed random order, gone through again where there are fewer."""
    order = shuffled(len(captions), 0, 0)
    return [captions[order[k % len(order)]] for k in range(count)]


class Judge:
    """Measures of pictures and their captions, against the real pictures."""

    def __init__(self, folder: Path, real: Tensor, among: list[str]) -> None:
        self.score, self.among = ClipScore.open(str(folder)), among
        self.real = Statistics.of(self.score.images(real))

    def row(self, x: Tensor, captions: list[str], reference: Tensor | None) -> dict[str, Any]:
        """Of pictures (n, 3, h, w); `reference` is the teacher's from the same noise, None for itself."""
        places, statistics = found_captions(self.score, x, captions, self.among), Statistics.of(self.score.images(x))
        to_teacher = None if reference is None else frechet_distance(statistics, Statistics.of(self.score.images(reference)))
        return {
            "clip_score": float(self.score(x, captions).mean()),
            "found": share_within(places, 1), "found_among_five": share_within(places, 5),
            "frechet": frechet_distance(statistics, self.real), "frechet_to_teacher": to_teacher,
            "rms_to_teacher": None if reference is None else rms(x.clamp(-1, 1), reference.clamp(-1, 1)),
            "sharpness": float(sharpness(x).mean()), "saturation": float(saturation(x).mean()),
        }  # fmt: skip


def parser_of_models(doc: str | None, result: str) -> argparse.ArgumentParser:
    """A command's parser with what distilled models of a teacher are made of and measured by."""
    parser = parser_of(doc, result)
    parser.add_argument("--teacher", type=Path, required=True, help="pipeline folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.npz and test.npz: images, captions")
    parser.add_argument("--judge", type=Path, required=True, help="folder of a CLIP model")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs; the same command resumes")
    return parser


def judge_and_prompts(folder: Path, data: Path, samples: int) -> tuple[Judge, dict[str, list[str]]]:
    """The judge, and so many captions of the training pictures and of the unseen ones."""
    captions = {name: read(data / file)[1] for name, file in SETS.items()}
    judge = Judge(folder, read(data / SETS["training"])[0], [*dict.fromkeys(chain(*captions.values()))])
    return judge, {name: prompts_of(found, samples) for name, found in captions.items()}


def pictures(configuration: Configuration, noise: Tensor, prompts: list[str]) -> tuple[Tensor, float]:
    """Pictures (n, 3, h, w), clipped, and the seconds in the network."""
    condition = configuration.model.condition(prompts=prompts)
    drawn = configuration.draw(noise, condition, 64, 0)
    return drawn.pictures().clamp(-1, 1), drawn.seconds


def kept_pictures(
    configuration: Configuration, noise: Tensor, prompts: list[str], folder: Path | None
) -> tuple[Tensor, float | None]:
    """As `pictures`, from a file in `folder` where they were drawn before (then without the seconds)."""
    if folder is None:
        return pictures(configuration, noise, prompts)
    weights = fingerprints.of_weights(configuration.model.denoiser.network.state_dict())
    known = hashlib.sha256(repr([configuration.key, weights, prompts, noise.sum().item()]).encode()).hexdigest()[:16]
    file = folder / f"{configuration.key}-{known}.safetensors"
    if file.is_file():
        return load_file(file)["pictures"], None
    x, seconds = pictures(configuration, noise, prompts)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"pictures": x.contiguous()}, file)
    return x, seconds


def measured(
    table: list[Configuration], sets: dict[str, list[str]], judge: Judge, seed: int, folder: Path | None = None
) -> list[dict[str, Any]]:
    """A row for each configuration and set of captions; the teacher's pictures in many steps are kept in `folder`."""
    rows, references = [], {}
    for configuration in table:
        for name, prompts in sets.items():
            noise = torch.randn(len(prompts), *configuration.model.info.shape, generator=torch.Generator().manual_seed(seed))
            x, seconds = kept_pictures(configuration, noise, prompts, folder if configuration.reference else None)
            key = name, configuration.guidance_scale
            if configuration.reference:
                references[key] = x
            found = judge.row(x, prompts, None if configuration.reference else references.get(key))
            known = {
                "captions": name, "model": configuration.role, "sampler": configuration.sampler, "steps": configuration.steps,
                "guidance_scale": configuration.guidance_scale, "evaluations": configuration.evaluations, "budget": configuration.budget,
            }  # fmt: skip
            rows.append(known | found | {"samples": len(x), "seconds_per_image": seconds and seconds / len(x)})
            print(
                f"{configuration}, {name}: found {found['found']:.3f}, Fréchet {found['frechet']:.4f}, to teacher {found['frechet_to_teacher']}, "
                f"rms {found['rms_to_teacher']}",
                flush=True,
            )
    return rows


def draw_grid(table: list[Configuration], prompts: list[str], path: Path, seed: int) -> None:
    """Pictures of a few captions from one noise each: a row for each configuration, the captions above."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    noise = torch.randn(len(prompts), *table[0].model.info.shape, generator=torch.Generator().manual_seed(seed))
    figure, axes = plt.subplots(
        len(table), len(prompts), figsize=(0.75 * len(prompts) + 2.2, 0.75 * len(table) + 0.8), squeeze=False
    )
    for configuration, row in zip(table, axes, strict=True):
        for axis, image in zip(row, to_images(pictures(configuration, noise, prompts)[0]), strict=True):
            axis.imshow(image)
            axis.axis("off")
        steps = f"{configuration.steps} step{'s' * (configuration.steps > 1)}"
        who = (
            "student"
            if configuration.role != "teacher"
            else "teacher"
            if configuration.reference
            else f"teacher, {configuration.sampler}"
        )
        text = f"scale {configuration.guidance_scale:g}\n{who}, {steps}"
        row[0].text(-0.15, 0.5, text, transform=row[0].transAxes, ha="right", va="center", fontsize=7)
    for axis, prompt in zip(axes[0], prompts, strict=True):
        axis.set_title(prompt.replace(" ", "\n", 2), fontsize=6)
    figure.subplots_adjust(0.2, 0.01, 0.99, 0.92, 0.04, 0.04)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def shown(table: list[Configuration]) -> list[Configuration]:
    """Of all configurations those that the grid has: the teacher's many steps, DPM++ at 8 evaluations, and the students."""
    return [
        c for c in table
        if c.guidance_scale in SHOWN_SCALES and (c.reference or c.role == "student" or (c.sampler == "dpm++" and c.budget == 8))
    ]  # fmt: skip


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="pipeline folder")
    parser.add_argument("--run", type=Path, help="run folder of fewstep distill")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.npz and test.npz: images, captions")
    parser.add_argument("--judge", type=Path, required=True, help="folder of a CLIP model")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 2, 1], help="of the students")
    parser.add_argument("--guidance-scale", type=float, nargs="+", default=[1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--baselines", nargs="*", default=["ddim", "dpm++", "unipc"])
    parser.add_argument("--budgets", type=int, nargs="+", default=[4, 8, 16], help="evaluations of the network for a baseline")
    parser.add_argument("--reference-steps", type=int, default=100, help="of the teacher")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--references", type=Path, help="folder that keeps the teacher's pictures of many steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", nargs="+", default=list(SHOWN), help="of the grid")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--grid", type=Path, help="picture to write")
    args = parser.parse_args(words)
    models = open_models(args.run or args.teacher, args.teacher, args.steps).to("cpu")
    table = configurations(models, args.guidance_scale, args.baselines, args.budgets, args.reference_steps)
    if args.grid:
        draw_grid(shown(table), args.prompts, args.grid, args.seed)
    if args.out:
        judge, sets = judge_and_prompts(args.judge, args.data, args.samples)
        rows = measured(table, sets, judge, args.seed, args.references)
        real = {name: judge.row(*read(args.data / file), None) for name, file in SETS.items()}
        write_result(args.out, {"samples": args.samples, "captions": len(judge.among), "real": real, "rows": rows})


if __name__ == "__main__":
    run_main(main)
