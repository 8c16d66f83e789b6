"""Untrained teachers of classes in the latents of a small VAE, a UNet and a DiT side by side; `fewstep teach` trains them.

    python -m benchmarks.quality.latent_models --data fashion_mnist/train.npz --out runs/latent
    fewstep teach fashion-latent --set data.path=fashion_mnist/train.npz --set teach.start=runs/latent/dit --out runs/latent/dit-teacher
    fewstep distill fashion-latent --set data.path=fashion_mnist/train.npz --set teacher.path=runs/latent/dit-teacher \
        --out runs/latent/dit-student

The VAE is a stock AutoencoderKL, trained by fewstep's own loop on the pictures at 32x32 (the same command resumes); its latents have 4
channels of 8x8. What it leaves in --out: `vae`; `unet`, a folder of fewstep's class-conditional pipeline; `dit`, a stock DiTPipeline; both
with that VAE. Prints how well the VAE gives back pictures that it has not seen (PSNR, --test).
"""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

from benchmarks.command import parser_of, run_main, write_json
from fewstep.data.loading import Data, open_data
from fewstep.evaluation.metrics import psnr
from fewstep.models.denoiser import Denoiser
from fewstep.models.families.class_conditional import ClassConditional, ClassConditionalPipeline
from fewstep.models.families.vae import decoded, encoded
from fewstep.training.draws import Draws
from fewstep.training.recipe import Recipe, load_recipe
from fewstep.training.run_folder import open_run
from fewstep.training.stage import Batch, Stage
from fewstep.training.trainer import Trainer

SIZE, CHANNELS = 32, 4  # of the pictures; of the latents, which are a quarter as wide
KL_WEIGHT = 1e-4
SCHEDULER = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
    "timestep_spacing": "trailing", "set_alpha_to_one": True, "steps_offset": 1, "clip_sample": False,
}  # fmt: skip


def new_vae(channels: int) -> AutoencoderKL:
    """An untrained stock VAE that makes a picture four times smaller."""
    return AutoencoderKL(
        in_channels=channels, out_channels=channels, block_out_channels=(16, 32, 64), layers_per_block=1, latent_channels=CHANNELS,
        norm_num_groups=8, mid_block_add_attention=False, sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip


def reconstruction(updates: int) -> Stage:
    """The training of the VAE: absolute error of the pixels, and the KL divergence of its latents from unit noise (1312.6114)."""

    def draw(draws: Draws) -> Batch:
        return {}

    def error(vae: Denoiser, batch: Batch) -> Tensor:
        network: Any = vae.network
        found = network.encode(batch["x"]).latent_dist
        z = found.mean + found.std * nn.functional.pixel_unshuffle(batch["noise"], 4)[:, :CHANNELS]
        apart = (network.decode(z).sample - batch["x"]).abs().flatten(1).mean(1)
        return apart + KL_WEIGHT * found.kl() / found.mean[0].numel()

    return Stage("vae", updates, 2e-3, "cosine", draw, error)


def trained_vae(recipe: Recipe, data: Data, run: Path, device: str | None, quiet: bool) -> AutoencoderKL:
    """The VAE, trained or gone on with in the run folder, its latents scaled to unit deviation."""
    torch.manual_seed(recipe.train.seed)
    vae = new_vae(data.channels)
    with closing(Trainer(run, data, recipe.train, device, quiet)) as trainer:
        trainer.train(reconstruction(recipe.teach.updates), Denoiser(vae))
    vae = vae.cpu().eval()
    x = data.batch(0, 512)[0]
    vae.register_to_config(scaling_factor=round(1 / float(encoded(vae, x).std() / vae.config["scaling_factor"]), 4))
    return vae


def new_unet(classes: int) -> UNet2DConditionModel:
    """The untrained UNet, with self-attention at its lower level."""
    kinds = ("DownBlock2D", "AttnDownBlock2D")
    return ClassConditional().build(
        classes=classes, size=SIZE // 4, channels=CHANNELS, down_block_types=kinds, block_out_channels=(64, 96), layers_per_block=1,
        norm_num_groups=16, attention_head_dim=16, mid_block_type=None,
    )  # fmt: skip


def new_dit(classes: int) -> DiTTransformer2DModel:
    """The untrained DiT of 2x2 patches, whose blocks add nothing at first (2212.09748, section 3.2)."""
    network = DiTTransformer2DModel(
        sample_size=SIZE // 4, in_channels=CHANNELS, out_channels=CHANNELS, num_layers=6, num_attention_heads=4, attention_head_dim=32,
        patch_size=2, norm_type="ada_norm_zero", num_embeds_ada_norm=classes,
    )  # fmt: skip
    for block in network.transformer_blocks:
        nn.init.zeros_(block.norm1.linear.weight)
        nn.init.zeros_(block.norm1.linear.bias)
    nn.init.zeros_(network.proj_out_2.weight)
    nn.init.zeros_(network.proj_out_2.bias)
    return network


def write_teachers(vae: AutoencoderKL, classes: tuple[str, ...], out: Path) -> dict[str, int]:
    """The folders of both teachers, and their numbers of parameters."""
    torch.manual_seed(0)
    unet, dit = new_unet(len(classes)), new_dit(len(classes))
    noise: Any = DDIMScheduler(**SCHEDULER)
    ClassConditionalPipeline(unet, noise, vae).save_pretrained(out / "unet")
    DiTPipeline(dit, vae, noise).save_pretrained(out / "dit")
    for name in ("unet", "dit"):  # which the stock pipeline reads but does not write
        file = out / name / "model_index.json"
        index = json.loads(file.read_text()) | {"id2label": {str(i): label for i, label in enumerate(classes)}}
        file.write_text(json.dumps(index, indent=2) + "\n")
    return {name: sum(p.numel() for p in network.parameters()) for name, network in (("unet", unet), ("dit", dit), ("vae", vae))}


@torch.no_grad()
def fidelity(vae: AutoencoderKL, data: Data) -> float:
    """PSNR of what the VAE makes of pictures, over all pixels, in dB."""
    x = data.images().float() / 127.5 - 1
    return psnr(torch.cat([decoded(vae, encoded(vae, part)) for part in x.split(256)]), x)


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--data", required=True, help="pictures with classes, as fewstep teach takes them")
    parser.add_argument("--test", help="others of the same kind, on which the VAE is measured")
    parser.add_argument("--channels", type=int, default=1, choices=(1, 3), help="of the pictures")
    parser.add_argument("--classes", nargs="+", help="their names, where the data has numbers alone")
    parser.add_argument("--out", type=Path, required=True, help="folder; the same command resumes")
    parser.add_argument("--updates", type=int, default=1500, help="of the VAE")
    parser.add_argument("--device", default=None)
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(words)
    changes = {"teach.updates": args.updates, "train.batch_size": 64, "train.ema": 0.99, "train.warmup": min(100, args.updates)}
    recipe, opening = load_recipe(None, changes), {"size": SIZE, "channels": args.channels, "classes": args.classes}
    data = open_data(path=args.data, **opening)
    assert isinstance(data, Data)
    vae = trained_vae(recipe, data, open_run(args.out / "vae-run", recipe), args.device, args.quiet)
    found: dict[str, Any] = {"parameters": write_teachers(vae, data.classes, args.out), "vae_updates": args.updates}
    if args.test:
        test = open_data(path=args.test, **opening)
        assert isinstance(test, Data)
        found["vae_psnr"] = fidelity(vae, test)
    write_json(args.out / "RESULT.json", found)
    print(json.dumps(found))


if __name__ == "__main__":
    run_main(main)
