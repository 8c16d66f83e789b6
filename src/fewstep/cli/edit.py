"""The commands that change pictures: edit, inpaint, translate."""

from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from fewstep.cli.options import Device, Seed, app, say
from fewstep.errors import InputError
from fewstep.files import check_new

Images = Annotated[list[Path], typer.Option("--image", help="Picture; again for more.")]
NewOut = Annotated[Path, typer.Option("--out", help="Folder to write, new or empty.")]
Labels = Annotated[list[str] | None, typer.Option(help="Class to draw, by name or number; again for more.")]
Prompts = Annotated[list[str] | None, typer.Option("--prompt", help="What to draw, of a model that takes text; again for more.")]
NegativePrompt = Annotated[
    str | None,
    typer.Option(
        "--negative-prompt", help="What to keep away from; teachers take it, and students trained with student.negative_prompts."
    ),
]
Scales = Annotated[list[float], typer.Option(help="1 is none, as in diffusers; again for more.")]
Seeds = Annotated[list[int], typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of everything random; again for more.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Number of steps; a student's own without it.")]
Sampler = Annotated[str | None, typer.Option(help="deterministic or stochastic.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at a time.")]


@app.command(
    epilog="Example:  fewstep edit digits --image three.png --class-label 8 --strength 0.5 --strength 0.75 --guidance-scale 2 --out edited"
)
def edit(
    model: Annotated[str, typer.Argument(help="Model folder, run folder, or 'digits'.")],
    image: Images,
    out: NewOut,
    strength: Annotated[list[str], typer.Option(help="How much is drawn anew, i/N of N steps, as 0.5 or 2/3; again for more.")],
    class_label: Labels = None,
    prompt: Prompts = None,
    negative_prompt: NegativePrompt = None,
    guidance_scale: Scales = [1.0],  # noqa: B006 - typer copies it
    steps: Steps = None,
    sampler: Sampler = None,
    batch_size: BatchSize = 256,
    seed: Seeds = [0],  # noqa: B006 - typer copies it
    device: Device = None,
) -> None:
    """Redraw pictures under another condition (SDEdit): 00000.png, ..., a labelled grid.png and samples.json."""
    from fewstep.api import open_model
    from fewstep.data.images import read_images
    from fewstep.devices import best_device
    from fewstep.editing import sdedit as editing
    from fewstep.editing.sheets import write_sheet

    check_new(out)
    opened = open_model(model, best_device(device), steps).with_negative_prompt(negative_prompt)
    checked = [opened.sampling_plan(steps, scale, sampler) for scale in guidance_scale]
    count = checked[0].steps
    strengths = once(editing.start_of(number(text), count, say) / count for text in strength)
    pictures = read_images(image, opened.info, say)
    rows, which, words = requests(opened, pictures, class_label, prompt)
    conditions = known(opened, words, "--prompt" if prompt else "--class-label")

    def ask(**choices: Any) -> Any:
        x = pictures.pixels[which]
        return editing.edit(opened, x, conditions, steps=steps, sampler=sampler, batch_size=batch_size, say=say, **choices)

    columns = [{"strength": s, "guidance_scale": g} for s in strengths for g in once(guidance_scale)]
    print(write_sheet(out, rows, columns, once(seed), ask, ["input"], {"model": model} | kept_from(negative_prompt)))


@app.command(
    epilog="Example:  fewstep inpaint digits --image three.png --mask mask.png --class-label 3 --guidance-scale 2 --out filled"
)
def inpaint(
    model: Annotated[str, typer.Argument(help="Model folder, run folder, or 'digits'.")],
    image: Images,
    mask: Annotated[list[Path], typer.Option("--mask", help="White is filled in: one for all pictures, or one for each.")],
    out: NewOut,
    class_label: Labels = None,
    prompt: Prompts = None,
    negative_prompt: NegativePrompt = None,
    guidance_scale: Scales = [1.0],  # noqa: B006 - typer copies it
    feather: Annotated[
        float | None,
        typer.Option(min=0, help="Pixels around the mask, at the model's size, that fade over; a latent's without it, or 0."),
    ] = None,
    resample: Annotated[int, typer.Option(min=0, help="How often each step but the first is undone and repeated.")] = 0,
    steps: Steps = None,
    sampler: Sampler = None,
    batch_size: BatchSize = 256,
    seed: Seeds = [0],  # noqa: B006 - typer copies it
    device: Device = None,
) -> None:
    """Fill in what a mask marks: 00000.png, ..., a labelled grid.png and samples.json. The rest comes back to the bit."""
    from fewstep.api import open_model
    from fewstep.data.images import read_images, read_masks
    from fewstep.devices import best_device
    from fewstep.editing import inpainting
    from fewstep.editing.sheets import write_sheet
    from fewstep.models.sampling import to_images

    check_new(out)
    opened = open_model(model, best_device(device), steps).with_negative_prompt(negative_prompt)
    for scale in guidance_scale:
        opened.sampling_plan(steps, scale, sampler)
    pictures = read_images(image, opened.info, say)
    masks = read_masks(mask, pictures, say)
    rows, which, words = requests(opened, pictures, class_label, prompt)
    conditions = inpainting.condition_of(opened, pictures.pixels[which], masks[which], words)
    for row, shown in zip(rows, to_images(masks[which] * 2.0 - 1), strict=True):
        row.before.append(shown)
    feather = inpainting.edge_of(opened) if feather is None else feather
    heard = cache(say)  # each line once, however many columns there are
    fixed = {"steps": steps, "sampler": sampler, "feather": feather, "resample": resample, "batch_size": batch_size}

    def ask(**choices: Any) -> Any:
        return inpainting.inpaint(opened, pictures.pixels[which], masks[which], conditions, say=heard, **fixed, **choices)

    columns = [{"guidance_scale": scale} for scale in once(guidance_scale)]
    record = {"model": model, "masks": [str(m) for m in mask], "feather": feather, "resample": resample}
    record |= kept_from(negative_prompt)
    print(write_sheet(out, rows, columns, once(seed), ask, ["input", "mask"], record))


@app.command(
    epilog="Examples:  fewstep translate digits --image three.png --from 3 --to 8 --guidance-scale 2 --out styled    "
    "fewstep translate runs/mine --between three.png eight.png --from 3 --from 8 --frames 8 --out between"
)
def translate(
    decoder: Annotated[str, typer.Argument(help="Student or teacher: model folder, run folder, or 'digits'.")],
    out: NewOut,
    from_: Annotated[list[str], typer.Option("--from", help="Class of the picture, by name or number; with --between up to two.")],
    encoder: Annotated[str | None, typer.Option(help="Encoder, run folder with one, or teacher; DECODER without it.")] = None,
    image: Annotated[list[Path] | None, typer.Option("--image", help="Picture; again for more.")] = None,
    to: Annotated[list[str] | None, typer.Option(help="Class to draw; again for more.")] = None,
    between: Annotated[tuple[Path, Path] | None, typer.Option(help="Two pictures: one becomes the other.")] = None,
    frames: Annotated[int, typer.Option(min=2, max=1024, help="With --between: how many pictures.")] = 8,
    guidance_scale: Annotated[list[float], typer.Option(help="Of the decoder: the strength; again for more.")] = [1.0],  # noqa: B006
    encoder_guidance_scale: Annotated[float, typer.Option(help="Of the encoder; 1, none, is stable.")] = 1.0,
    steps: Annotated[int | None, typer.Option(min=1, help="The decoder's steps; a student's own without it.")] = None,
    encoder_steps: Annotated[int | None, typer.Option(min=1, help="The encoder's steps; its own without it.")] = None,
    batch_size: BatchSize = 256,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Carry pictures to noise under one condition and back under another: style transfer. Nothing in it is random."""
    from fewstep.api import open_model
    from fewstep.devices import best_device
    from fewstep.editing.style_transfer import open_encoder

    if bool(image) == bool(between) or (image and not to):
        raise InputError("give --image F, --from L and --to L, or --between F F and --from L")
    check_new(out)
    models = open_model(decoder, best_device(device), steps), open_encoder(encoder or decoder, best_device(device), encoder_steps)
    fixed = {
        "steps": steps,
        "encoder_steps": encoder_steps,
        "encoder_guidance_scale": encoder_guidance_scale,
        "batch_size": batch_size,
    }
    record = {"decoder": decoder, "encoder": encoder or decoder, "encoder_guidance_scale": encoder_guidance_scale, "from": from_}
    if between:
        print(_between(out, *models, between, from_, to, frames, fixed | {"guidance_scale": single(guidance_scale)}, record))
    else:
        print(_translate(out, *models, image or [], single(from_), to or [], once(guidance_scale), fixed, record))


def _translate(
    out: Path, decoder: Any, encoder: Any, image: list[Path], from_: str, to: list[str], scales: list[float], fixed: dict[str, Any],
    record: dict[str, Any],
) -> str:  # fmt: skip
    from fewstep.data.images import read_images
    from fewstep.editing.sheets import write_sheet
    from fewstep.editing.style_transfer import translate

    pictures = read_images(image, decoder.info, say)
    rows, which, words = requests(decoder, pictures, to, to, "--to")
    sources, labels = known(encoder, [from_] * len(rows), "--from"), known(decoder, words, "--to")

    def ask(seed: int, **choices: Any) -> Any:
        return translate(decoder, encoder, pictures.pixels[which], sources, labels, **fixed, **choices)

    return write_sheet(out, rows, [{"guidance_scale": scale} for scale in scales], [0], ask, ["input"], record)


def _between(
    out: Path, decoder: Any, encoder: Any, files: tuple[Path, Path], from_: list[str], to: list[str] | None, frames: int,
    fixed: dict[str, Any], record: dict[str, Any],
) -> str:  # fmt: skip
    from fewstep.data.images import read_images
    from fewstep.editing.sheets import write_frames
    from fewstep.editing.style_transfer import interpolate
    from fewstep.models.sampling import to_images

    ends, ways = (pick if len(pick) == 2 else [single(pick)] * 2 for pick in (from_, to or from_))
    names = [ways[0]] * (frames - frames // 2) + [ways[1]] * (frames // 2)
    pictures = read_images(list(files), decoder.info, say)
    labels = known(encoder, ends, "--from"), known(decoder, names, "--to")
    drawn = interpolate(decoder, encoder, pictures.pixels, *labels, frames=frames, **fixed)
    facts = record | {"between": pictures.names, "to": names, "guidance_scale": fixed["guidance_scale"]}
    return write_frames(out, to_images(pictures.pixels), drawn, facts)


def requests(
    model: Any, pictures: Any, class_labels: list[str] | None, prompts: list[str] | None = None, option: str = ""
) -> tuple[list[Any], list[int], list[str]]:
    """Every picture under every class or prompt: the rows of the grid, which picture each takes, and its class or prompt.

    Raises:
        InputError: none is given, or prompts for a model of classes, or the other way round.
    """
    from fewstep.editing.sheets import Row
    from fewstep.models.sampling import to_images

    text = model.info.condition == "text"
    option = option or ("--prompt" if text else "--class-label")
    words, other = (prompts, class_labels) if text else (class_labels, prompts)
    if not words or (other and other is not words):
        raise InputError(f"no {'prompt' if text else 'class'} is given; name what to draw with {option}")
    shown, asked = to_images(pictures.pixels), [(i, word) for i in range(len(pictures.names)) for word in once(words)]
    rows = [Row([shown[i]], {"image": Path(pictures.names[i]).name, "prompt" if text else "class": word}) for i, word in asked]
    return rows, [i for i, _ in asked], [word for _, word in asked]


def known(model: Any, labels: list[str], option: str) -> Any:
    """The condition of class names or prompts, one a row.

    Raises:
        InputError: the model does not know one of them.
    """
    try:
        return model.labels_or_prompts(labels, len(labels))
    except InputError as error:
        raise InputError(f"{option}: {error}") from None


def kept_from(negative_prompt: str | None) -> dict[str, str]:
    """What the record says of a negative prompt."""
    return {} if negative_prompt is None else {"negative_prompt": negative_prompt}


def once(values: Any) -> list[Any]:
    """Each value once, in order."""
    return list(dict.fromkeys(values))


def single(values: list[Any]) -> Any:
    """The only value.

    Raises:
        InputError: there are several.
    """
    if len(values) != 1:
        raise InputError(f"{', '.join(map(str, values))}: one is needed here; give the command again for another")
    return values[0]


def number(text: str) -> float:
    """A number written as 0.5 or as 2/3.

    Raises:
        InputError: it is neither.
    """
    try:
        return float(Fraction(text)) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise InputError(f"--strength {text}: a number is needed, as 0.5 or 2/3") from None
