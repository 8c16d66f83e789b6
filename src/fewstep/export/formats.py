"""Export: a model written for use elsewhere. A format is one function (model, out, scales, name), entered in `FORMATS`."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from fewstep.errors import InputError, nearest
from fewstep.export.model_card import write_card
from fewstep.files import check_new
from fewstep.models.lora import merged
from fewstep.models.model import Model
from fewstep.models.pretrained import save_model

Write = Callable[[Model, Path, Sequence[float], str | None], Any]
FORMATS = {  # name -> module:function (model, empty folder, guidance scales to bake in, name on its card), imported when needed
    "diffusers": "fewstep.export.formats:write_diffusers",
    "onnx": "fewstep.export.formats:write_onnx",
    "lora": "fewstep.export.formats:write_lora",
}


def export(
    model: Model,
    out: str | Path,
    *,
    guidance_scale: float | Sequence[float] = (),
    format: str = "diffusers",
    name: str | None = None,
) -> Path:
    """Write a model into the folder `out`, new or empty, in a format of `FORMATS`, with a card that calls it `name`; the folder.

    With a `guidance_scale` that scale is baked in: a plain model, with exactly the samples of the student at that scale. Several
    make labels of a DiT's classes at each scale. Without one a student keeps its input for w.

    Raises:
        InputError: an unknown format, `out` holds something, a teacher (it has no scale to bake in), a scale outside the range.
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r} is not known; {nearest(format, FORMATS)}")
    folder = Path(out)
    check_new(folder)
    scales = (float(guidance_scale),) if isinstance(guidance_scale, int | float) else tuple(guidance_scale)
    module, _, function = FORMATS[format].partition(":")
    write: Write = getattr(import_module(module), function)
    try:
        write(model, folder, scales, name)
    except BaseException as error:  # nothing half-written is left
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise InputError(f"cannot write {folder}: {error}; free some space or name another folder") from None
        raise
    return folder


def baked(model: Model, scales: Sequence[float]) -> Model:
    """A plain model of one scale, or of several as a DiT's labels; the model itself without any.

    Raises:
        InputError: not a student that takes a scale, one outside its range, or several for another family than DiT.
    """
    if not scales:
        return model
    if model.info.kind == "teacher":
        raise InputError("this is a teacher, which has no guidance scale to bake in; distil it, or leave --guidance-scale out")
    model = replace(model, denoiser=replace(model.denoiser, network=merged(model.denoiser.network)))
    if len(scales) == 1:
        return model.bake(scales[0])
    if model.info.family != "dit":
        raise InputError(f"{len(scales)} guidance scales are given; only a DiT holds several, as labels: give one for each export")
    return scales_as_labels(model, scales)


def scales_as_labels(model: Model, scales: Sequence[float]) -> Model:
    """A plain DiT of several scales: with C classes its label k C + c is class c at scales[k].

    The stock pipeline runs its folder with `class_labels=[k * C + c], guidance_scale=1`, or with the names "owl at 2.5".

    Raises:
        InputError: not a DiT student with an input for w, or a scale outside its range.
    """
    from fewstep.models.families.dit import DiT, names_at_scales

    if not (isinstance(model.family, DiT) and model.info.takes_w):
        raise InputError("only a DiT student that takes a guidance scale can have scales made into labels; name such a student")
    low, high = model.info.guidance_scale or (-float("inf"), float("inf"))
    if wrong := [scale for scale in scales if not low <= scale <= high]:
        raise InputError(
            f"guidance_scale {wrong[0]:g} is outside the range {low:g} to {high:g} that this student was trained for; name others"
        )
    names = names_at_scales(model.info.classes, scales)
    family = model.family.with_classes(names)
    network = family.bake_scales(model.denoiser.network, scales)
    info = model.info.model_copy(update={"baked": True, "guidance_scale": None, "classes": names})
    return replace(
        model, denoiser=replace(model.denoiser, network=network, null=len(names), call=family.call), info=info, family=family
    )


def write_diffusers(model: Model, out: Path, scales: Sequence[float], name: str | None = None) -> None:
    """A whole pipeline folder, checked as every save is."""
    made = baked(model, scales)
    save_model(made, out, lambda model, folder, own: write_card(model, folder, name or own))


def write_lora(model: Model, out: Path, scales: Sequence[float], name: str | None = None) -> None:
    """The adapters of a LoRA student as a file for its teacher's pipeline, one scale baked in.

    Raises:
        InputError: not a LoRA student, or not one scale.
    """
    from fewstep.export import lora_file

    if len(scales) != 1:
        raise InputError(f"{len(scales)} guidance scales are given; a LoRA file has one baked in: give one (--guidance-scale)")
    lora_file.write_lora(model, out, scales[0])
    known = {"baked": True, "guidance_scale": (scales[0], scales[0])}
    write_card(replace(model, info=model.info.model_copy(update=known)), out, name)


def write_onnx(model: Model, out: Path, scales: Sequence[float], name: str | None = None) -> None:
    """The network alone, with the table of its steps; checked against PyTorch."""
    from fewstep.export import onnx as onnx_file

    onnx_file.check_installed()
    made = baked(model, scales)
    out.mkdir(parents=True, exist_ok=True)
    onnx_file.write_onnx(made, out)
    write_card(made, out, name)
