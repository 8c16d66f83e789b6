"""A LoRA of the base on the students of a text model: emoji in other colours, from the same noise as the teacher with it.

    python -m benchmarks.uses.emoji_lora --teacher runs/emoji-small-teacher/teacher --data runs/emoji-small-teacher/data \
        --run runs/emoji-paths/paths-0.15 --judge runs/emoji-small-judge/judge --work runs/emoji-lora

As benchmarks/uses/base_lora.py, of the small Stable Diffusion of docs/results.md: the style are the training pictures with the colours passed on,
red to green, green to blue and blue to red. The LoRA's file is one that `StableDiffusionPipeline.load_lora_weights` takes, and is
put into teacher and students as `--lora` does it. Students: those of --run, for all scales; for each scale measured one with that scale alone, by the
same recipe with the same updates; and those of --run distilled again from the teacher with the LoRA, with a fifth of the updates and paths. The same
command resumes. Of 256 pictures of training captions:

    frechet         distance to those of the teacher with the LoRA in 64 steps, in the features of benchmarks/quality/emoji_judge.py
    rms_to_teacher  from the same pictures, from the same noise
    in_style        share that a linear classifier of these features takes for pictures in other colours
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.command import Row, progress, run_main, write_result
from benchmarks.quality.emoji import SETS, parser_of_models, prompts_of
from benchmarks.quality.emoji_judge import read
from benchmarks.quality.emoji_teacher import Captioned
from benchmarks.uses import tables
from benchmarks.uses.base_lora import FILE, REFERENCE, Subject, rows_of, students_in, train_lora
from fewstep import Model, distill, open_model
from fewstep.data.images import into_model
from fewstep.evaluation.clip_score import ClipScore
from fewstep.models.metadata import INFO
from fewstep.training.recipe import Recipe, load_recipe

RANK = 16
LAYERS = (
    "to_q", "to_k", "to_v", "to_out.0", "conv_in", "conv1", "conv2", "conv_shortcut", "conv_out", "time_emb_proj"
)  # fmt: skip


def turned(x: Tensor, channels: int = 1) -> Tensor:
    """Pictures with blue in the place of red, red in that of green, green in that of blue: grey and white stay. `channels` is their dimension."""
    return x.roll(1, channels)


def written(data: Path, out: Path) -> Path:
    """The training pictures in the style as an .npz, with their captions."""
    arrays, file = np.load(data / SETS["training"]), out / "train.npz"
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, images=turned(torch.from_numpy(arrays["images"]), -1).numpy(), captions=arrays["captions"])
    return file


def save_lora(network: Any, out: Path) -> None:
    """The adapters of a UNet as the file of its stock pipeline."""
    from diffusers import StableDiffusionPipeline
    from peft import get_peft_model_state_dict

    StableDiffusionPipeline.save_lora_weights(out, unet_lora_layers=get_peft_model_state_dict(network), weight_name=FILE)


def emoji_lora(teacher: Model, styled: Path, out: Path, updates: int) -> Path:
    """The file of a LoRA of the teacher for pictures in the style."""
    recipe = load_recipe(None, {
        "teach.updates": updates, "teach.learning_rate": 2e-3, "teach.schedule": "cosine", "teach.condition_dropout": 0.12,
        "train.batch_size": 32, "train.ema": 0.99, "train.warmup": min(20, updates),
    })  # fmt: skip
    x, captions = read(styled)
    data = Captioned(into_model(teacher, x), teacher.condition(prompts=captions), 0)
    return train_lora(teacher, data, out, recipe, RANK, LAYERS, save_lora) / FILE


def style_classifier(features: Callable[[Tensor], Tensor], data: Path) -> tuple[Callable[[Tensor], float], float]:
    """(share of features (n, d) taken for pictures in the style, accuracy on pictures that it has not seen) of a linear classifier."""
    from sklearn.linear_model import LogisticRegression

    def both(file: str) -> tuple[Tensor, np.ndarray]:
        x = read(data / file)[0]
        return torch.cat([features(x), features(turned(x))]), np.repeat([0, 1], len(x))

    made = LogisticRegression(C=100, max_iter=1000).fit(*both(SETS["training"]))
    return lambda found: float(made.predict(found).mean()), float(made.score(*both(SETS["unseen"])))


def fifth(recipe: Recipe) -> dict[str, int]:
    """A fifth of a recipe's updates and paths."""
    one, two, paths = recipe.stage_one, recipe.stage_two, recipe.paths
    whole = {"stage_one.updates": one.updates, "stage_two.updates": two.updates, "stage_two.last_updates": two.last_updates}
    whole |= {"paths.updates": paths.updates, "paths.count": paths.count} if paths.rung else {}
    return {key: max(16 if key == "paths.count" else 1, value // 5) for key, value in whole.items()}


def trained(teacher: Path, run: Path, out: Path, changes: dict[str, Any]) -> Path:
    """The run `out`, of the recipe of `run` with these changes."""
    progress(str(out.name))
    distill(teacher, recipe=run / "recipe.toml", out=out, changes=changes, device="cpu")
    return out


def main(words: list[str] | None = None) -> None:
    parser = parser_of_models(__doc__, "emoji-lora")
    parser.add_argument("--run", type=Path, required=True, help="run folder of fewstep distill, its students for all scales")
    parser.add_argument("--guidance-scale", type=float, nargs="+", default=[4.0])
    parser.add_argument("--lora-updates", type=int, default=800)
    parser.add_argument("--samples", type=int, default=256)
    args = parser.parse_args(words)
    teacher, work, recipe = open_model(args.teacher), args.work, load_recipe(args.run / "recipe.toml")
    styled = written(args.data, work)
    file = emoji_lora(teacher, styled, work / "lora", args.lora_updates)
    changed = open_model(args.teacher, lora=file)
    if not (work / "teacher" / INFO).is_file():
        changed.save(work / "teacher")
    again = {"student.start": str(args.run), "data.path": str(styled), **fifth(recipe)}
    anew = students_in(trained(work / "teacher", args.run, work / "again", again))
    alone = {
        s: trained(args.teacher, args.run, work / f"scale-{s:g}", {"student.guidance_scale": [s, s]}) for s in args.guidance_scale
    }
    score = ClipScore.open(str(args.judge))
    in_style, accuracy = style_classifier(score.images, args.data)
    prompts = prompts_of(read(args.data / SETS["training"])[1], args.samples)

    def more(_: Tensor, found: Tensor) -> Row:
        return {"in_style": in_style(found)}

    subject, rows, every = Subject(teacher.condition(prompts=prompts), score.images, more), [], students_in(args.run)
    for s in args.guidance_scale:
        rows += rows_of("none", teacher, subject, {"all scales": every, "one scale": students_in(alone[s])}, {}, s)
        loaded = {"all scales": students_in(args.run, file), "one scale": students_in(alone[s], file), "distilled again": anew}
        rows += rows_of("other colours", changed, subject, loaded, every, s)
    result = {"samples": args.samples, "lora_updates": args.lora_updates, "rank": RANK, "reference_steps": REFERENCE}
    result |= {"classifier_accuracy": accuracy, "rows": rows}
    write_result(args.out, result)
    print(tables.base_lora(result))


if __name__ == "__main__":
    run_main(main)
