"""Peak memory of whole distillations, saves included, each in a process of its own.

    python -m benchmarks.speed.memory                    a ladder of one rung against one of seven, 84 M weights; benchmarks/results/memory.json
    python -m benchmarks.speed.memory --predict          what `--dry-run` says against what is measured; benchmarks/results/memory-predicted.json
    python -m benchmarks.speed.memory --predict --only "300 M, LoRA" "860 M, LoRA, float16"

The networks are Stable Diffusion's UNet with random weights, trained on random latents at batch 1. Exits with 1 where a ratio is above
its goal. Peak memory is that of the process (`ru_maxrss`), PyTorch and diffusers themselves included; on a GPU also what PyTorch took there.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import RESULTS, Row, parser_of, progress, read_json, run_main, write_result
from benchmarks.speed import tables

FLAT, PREDICTED = 1.1, 0.15  # largest ratio of seven rungs to one; largest error of a prediction
SD15 = {
    "in_channels": 4, "out_channels": 4, "cross_attention_dim": 768, "attention_head_dim": 8,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
SIZES = {  # channels of the levels, residual blocks at each; the last is Stable Diffusion 1.5's published config
    "60 M": ([128, 256, 384, 384], 1), "84 M": ([160, 320, 448, 448], 1), "300 M": ([192, 384, 768, 768], 2), "860 M": ([320, 640, 1280, 1280], 2),
}  # fmt: skip
CASES = {  # name -> size, dtype of the teacher's folder, side of the latents, more keys of the recipe
    f"{size}, {way}": (size, "float32", 32, keys)
    for size in ("60 M", "300 M", "860 M")
    for way, keys in (("full", {}), ("LoRA", {"student.lora.rank": 8}))
} | {"860 M, LoRA, float16": ("860 M", "float16", 64, {"student.lora.rank": 8, "stage_two.ladder": [8, 4, 2]})}  # fmt: skip
LADDERS = {"1": [2, 1], "7": [128, 64, 32, 16, 8, 4, 2, 1]}  # rungs -> step counts
CHANGES = {
    "stage_one.updates": 2, "stage_two.updates": 2, "stage_two.last_updates": 2, "stage_two.ladder": [4, 2], "train.batch_size": 1,
    "train.warmup": 0, "train.log_with": "none", "train.gradient_checkpointing": True,
}  # fmt: skip


class RandomLatents:
    """Latents and text that cost nothing, of a model's shapes."""

    def __init__(self, model: Any) -> None:
        self.shape, self.condition = model.info.shape, model.example(2)

    def batch(self, start: int, count: int) -> tuple[Any, Any]:
        """Noise (count, c, h, w) from position `start` on, with random text."""
        from fewstep.method.conditioning import cycle

        generator = torch.Generator().manual_seed(start)
        return torch.randn(count, *self.shape, generator=generator), cycle(self.condition, count)


def write_teacher(folder: Path, size: str, dtype: str, side: int) -> None:
    """A Stable Diffusion folder of a UNet with random weights, its text encoder and VAE tiny."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    channels, layers = SIZES[size]
    torch.manual_seed(0)
    network = diffusers.UNet2DConditionModel(sample_size=side, block_out_channels=channels, layers_per_block=layers, **SD15)
    network.to(getattr(torch, dtype)).save_pretrained(folder / "unet")
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    diffusers.PNDMScheduler(skip_prk_steps=True, **betas).save_pretrained(folder / "scheduler")
    diffusers.AutoencoderKL(block_out_channels=(4,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                            norm_num_groups=2, latent_channels=4).save_pretrained(folder / "vae")  # fmt: skip
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77).save_pretrained(
        folder / "tokenizer"
    )
    shape = {"hidden_size": 768, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
    CLIPTextModel(CLIPTextConfig(bos_token_id=0, eos_token_id=1, pad_token_id=1, **shape)).save_pretrained(folder / "text_encoder")
    parts = {"unet": "UNet2DConditionModel", "scheduler": "PNDMScheduler", "vae": "AutoencoderKL"}
    index = {name: ["diffusers", kind] for name, kind in parts.items()} | {
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    index |= {name: [None, None] for name in ("safety_checker", "feature_extractor", "image_encoder")}
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline", **index, "requires_safety_checker": False})
    )


def distilled(root: Path, teacher: Path, changes: dict[str, Any], device: str) -> Row:
    """What a distillation of the teacher's folder took, in this process: bytes of memory at its peak, and on disk."""
    import fewstep
    from fewstep.models.shapes import open_shapes

    data = RandomLatents(open_shapes(teacher))
    fewstep.distill(teacher, data, out=root / "run", changes=changes, device=device, quiet=True)
    files = {(s.st_dev, s.st_ino): s.st_blocks * 512 for p in (root / "run").glob("s*/**/*") if p.is_file() and (s := p.stat())}
    found = {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "folders": sum(files.values())}
    return found | ({"device_peak": torch.cuda.max_memory_allocated()} if device.startswith("cuda") else {})


def in_child(size: str, dtype: str, side: int, changes: dict[str, Any], device: str) -> Row:
    """What `distilled` found in a new process, after what `--dry-run` says in this one."""
    with tempfile.TemporaryDirectory(prefix="memory-") as root:
        made = [sys.executable, "-m", "benchmarks.speed.memory", "--child"]
        job = {"root": root, "size": size, "dtype": dtype, "side": side, "changes": CHANGES | changes, "device": device}
        for step in ("teacher", "predict", "distil"):  # each in a process of its own: memory that one had is not another's
            done = subprocess.run([*made, json.dumps(job | {"step": step})], check=False, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{step}: {done.stderr[-2000:]}")
        return read_json(Path(root) / "predict.json") | read_json(Path(root) / "distil.json")


def child(job: dict[str, Any]) -> None:
    """One step of a measurement: the teacher's folder, the prediction, or the distillation; its result as a JSON file."""
    root, teacher = Path(job["root"]), Path(job["root"]) / "teacher"
    torch.set_num_threads(1)
    if job["step"] == "teacher":
        write_teacher(teacher, job["size"], job["dtype"], job["side"])
        return
    if job["step"] == "predict":
        from fewstep.training.cost_estimate import plan, planned_teacher
        from fewstep.training.recipe import load_recipe

        recipe = load_recipe(None, job["changes"] | {"teacher.path": str(teacher)})
        planned = plan(recipe, planned_teacher(recipe), device=job["device"], probe=False)
        found = {"parameters": planned["parameters"], "predicted": planned["memory"]}
    else:
        found = distilled(root, teacher, job["changes"], job["device"])
    (root / f"{job['step']}.json").write_text(json.dumps(found))


def flat(device: str) -> dict[str, Any]:
    """The peaks of a short ladder and of a long one, and their ratio."""
    rows = []
    for rungs, ladder in LADDERS.items():
        progress(f"a ladder of {rungs} rungs")
        rows.append({"rungs": int(rungs)} | in_child("84 M", "float32", 32, {"stage_two.ladder": ladder}, device))
    return {"rows": rows, "ratio": rows[1]["peak"] / rows[0]["peak"], "goal": FLAT}


def predicted(names: list[str], device: str) -> list[Row]:
    """A row a case: what is predicted, what is measured, and the error."""
    rows = []
    for name in names:
        progress(name)
        size, dtype, side, changes = CASES[name]
        row = in_child(size, dtype, side, changes, device)
        measured = row.get("device_peak", row["peak"])
        rows.append({"case": name, "latents": side} | row | {"error": row["predicted"] / measured - 1, "goal": PREDICTED})
        progress(f"  {row}")
    return rows


def main(words: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--predict", action="store_true", help="predictions against measurements")
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES), help="of --predict")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.child:
        child(json.loads(args.child))
        return 0
    out = args.out or RESULTS / ("memory-predicted.json" if args.predict else "memory.json")
    if args.predict:
        before = {row["case"]: row for row in read_json(out)["rows"]} if out.is_file() else {}
        found = before | {row["case"]: row for row in predicted(args.only, args.device)}
        result: dict[str, Any] = {"rows": [found[name] for name in CASES if name in found]}
    else:
        result = flat(args.device)
    write_result(out, result, args.device)
    print((tables.memory_predicted if args.predict else tables.memory)(result))
    bad = [row for row in result["rows"] if args.predict and abs(row["error"]) > row["goal"]]
    return int(bool(bad) or result.get("ratio", 0) > FLAT)


if __name__ == "__main__":
    run_main(main)
