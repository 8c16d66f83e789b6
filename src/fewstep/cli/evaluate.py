"""The command that measures: evaluate."""

from pathlib import Path
from typing import Annotated

import typer

from fewstep.cli.options import Device, Seed, Variant, app, listed

EXAMPLES = """\b
Examples:
  fewstep evaluate runs/quickstart --data digits --out evaluation
  fewstep evaluate runs/fashion --data train.npz --preset full --samples 10000 --bootstrap 200 --out evaluation
  fewstep evaluate my-student --against my-teacher --data images/ --inception inception-2015-12-05.pt --out evaluation
  fewstep evaluate my-sd-student --data captioned/ --clip openai/clip-vit-base-patch32 --out evaluation
  fewstep evaluate my-teacher --data images/ --baselines ddim,dpm++ --budgets 16,64 --out evaluation
  accelerate launch -m fewstep evaluate runs/mine --data images/ --out evaluation"""


@app.command(epilog=EXAMPLES)
def evaluate(
    model: Annotated[str, typer.Argument(help="Run folder (all its students), model folder, or 'digits'.")],
    data: Annotated[str, typer.Option(help="Data to compare with: 'digits', a folder, .npz, or anything of datasets.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; the same command again resumes.")],
    steps: Annotated[str | None, typer.Option(help="Students of a run, as 1,2,4; those of its recipe without it.")] = None,
    guidance_scale: Annotated[str | None, typer.Option(help="As 1,2,5; 1 is none, as in diffusers. [quick: 1,2]")] = None,
    against: Annotated[str | None, typer.Option(help="The teacher; that of the run without it.")] = None,
    variant: Variant = None,
    preset: Annotated[str, typer.Option(help="quick: no more network evaluations than the training; full: usual sizes.")] = "quick",
    baselines: Annotated[str | None, typer.Option(help="Stock samplers: ddim,dpm++,unipc,heun,euler, or none. [full: all]")] = None,
    budgets: Annotated[str | None, typer.Option(help="Evaluations of a baseline. [quick: 8,16; full: 4,8,16,32]")] = None,
    samples: Annotated[int | None, typer.Option(help="Of each configuration. [quick: at most 500; full: 1000]")] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="classifier (trained on the data), clip, dinov2 or dinov2=MODEL, a TorchScript or .onnx file. [classifier; of text clip]"
        ),
    ] = None,
    inception: Annotated[Path | None, typer.Option(help="FID's Inception network, TorchScript: inception-2015-12-05.pt.")] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP model, folder or hub id: CLIP score of text, and features 'clip'.")] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Text file, one prompt a line, for a model of text; without it the data's captions.")
    ] = None,
    bootstrap: Annotated[int | None, typer.Option(help="Repeats for an interval of the Fréchet distance; 200 are usual.")] = None,
    extrapolate: Annotated[
        bool | None, typer.Option("--extrapolate/--no-extrapolate", help="Also the Fréchet distance of infinitely many samples.")
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="A score of your own: images and prompts to numbers; here or installed."),
    ] = None,
    reference_steps: Annotated[int | None, typer.Option(help="The teacher's, as the reference. [quick: 64; full: 256]")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at a time; by default by device and image size.")] = None,
    resize: Annotated[bool, typer.Option("--resize", help="Crop and resize the data to the model's size.")] = False,
    split: Annotated[str | None, typer.Option(help="Part of the data, as test; without it the recipe's, else train.")] = None,
    class_names: Annotated[
        str | None,
        typer.Option(metavar="match|by-order", help="The data's classes with the model's: by name (match), or by-order."),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Quality by steps and guidance scale, against the teacher and stock samplers: metrics.json and report.html."""
    from fewstep.evaluation.evaluate import evaluate as run_evaluation
    from fewstep.evaluation.results_table import text_table

    metrics = run_evaluation(
        model, data, out, against=against, variant=variant, preset=preset, steps=listed("steps", steps, int),
        guidance_scale=listed("guidance-scale", guidance_scale, float), baselines=[] if baselines == "none" else listed("baselines", baselines), budgets=listed("budgets", budgets, int),
        features=features, inception=inception, clip=clip, prompts=prompts, samples=samples, bootstrap=bootstrap, extrapolate=extrapolate, score=score,
        reference_steps=reference_steps, batch_size=batch_size, seed=seed or 0, resize=resize, split=split,
        class_names=class_names, device=device,
    )  # fmt: skip
    from accelerate import PartialState

    if PartialState().is_main_process:
        print(f"{text_table(metrics['rows'])}\n\n{metrics['summary']}\n{out / 'report.html'}")
