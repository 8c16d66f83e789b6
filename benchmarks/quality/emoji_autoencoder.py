"""A stock AutoencoderTiny of the public taef2 weights, for latents of pictures of 64x64: 32 channels of 8x8.

    python -m benchmarks.quality.emoji_autoencoder --weights data/weights/taef2 --data data/noto_emoji --out runs/emoji-autoencoder

taef2 is AutoencoderTiny but for the three blocks at 8x8 on each side, which add to their input a branch with a mean over the picture
(GroupNorm); no stock class has those. Here all other layers are taken as they are, and the six blocks without the branch are fitted, at
8x8 alone, to what taef2 says: the encoder to its latents, the decoder to what leaves its blocks. Prints the reconstruction (PSNR over all
pixels of the test pictures) of both, and writes it to RESULT.json in --out.
"""

import time
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor, nn

from benchmarks.command import parser_of, progress, run_main, write_json
from benchmarks.quality.emoji_judge import read
from fewstep.evaluation.metrics import psnr

ENCODER_SPLIT, DECODER_SPLIT = 11, 5  # taef2's encoder: what is before its pooled blocks; its decoder: what is up to theirs
BATCH, SMALL = 64, 32


class Block(nn.Module):
    """relu(conv3(x) + x), before which a pooled block adds to x a branch with a normalisation over the picture."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        layers = [layer for _ in range(3) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())]
        self.conv = nn.Sequential(*layers[:-1])
        parts = [nn.Conv2d(64, 256, 1, bias=False), nn.GroupNorm(4, 256), nn.ReLU(), nn.Conv2d(256, 64, 1, bias=False)]
        self.pool = nn.Sequential(*parts) if pooled else None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.pool is None else x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class Clamp(nn.Module):
    """Latents softly within 3."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z / 3) * 3


def networks() -> tuple[nn.Sequential, nn.Sequential]:
    """taef2's encoder and decoder, of pictures in [0, 1], with random weights."""

    def down() -> nn.Module:
        return nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)

    def up() -> tuple[nn.Module, nn.Module]:
        return nn.Upsample(scale_factor=2), nn.Conv2d(64, 64, 3, padding=1, bias=False)

    def blocks(n: int, pooled: bool = False) -> list[nn.Module]:
        return [Block(pooled) for _ in range(n)]

    encoder = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), *blocks(1), down(), *blocks(3), down(), *blocks(3), down(), *blocks(3, True), nn.Conv2d(64, 32, 3, padding=1)
    )  # fmt: skip
    decoder = nn.Sequential(
        Clamp(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), *blocks(3, True), *up(), *blocks(3), *up(), *blocks(3), *up(), *blocks(1),
        nn.Conv2d(64, 3, 3, padding=1),
    )  # fmt: skip
    return encoder.requires_grad_(False), decoder.requires_grad_(False)


def taef2(folder: Path) -> tuple[nn.Sequential, nn.Sequential]:
    """Its encoder and decoder as published."""
    encoder, decoder = networks()
    for network, name in ((encoder, "encoder"), (decoder, "decoder")):
        network.load_state_dict(torch.load(folder / f"taef2_{name}.pth", map_location="cpu", weights_only=True))
    return encoder, decoder


def stock(encoder: nn.Module, decoder: nn.Module) -> AutoencoderTiny:
    """The stock class with these weights, the pooled branches left out."""
    made = AutoencoderTiny(latent_channels=32, num_encoder_blocks=(1, 3, 3, 3), num_decoder_blocks=(3, 3, 3, 1))
    for mine, theirs, shift in (
        (made.encoder, encoder, 0),
        (made.decoder, decoder, -1),
    ):  # the clamp is no layer in the stock class
        weights = {}
        for key, value in theirs.state_dict().items():
            number, rest = key.split(".", 1)
            if not rest.startswith("pool."):
                weights[f"layers.{int(number) + shift}.{rest}"] = value
        mine.load_state_dict(weights)
    return made


@torch.no_grad()
def batched(function, x: Tensor) -> Tensor:
    """function(x), a few at a time."""
    return torch.cat([function(part) for part in x.split(SMALL)])


def fit(made: AutoencoderTiny, encoder: nn.Sequential, decoder: nn.Sequential, x: Tensor, updates: int) -> None:
    """Fit the blocks at 8x8 of both sides to taef2's latents and features of pictures x."""
    before = batched(encoder[:ENCODER_SPLIT], x)
    z = batched(encoder[ENCODER_SPLIT:], before)
    after = batched(decoder[: DECODER_SPLIT + 1], z)
    mine_in, mine_out = made.encoder.layers[ENCODER_SPLIT:], made.decoder.layers[:DECODER_SPLIT]
    made.requires_grad_(False)
    parameters = [p.requires_grad_(True) for part in (mine_in, mine_out) for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=updates, pct_start=0.1)
    scale, began = after.square().mean(), time.monotonic()
    for update in range(updates):
        index = torch.randint(len(x), (BATCH,), generator=torch.Generator().manual_seed(update))
        found = mine_in(before[index])
        features = mine_out(torch.tanh(found / 3) * 3)
        of_latents, of_features = (found - z[index]).square().mean(), (features - after[index]).square().mean() / scale
        optimizer.zero_grad()
        (of_latents + 10 * of_features).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rate.step()
        if update % 50 == 0 or update == updates - 1:
            progress(f"{update}/{updates}  latents {of_latents:.4g}  features {of_features:.4g}  {time.monotonic() - began:.0f} s")


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="folder with taef2_encoder.pth and taef2_decoder.pth")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.npz and test.npz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=1000)
    args = parser.parse_args(words)
    torch.manual_seed(0)
    encoder, decoder = taef2(args.weights)
    x, test = ((read(args.data / f"{part}.npz")[0] + 1) / 2 for part in ("train", "test"))

    def quality(pixels: Tensor) -> float:
        return psnr(2 * pixels.clamp(0, 1) - 1, 2 * test - 1)

    theirs = quality(batched(decoder, batched(encoder, test)))
    progress(f"taef2 reconstructs with {theirs:.2f} dB")
    made = stock(encoder, decoder)

    def again(pixels: Tensor) -> Tensor:
        return (made.decode(made.encode(pixels * 2 - 1).latents).sample + 1) / 2

    progress(f"without its pooled branches {quality(batched(again, test)):.2f} dB")
    fit(made, encoder, decoder, x, args.updates)
    made.register_to_config(scaling_factor=round(1 / float(batched(made.encoder, x[::8] * 2 - 1).std()), 4))
    made.save_pretrained(args.out)
    found = {"psnr": quality(batched(again, test)), "psnr_taef2": theirs, "updates": args.updates}
    found["scaling_factor"] = made.config["scaling_factor"]
    write_json(args.out / "RESULT.json", found)
    print(found)


if __name__ == "__main__":
    run_main(main)
