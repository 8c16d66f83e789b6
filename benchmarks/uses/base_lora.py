"""A LoRA trained on the teacher, put into its students as it is: how near they come to the teacher with it, from the same noise.

    python -m benchmarks.uses.base_lora --work runs/base-lora

On the bundled teacher of digits: one student for all scales of [1, 5], and for each scale measured one with that scale alone, trained by the same
recipe with the same updates. Styles are changes of the data's pictures; each is taught to the teacher by a LoRA of rank 8 (the denoising loss).
The same file is then loaded into teacher and students at full weight. One more student, for each style, is the first distilled again from the
teacher with the LoRA (`student.start`), with a fifth of the updates. The same command resumes. Of 1,000 samples of each:

    frechet         distance to those of the teacher with the LoRA in 64 steps, in features of a classifier trained on the style's pictures
    rms_to_teacher  from the same samples, from the same noise
    class_accuracy  by that classifier

and the same without LoRA: what is lost to distillation before any is loaded; and of the student without LoRA, held against the teacher with it.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.command import Row, parser_of, progress, run_main, write_json, write_result
from benchmarks.uses import tables
from fewstep import Model, distill, open_data, open_model
from fewstep.data.loading import Data
from fewstep.evaluation.classifier import train_or_load_classifier
from fewstep.evaluation.features import Features
from fewstep.evaluation.metrics import Statistics, frechet_distance, rms
from fewstep.method.conditioning import Condition, leaf
from fewstep.models.metadata import INFO
from fewstep.training.losses import teaching
from fewstep.training.recipe import Recipe, load_recipe
from fewstep.training.run_folder import open_run
from fewstep.training.stage import Examples
from fewstep.training.trainer import Trainer

RANK, REFERENCE = 8, 64  # of the LoRA; steps of the teacher
LAYERS = ("conv_in", "conv1", "conv2", "conv_shortcut", "conv_out", "time_emb_proj")  # the teacher has no attention
FILE = "pytorch_lora_weights.safetensors"


def thick(x: Tensor) -> Tensor:
    """Each pixel as bright as the brightest of itself, the one before it and the one above."""
    wide = torch.maximum(x, torch.roll(x, 1, 3))
    return torch.maximum(wide, torch.roll(wide, 1, 2))


def slanted(x: Tensor) -> Tensor:
    """The upper rows one pixel to the right, the lower ones one to the left."""
    return torch.cat([torch.roll(x[:, :, :3], 1, 3), x[:, :, 3:5], torch.roll(x[:, :, 5:], -1, 3)], 2)


STYLES: dict[str, Callable[[Tensor], Tensor]] = {"slanted": slanted, "thick": thick}


def styled(data: Data, style: str, folder: Path) -> Data:
    """The data with their pictures in a style, also as an .npz in the folder."""
    changed = replace(data, pixels=STYLES[style](data.pixels))
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "train.npz", images=changed.pixels.permute(0, 2, 3, 1).numpy(), labels=changed.labels.numpy())
    return changed


def train_lora(
    teacher: Model, data: Examples, out: Path, recipe: Recipe, rank: int, layers: Sequence[str], save: Callable[[Any, Path], None]
) -> Path:
    """A LoRA of the teacher for these data, by the denoising loss and the recipe's `teach` and `train`; the folder in which `save` puts its file."""
    from peft import LoraConfig

    if (out / FILE).is_file():
        return out
    network: Any = copy.deepcopy(teacher.denoiser.network)
    torch.manual_seed(0)
    network.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers)))
    denoiser = replace(teacher.denoiser, network=network)
    with closing(Trainer(open_run(out, recipe), data, recipe.train, "cpu", quiet=True)) as trainer:
        write_json(out / "RESULT.json", trainer.train(teaching(recipe, denoiser), denoiser))
    save(network, out)
    return out


def digits_lora(teacher: Model, data: Data, out: Path, updates: int) -> Path:
    """The folder of a LoRA of the bundled teacher."""
    settings = {"teach.updates": updates, "teach.learning_rate": 3e-3, "teach.schedule": "cosine", "train.batch_size": 128}
    recipe = load_recipe("digits", settings | {"train.ema": 0.99, "train.warmup": 20})
    return train_lora(teacher, data, out, recipe, RANK, LAYERS, lambda network, to: network.save_lora_adapter(to, weight_name=FILE))


def with_lora(model: Model, folder: Path) -> Model:
    """The same model with the adapters of a file in its weights, loaded and merged by diffusers."""
    network: Any = copy.deepcopy(model.denoiser.network)
    network.load_lora_adapter(str(folder), prefix=None, weight_name=FILE)
    network.fuse_lora()
    network.unload_lora()
    return replace(model, denoiser=replace(model.denoiser, network=network.eval().requires_grad_(False)))


def students(run: Path, changes: dict[str, Any], teacher: Path | str = "digits") -> dict[int, Model]:
    """The students of the digits' recipe without paths, with these changes, by their steps, trained where they are not there yet."""
    distill(teacher, recipe="digits", out=run, changes=changes | {"paths.rung": None}, device="cpu", quiet=True)
    return students_in(run)


def students_in(run: Path, lora: Path | None = None) -> dict[int, Model]:
    """The students of a run by their steps, with a LoRA file of their base where one is given."""
    return {int(file.parent.name[-4:]): open_model(file.parent, lora=lora) for file in sorted(run.glob(f"steps-*/{INFO}"))}


def recipe_changes(updates: int, rung: int) -> dict[str, Any]:
    """Of the shipped recipe: more updates, and fewer rungs."""
    return {"stage_one.updates": updates, "stage_two.ladder": [16, 4, 1], "stage_two.updates": rung, "stage_two.last_updates": rung}


@dataclass(frozen=True)
class Subject:
    """What is drawn, conditions (n, ...), and how pictures (n, c, h, w) are measured: by their features (n, d), and what else is said of both."""

    condition: Condition
    features: Callable[[Tensor], Tensor]
    more: Callable[[Tensor, Tensor], Row]


def digits_subject(features: Features, classes: int, count: int) -> Subject:
    """Every class in turn, judged by a classifier."""
    labels = torch.arange(count) % classes
    return Subject(labels, features, lambda _, found: {"class_accuracy": features.class_accuracy(found, labels)})


class Measures:
    """Pictures of models at one scale, from one noise for each, held against the teacher's of many steps."""

    def __init__(self, subject: Subject, teacher: Model, scale: float) -> None:
        self.subject, self.scale = subject, scale
        count = len(leaf(subject.condition))
        self.noise = torch.randn(count, *teacher.info.shape, generator=torch.Generator().manual_seed(0))
        self.reference = self.pictures(teacher, REFERENCE)
        self.statistics = Statistics.of(subject.features(self.reference))

    def pictures(self, model: Model, steps: int) -> Tensor:
        """(n, c, h, w), clipped."""
        drawn = model.sample_tensor(self.subject.condition, steps=steps, guidance_scale=self.scale, noise=self.noise)
        return drawn.pictures().float().clamp(-1, 1)

    def row(self, made: Model | None, steps: int, **known: Any) -> Row:
        """What is measured of a model, None for the reference itself, after what is `known` of it."""
        x = self.reference if made is None else self.pictures(made, steps)
        found = self.subject.features(x)
        row = known | {"steps": steps, "guidance_scale": self.scale} | self.subject.more(x, found)
        row |= {"frechet": frechet_distance(Statistics.of(found), self.statistics), "rms_to_teacher": rms(x, self.reference)}
        progress(f"{known}, {steps} steps, scale {self.scale:g}: Fréchet {row['frechet']:.3g}, rms {row['rms_to_teacher']:.3f}")
        return row


def rows_of(
    style: str, teacher: Model, subject: Subject, models: dict[str, dict[int, Model]], plain: dict[int, Model], scale: float
) -> list[Row]:
    """The teacher, then each kind of student with each number of steps, at one scale; `plain` are students without the LoRA."""
    measures = Measures(subject, teacher, scale)
    rows = [measures.row(None, REFERENCE, style=style, model="teacher")]
    rows += [measures.row(made[n], n, style=style, model=name) for name, made in models.items() for n in sorted(made, reverse=True)]
    return rows + [measures.row(plain[n], n, style=style, model="all scales, without it") for n in sorted(plain, reverse=True)]


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "base-lora")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs; the same command resumes")
    parser.add_argument("--styles", nargs="+", default=list(STYLES), choices=list(STYLES))
    parser.add_argument("--guidance-scale", type=float, nargs="+", default=[2.0, 5.0])
    parser.add_argument("--updates", type=int, default=500, help="of stage one")
    parser.add_argument("--rung", type=int, default=120, help="updates of each rung")
    parser.add_argument("--lora-updates", type=int, default=600)
    parser.add_argument("--samples", type=int, default=1000)
    args = parser.parse_args(words)
    teacher, data, work = open_model("digits"), open_data(name="digits"), args.work
    assert isinstance(data, Data)
    loras = {
        style: digits_lora(teacher, styled(data, style, work / style), work / style / "lora", args.lora_updates)
        for style in args.styles
    }
    changes, fifth = recipe_changes(args.updates, args.rung), recipe_changes(args.updates // 5, args.rung // 5)
    every = students(work / "all-scales", changes)
    alone = {s: students(work / f"scale-{s:g}", changes | {"student.guidance_scale": [s, s]}) for s in args.guidance_scale}
    rows, facts, classes = [], {}, len(data.classes)
    subject = digits_subject(train_or_load_classifier(data, work, quiet=True), classes, args.samples)
    for scale in args.guidance_scale:
        rows += rows_of("none", teacher, subject, {"all scales": every, "one scale": alone[scale]}, {}, scale)
    for style, file in loras.items():
        pictures = styled(data, style, work / style)
        features, changed = train_or_load_classifier(pictures, work, quiet=True), with_lora(teacher, file)
        if not (work / style / "teacher" / INFO).is_file():
            changed.save(work / style / "teacher")
        again = {"student.start": str(work / "all-scales"), "data.name": None, "data.path": str(work / style / "train.npz")}
        anew = students(work / style / "again", fifth | again, work / style / "teacher")
        facts[style] = {"classifier_accuracy": features.held_out_accuracy}
        subject = digits_subject(features, classes, args.samples)
        for scale in args.guidance_scale:
            loaded = {
                name: {n: with_lora(made, file) for n, made in found.items()}
                for name, found in (("all scales", every), ("one scale", alone[scale]))
            }
            rows += rows_of(style, changed, subject, loaded | {"distilled again": anew}, every, scale)
    settings = {
        "samples": args.samples,
        "updates": args.updates,
        "rung": args.rung,
        "lora_updates": args.lora_updates,
        "rank": RANK,
    }
    result = settings | {"reference_steps": REFERENCE, "styles": facts, "rows": rows}
    write_result(args.out, result)
    print(tables.base_lora(result))


if __name__ == "__main__":
    run_main(main)
