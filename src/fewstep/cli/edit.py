"""The commands that change pictures: edit, inpaint, translate."""

from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from fewstep.cli import options
from fewstep.cli.options import app, say
from fewstep.errors import InputError
from fewstep.files import check_new

Images = Annotated[list[Path], typer.Option("--image", help="Picture; again for more.")]


@app.command(epilog="Example:  fewstep edit digits --image three.png --class-label 8 --strength 0.5 --strength 3/4 --out edited")
def edit(
    model: options.ModelPath, image: Images, out: options.NewOut,
    strength: Annotated[list[str], typer.Option(help="How much is drawn anew, i/N of N steps, as 0.5 or 2/3; again for more.")],
    class_label: options.Labels = None, prompt: options.Prompts = None,
    negative_prompt: options.NegativePrompt = None, guidance_scale: options.Scales = None,
    variant: options.Variant = None, lora: options.Lora = None, steps: options.Steps = None, sampler: options.Sampler = None,
    batch_size: options.BatchSize = 256, seed: options.Seeds = [0], device: options.Device = None,  # noqa: B006 - typer copies it
) -> None:  # fmt: skip
    """Redraw pictures under another condition (SDEdit): 00000.png, ..., a labelled grid.png and samples.json."""
    from fewstep.cli.sample_files import write_combinations
    from fewstep.data.images import read_images
    from fewstep.editing import sdedit

    check_new(out)
    opened, scales = opened_with(model, device, steps, negative_prompt, guidance_scale, variant, lora)
    plans = [opened.sampling_plan(steps, scale, sampler) for scale in scales]
    strengths = distinct(sdedit.start_of(number(text), plans[0].steps, say) / plans[0].steps for text in strength)
    pictures = read_images(image, opened.info, say)
    rows, which, names = rows_of(opened, pictures, class_label, prompt)
    conditions = condition_of(opened, names, "--prompt" if prompt else "--class-label")

    def draw(**choices: Any) -> Any:
        x = pictures.pixels[which]
        return sdedit.edit(opened, x, conditions, steps=steps, sampler=sampler, batch_size=batch_size, say=say, **choices)

    columns = [{"strength": s, "guidance_scale": g} for s in strengths for g in scales]
    print(write_combinations(out, rows, columns, distinct(seed), draw, ["input"], record_of(model, negative_prompt, lora)))


@app.command(epilog="Example:  fewstep inpaint digits --image three.png --mask mask.png --class-label 3 --out filled")
def inpaint(
    model: options.ModelPath, image: Images,
    mask: Annotated[list[Path], typer.Option("--mask", help="White is filled in: one for all pictures, or one for each.")],
    out: options.NewOut, class_label: options.Labels = None, prompt: options.Prompts = None,
    negative_prompt: options.NegativePrompt = None, guidance_scale: options.Scales = None,
    feather: Annotated[
        float | None, typer.Option(min=0, help="Pixels around the mask that fade; a latent's without it, or 0.")
    ] = None,
    resample: Annotated[int, typer.Option(min=0, help="How often each step but the first is undone and repeated.")] = 0,
    variant: options.Variant = None, lora: options.Lora = None, steps: options.Steps = None, sampler: options.Sampler = None,
    batch_size: options.BatchSize = 256, seed: options.Seeds = [0], device: options.Device = None,  # noqa: B006 - typer copies it
) -> None:  # fmt: skip
    """Fill in what a mask marks: 00000.png, ..., a labelled grid.png and samples.json. The rest comes back to the bit."""
    from fewstep.cli.sample_files import write_combinations
    from fewstep.data.images import read_images, read_masks
    from fewstep.editing import inpainting
    from fewstep.models.sampling import to_images

    check_new(out)
    opened, scales = opened_with(model, device, steps, negative_prompt, guidance_scale, variant, lora)
    for scale in scales:
        opened.sampling_plan(steps, scale, sampler)
    pictures = read_images(image, opened.info, say)
    masks = read_masks(mask, pictures, say)
    rows, which, names = rows_of(opened, pictures, class_label, prompt)
    conditions = inpainting.condition_of(opened, pictures.pixels[which], masks[which], names)
    for row, shown in zip(rows, to_images(masks[which] * 2.0 - 1), strict=True):
        row.before.append(shown)
    feather = inpainting.edge_of(opened) if feather is None else feather
    say_once = cache(say)  # each line once, however many columns there are
    fixed = {"steps": steps, "sampler": sampler, "feather": feather, "resample": resample, "batch_size": batch_size}

    def draw(**choices: Any) -> Any:
        return inpainting.inpaint(opened, pictures.pixels[which], masks[which], conditions, say=say_once, **fixed, **choices)

    columns = [{"guidance_scale": scale} for scale in scales]
    record = {"masks": [str(m) for m in mask], "feather": feather, "resample": resample} | record_of(model, negative_prompt, lora)
    print(write_combinations(out, rows, columns, distinct(seed), draw, ["input", "mask"], record))


@app.command(
    epilog="Examples:  fewstep translate digits --image three.png --from 3 --to 8 --guidance-scale 2 --out styled    "
    "fewstep translate runs/mine --between three.png eight.png --from 3 --from 8 --frames 8 --out between"
)
def translate(
    decoder: Annotated[str, typer.Argument(help="Student or teacher: model folder, run folder, or 'digits'.")],
    out: options.NewOut,
    from_: Annotated[list[str], typer.Option("--from", help="Class of the picture, by name or number; with --between up to two.")],
    encoder: Annotated[str | None, typer.Option(help="Encoder, run folder with one, or teacher; DECODER without it.")] = None,
    image: Annotated[list[Path] | None, typer.Option("--image", help="Picture; again for more.")] = None,
    to: Annotated[list[str] | None, typer.Option(help="Class to draw; again for more.")] = None,
    between: Annotated[tuple[Path, Path] | None, typer.Option(help="Two pictures: one becomes the other.")] = None,
    frames: Annotated[int, typer.Option(min=2, max=1024, help="With --between: how many pictures.")] = 8,
    guidance_scale: options.Scales = None,
    encoder_guidance_scale: Annotated[float | None, typer.Option(help="Without it 1, which is stable, or that baked in.")] = None,
    variant: options.Variant = None,
    steps: Annotated[int | None, typer.Option(min=1, help="The decoder's steps; a student's own without it.")] = None,
    encoder_steps: Annotated[int | None, typer.Option(min=1, help="The encoder's steps; its own without it.")] = None,
    batch_size: options.BatchSize = 256, seed: options.Seed = None, device: options.Device = None,
) -> None:  # fmt: skip
    """Carry pictures to noise under one condition and back under another: style transfer. Nothing in it is random."""
    from fewstep.cli.sample_files import write_combinations, write_frames
    from fewstep.data.images import read_images
    from fewstep.devices import best_device
    from fewstep.editing import style_transfer
    from fewstep.models.sampling import to_images

    if bool(image) == bool(between) or (image and not to):
        raise InputError("give --image F, --from L and --to L, or --between F F and --from L")
    check_new(out)
    drawing, scales = opened_with(decoder, device, steps, None, guidance_scale, variant, None)
    encoding = style_transfer.open_encoder(encoder or decoder, best_device(device), encoder_steps, None if encoder else variant)
    encoder_scale = encoding.scale_or_own(encoder_guidance_scale)
    fixed = {"steps": steps, "encoder_steps": encoder_steps, "encoder_guidance_scale": encoder_scale, "batch_size": batch_size}
    record = {"decoder": decoder, "encoder": encoder or decoder, "encoder_guidance_scale": encoder_scale, "from": from_}
    pictures = read_images(list(between or image or []), drawing.info, say)
    if between:
        ends, names = (pick if len(pick) == 2 else [single(pick)] * 2 for pick in (from_, to or from_))
        names = [names[0]] * (frames - frames // 2) + [names[1]] * (frames // 2)
        conditions = condition_of(encoding, ends, "--from"), condition_of(drawing, names, "--to")
        choices = fixed | {"guidance_scale": single(scales)}
        drawn = style_transfer.interpolate(drawing, encoding, pictures.pixels, *conditions, frames=frames, **choices)
        record |= {"between": pictures.names, "to": names, "guidance_scale": single(scales)}
        return print(write_frames(out, to_images(pictures.pixels), drawn, record))
    rows, which, names = rows_of(drawing, pictures, to, to, "--to")
    conditions = condition_of(encoding, [single(from_)] * len(rows), "--from"), condition_of(drawing, names, "--to")

    def draw(seed: int, **choices: Any) -> Any:
        return style_transfer.translate(drawing, encoding, pictures.pixels[which], *conditions, **fixed, **choices)

    return print(write_combinations(out, rows, [{"guidance_scale": scale} for scale in scales], [0], draw, ["input"], record))


def opened_with(
    path: str,
    device: str | None,
    steps: int | None,
    negative_prompt: str | None,
    scales: list[float] | None,
    variant: str | None,
    lora: list[str] | None,
) -> tuple[Any, list[float]]:
    """The model with its negative prompt, and the distinct guidance scales; without any the model's own."""
    from fewstep.api import open_model
    from fewstep.devices import best_device

    model = open_model(path, best_device(device), steps, variant=variant, lora=lora).with_negative_prompt(negative_prompt)
    return model, distinct(scales or [model.scale_or_own(None)])


def rows_of(
    model: Any, pictures: Any, class_labels: list[str] | None, prompts: list[str] | None = None, option: str = ""
) -> tuple[list[Any], list[int], list[str]]:
    """The grid's rows, every picture under every class or prompt: the rows, the index of each one's picture, its class or prompt.

    Raises:
        InputError: none is given, or prompts for a model of classes, or the other way round.
    """
    from fewstep.cli.sample_files import Row
    from fewstep.models.sampling import to_images

    text = model.info.condition == "text"
    option = option or ("--prompt" if text else "--class-label")
    names, other = (prompts, class_labels) if text else (class_labels, prompts)
    if not names or (other and other is not names):
        raise InputError(f"no {'prompt' if text else 'class'} is given; name what to draw with {option}")
    shown, pairs = to_images(pictures.pixels), [(i, name) for i in range(len(pictures.names)) for name in distinct(names)]
    rows = [Row([shown[i]], {"image": Path(pictures.names[i]).name, "prompt" if text else "class": name}) for i, name in pairs]
    return rows, [i for i, _ in pairs], [name for _, name in pairs]


def condition_of(model: Any, names: list[str], option: str) -> Any:
    """The condition (n, ...) of n class names or prompts; an InputError that begins with the option where one is not known."""
    try:
        return model.labels_or_prompts(names, len(names))
    except InputError as error:
        raise InputError(f"{option}: {error}") from None


def record_of(model: str, negative_prompt: str | None, lora: list[str] | None) -> dict[str, Any]:
    """What samples.json has of the model, its negative prompt and the LoRA files in it."""
    return (
        {"model": model}
        | ({} if negative_prompt is None else {"negative_prompt": negative_prompt})
        | ({"lora": lora} if lora else {})
    )


def distinct(values: Any) -> list[Any]:
    """Each value once, in order."""
    return list(dict.fromkeys(values))


def single(values: list[Any]) -> Any:
    """The only value; an InputError where there are several."""
    if len(values) != 1:
        raise InputError(f"{', '.join(map(str, values))[:80]}: one is needed here; give the command again for another")
    return values[0]


def number(text: str) -> float:
    """A number written as 0.5 or as 2/3; an InputError where it is neither."""
    try:
        return float(Fraction(text)) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise InputError(f"--strength {text[:40]}: a number is needed, as 0.5 or 2/3") from None
