"""A teacher of text to image in latent space: emoji with their names, saved as a stock StableDiffusionPipeline.

    python -m benchmarks.quality.emoji_autoencoder --weights data/weights/taef2 --data data/noto_emoji --out runs/emoji-autoencoder
    python -m benchmarks.quality.emoji_teacher --data data/noto_emoji --vae runs/emoji-autoencoder --out runs/emoji-teacher

The network and a small CLIP text encoder are trained together by fewstep's own loop: to it they are one network of one's own, whose
condition is the tokens of a caption. The same command resumes. What it leaves in --out: `data/train.npz` and `data/test.npz`, the pictures
that it used with their captions (for recipes/emoji.toml); `teacher`, the pipeline, which `fewstep.open_model` opens.
"""

import argparse
import json
import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.command import parser_of, run_main, write_json
from fewstep.data.sources import shuffled
from fewstep.method.conditioning import Condition, take
from fewstep.models.denoiser import Denoiser
from fewstep.models.families.schedulers import process_of_scheduler
from fewstep.models.families.vae import encoded
from fewstep.training.losses import teaching
from fewstep.training.recipe import load_recipe
from fewstep.training.run_folder import open_run
from fewstep.training.trainer import Trainer

KINDS = ("base", "zwj", "keycap")  # of the data: not the five skin tones of each hand and person, near copies of one another
WORDS = 1500  # of the vocabulary, whole or in part
TOKENS = 16  # of a caption; the longest has 15
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # Stable Diffusion's


class TextToImage(nn.Module):
    """The network of a pipeline and its text encoder as one: network(z, time, {"tokens": (b, TOKENS)}) -> (b, c, h, w)."""

    def __init__(self, unet: diffusers.UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> Tensor:
        return self.unet(z, time, self.text_encoder(condition["tokens"])[0], return_dict=False)[0]


class Captioned:
    """Latents or pictures (n, c, h, w) with a condition (n, ...) each, endlessly, each epoch in an order of its own."""

    def __init__(self, x: Tensor, condition: Condition, seed: int) -> None:
        self.x, self.condition, self.seed = x, condition, seed

    def batch(self, start: int, count: int) -> tuple[Tensor, Condition]:
        """The examples from position `start` on."""
        total = len(self.x)
        epochs = range(start // total, (start + count - 1) // total + 1)
        order = np.concatenate([shuffled(total, self.seed, epoch) for epoch in epochs])
        index = torch.from_numpy(order[start - epochs[0] * total :][:count])
        return self.x[index], take(self.condition, index)


def chosen(data: Path, out: Path, kinds: list[str]) -> tuple[Tensor, list[str]]:
    """The training pictures of those kinds (n, 3, h, w) in [-1, 1] and their captions; both splits are written to `out`/data."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    for split in ("test", "train"):
        arrays = np.load(data / f"{split}.npz")
        keep = np.isin(arrays["kind"], kinds)
        images, captions = arrays["images"][keep], arrays["captions"][keep]
        np.savez_compressed(out / "data" / f"{split}.npz", images=images, captions=captions)
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1, captions.tolist()


def tokenizer_of(captions: list[str]) -> CLIPTokenizer:
    """A tokenizer of CLIP's format, its pairs learnt from the captions."""
    start = CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[], model_max_length=TOKENS)
    return start.train_new_from_iterator(captions, WORDS, show_progress=False)


def tokens_of(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """int64 (n, TOKENS), as the stock pipeline makes them."""
    return tokenizer(captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids


def new_network(vae: Any, words: int, size: int, features: int, channels: tuple[int, ...]) -> TextToImage:
    """The untrained network for latents of the VAE, with self- and cross-attention at its lowest level."""
    levels = len(channels) - 1
    unet = diffusers.UNet2DConditionModel(
        sample_size=size, in_channels=vae.config.latent_channels, out_channels=vae.config.latent_channels,
        block_out_channels=channels, layers_per_block=1, norm_num_groups=math.gcd(16, *channels),
        attention_head_dim=4, cross_attention_dim=features, mid_block_type=None,
        down_block_types=("DownBlock2D",) * levels + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * levels,
    )  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=words, max_position_embeddings=TOKENS, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        hidden_size=features, intermediate_size=2 * features, num_hidden_layers=2, num_attention_heads=4,
    )  # fmt: skip
    return TextToImage(unet, CLIPTextModel(config))


def scheduler() -> diffusers.DDIMScheduler:
    """Stable Diffusion's process, v-prediction, and the grid of fewstep's samplers."""
    grid = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "steps_offset": 1, "clip_sample": False}
    return diffusers.DDIMScheduler(**BETAS, prediction_type="v_prediction", **grid)


def save_pipeline(network: TextToImage, vae: Any, tokenizer: CLIPTokenizer, out: Path) -> None:
    """The stock pipeline at `out`/teacher."""
    parts = {
        "unet": network.unet,
        "text_encoder": network.text_encoder,
        "vae": vae,
        "tokenizer": tokenizer,
        "scheduler": scheduler(),
    }
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = diffusers.StableDiffusionPipeline(**parts, **none)
    pipeline.save_pretrained(out / "teacher", safe_serialization=True)


@torch.no_grad()
def latents_of(vae: Any, x: Tensor, out: Path) -> Tensor:
    """Latents of the pictures, from a file in `out` where they have been made."""
    file = out / "latents.safetensors"
    if not file.is_file():
        save_file({"latents": torch.cat([encoded(vae, part) for part in x.split(32)]).contiguous()}, file)
    return load_file(file)["latents"]


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train, or go on with the training, and save the pipeline; what is known of it."""
    out = open_run(args.out, recipe := recipe_of(args))
    x, captions = chosen(args.data, out, args.kinds)
    vae = diffusers.AutoencoderTiny.from_pretrained(args.vae).eval().requires_grad_(False)
    latents, tokenizer = latents_of(vae, x, out), tokenizer_of(captions)
    torch.manual_seed(recipe.train.seed)
    network = new_network(vae, len(tokenizer), latents.shape[-1], args.features, recipe.network.block_out_channels)
    began = time.monotonic()
    process, prediction = process_of_scheduler({**scheduler().config, "_class_name": type(scheduler()).__name__})
    denoiser = Denoiser(network, prediction, process, null={"tokens": tokens_of(tokenizer, [""])})
    data = Captioned(latents, {"tokens": tokens_of(tokenizer, captions)}, recipe.train.seed)
    with closing(Trainer(out, data, recipe.train, args.device, args.quiet)) as trainer:
        found = trainer.train(teaching(recipe, denoiser), denoiser)
    save_pipeline(network.cpu(), vae, tokenizer, out)
    parts = {"unet": network.unet, "text_encoder": network.text_encoder, "vae": vae}
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return found | {"pictures": len(latents), "parameters": sizes, "seconds_of_this_call": round(time.monotonic() - began)}


def recipe_of(args: argparse.Namespace) -> Any:
    """fewstep's settings of the training."""
    return load_recipe(None, {
        "network.block_out_channels": args.channels,
        "teach.updates": args.updates, "teach.learning_rate": args.learning_rate, "teach.condition_dropout": 0.12,
        "train.batch_size": args.batch_size, "train.ema": 0.999, "train.checkpoint_every": args.checkpoint_every,
        "train.warmup": min(200, args.updates), "train.log_every": 50, "train.weight_decay": 0.01,
    })  # fmt: skip


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.npz and test.npz: images, captions, kind")
    parser.add_argument("--vae", type=Path, required=True, help="folder of an AutoencoderTiny")
    parser.add_argument("--out", type=Path, required=True, help="run folder; the same command resumes")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), help="of the data's pictures")
    parser.add_argument("--channels", type=int, nargs="+", default=[96, 128])
    parser.add_argument("--features", type=int, default=128, help="of the text encoder")
    parser.add_argument("--updates", type=int, default=12_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--checkpoint-every", type=int, default=500)
    parser.add_argument("--device", default=None)
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(words)
    if (args.out / "RESULT.json").is_file():
        print(f"{args.out} is finished")
        return
    found = train(args)
    write_json(args.out / "RESULT.json", found)
    print(json.dumps(found))


if __name__ == "__main__":
    run_main(main)
