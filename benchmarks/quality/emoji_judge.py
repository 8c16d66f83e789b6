"""Features and a text score for the emoji: a small CLIP model, trained on the real pictures and their captions.

    python -m benchmarks.quality.emoji_judge --data runs/emoji-teacher/data --tokenizer runs/emoji-teacher/teacher --out runs/emoji-judge

There is no published Inception network or CLIP to judge pictures of 64x64 here, so distances by this model compare samplers with one another
and mean nothing elsewhere. Trained by fewstep's own loop; the same command resumes. --out/judge is a folder that transformers' CLIPModel
and `fewstep.evaluation.clip_score` open. Prints how often it finds a real picture's caption among all captions: of training pictures, altered as in
training, and of test pictures, whose captions it has never seen.
"""

import argparse
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from benchmarks.command import parser_of, run_main, write_json
from benchmarks.quality.emoji_teacher import Captioned
from fewstep.evaluation.clip_score import DEVIATION, MEAN, ClipScore
from fewstep.models.denoiser import Denoiser
from fewstep.training.draws import Draws
from fewstep.training.recipe import load_recipe
from fewstep.training.run_folder import open_run
from fewstep.training.stage import Batch, Stage
from fewstep.training.trainer import Trainer

SIZES = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
DIMENSIONS = 32  # of its features: few, so that a few hundred samples have a covariance
SHIFT = 4  # pixels, at most, by which a training picture is moved


def altered(x: Tensor, chance: Tensor, noise: Tensor) -> Tensor:
    """Pictures moved, blurred and made noisy, each by its own uniform numbers (n, 4): what it should not matter to."""
    theta = torch.eye(2, 3).repeat(len(x), 1, 1)
    theta[:, :, 2] = (2 * chance[:, :2] - 1) * 2 * SHIFT / x.shape[-1]
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    x = functional.grid_sample(x, grid.to(x), padding_mode="border", align_corners=False)
    soft = functional.interpolate(functional.avg_pool2d(x, 4), x.shape[-2:], mode="bilinear")
    blur, strength = chance[:, 2, None, None, None].to(x), 0.15 * chance[:, 3, None, None, None].to(x)
    return (x + 0.7 * blur * (soft - x) + strength * noise).clamp(-1, 1)


def contrast(network: nn.Module, x: Tensor, tokens: Tensor) -> Tensor:
    """The error of each pair (n,): how badly picture and caption find each other among the pairs of the batch (2103.00020)."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    logits = network(input_ids=tokens, pixel_values=((x + 1) / 2 - mean) / deviation).logits_per_image
    same = (tokens[:, None] == tokens[None]).all(2).double()
    target = (same / same.sum(1, keepdim=True)).to(logits.dtype)
    both = [functional.cross_entropy(values, target, reduction="none") for values in (logits, logits.T)]
    return (both[0] + both[1]) / 2


def stage(updates: int, learning_rate: float) -> Stage:
    """The training, as the loop takes it."""

    def draw(draws: Draws) -> Batch:
        return {"chance": torch.stack([draws.uniform().float() for _ in range(4)], 1)}

    def error(judge: Denoiser, batch: Batch) -> Tensor:
        x = altered(batch["x"], batch["chance"], batch["noise"])
        return contrast(judge.network, x, batch["condition"]["tokens"])

    return Stage("judge", updates, learning_rate, "cosine", draw, error, dropout=True)


def new_judge(tokenizer: CLIPTokenizer, size: int) -> CLIPModel:
    """The untrained model for pictures of that size."""
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
    text = SIZES | words | {"num_hidden_layers": 2}
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config=SIZES | {"image_size": size, "patch_size": size // 8}, projection_dim=DIMENSIONS)
    )


def found_captions(score: ClipScore, x: Tensor, captions: list[str], among: list[str]) -> list[int]:
    """The place (0: first) of each picture's own caption among all, by similarity; two pictures may share a caption."""
    similar = score.images(x) @ score.texts(among).T
    own = torch.tensor([among.index(caption) for caption in captions])
    return (similar > similar.gather(1, own[:, None])).sum(1).tolist()


def share_within(places: list[int], first: int) -> float:
    """The share of places among the first few."""
    return sum(place < first for place in places) / len(places)


def read(file: Path) -> tuple[Tensor, list[str]]:
    """Pictures (n, 3, h, w) in [-1, 1] of an .npz, and their captions."""
    arrays = np.load(file)
    return torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).float() / 127.5 - 1, arrays["captions"].tolist()


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train, or go on with the training, and save the model; how often it finds real pictures' captions."""
    (x, captions), (test, unseen) = read(args.data / "train.npz"), read(args.data / "test.npz")
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer, subfolder="tokenizer")
    recipe = load_recipe(None, {"train.batch_size": args.batch_size, "train.ema": 0.99, "train.weight_decay": 0.1, "teach.updates": args.updates})  # fmt: skip
    out = open_run(args.out, recipe)
    torch.manual_seed(0)
    judge = new_judge(tokenizer, x.shape[-1])
    tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with closing(Trainer(out, Captioned(x, {"tokens": tokens}, 0), recipe.train, "cpu", args.quiet)) as trainer:
        found = trainer.train(stage(args.updates, args.learning_rate), Denoiser(judge))
    judge.save_pretrained(out / "judge")
    tokenizer.save_pretrained(out / "judge")
    score, among = ClipScore.open(str(out / "judge")), [*dict.fromkeys([*captions, *unseen])]
    generator = torch.Generator().manual_seed(1)
    moved = altered(x, torch.rand(len(x), 4, generator=generator), torch.randn(x.shape, generator=generator))
    for name, pictures, words in (("train", moved, captions), ("test", test, unseen)):
        places = found_captions(score, pictures, words, among)
        found |= {f"{name}_first": share_within(places, 1), f"{name}_first_five": share_within(places, 5)}
    return found | {"captions": len(among)}


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.npz and test.npz: images, captions")
    parser.add_argument("--tokenizer", type=Path, required=True, help="pipeline folder whose tokenizer is used")
    parser.add_argument("--out", type=Path, required=True, help="run folder; the same command resumes")
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(words)
    found = train(args)
    write_json(args.out / "RESULT.json", found)
    print(json.dumps(found))


if __name__ == "__main__":
    run_main(main)
