"""Export: a model written for use elsewhere, as a diffusers folder, an ONNX file or a LoRA file, with its card."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fewstep.errors import InputError, check_number, shown
from fewstep.export.lora_file import write_lora
from fewstep.export.model_card import write_card
from fewstep.export.onnx import write_onnx
from fewstep.files import check_new, os_errors, path_of, writing
from fewstep.models.lora import merged
from fewstep.models.model import Model
from fewstep.models.pretrained import save_model

FORMATS = ("diffusers", "onnx", "lora")


@os_errors()
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
    make labels of a DiT's classes at each scale. Without one a student keeps its input for w. A LoRA file has one scale.

    Raises:
        InputError: an unknown format, `out` holds something, a teacher (it has no scale to bake in), a scale outside the range; as
            `write_onnx` and `write_lora`.
    """
    if not isinstance(format, str) or format not in FORMATS:
        raise InputError(f"format {shown(format)} is not known; known: {', '.join(FORMATS)}")
    folder = path_of("folder", out)
    check_new(folder)
    scales = tuple(guidance_scale) if isinstance(guidance_scale, Sequence) else (guidance_scale,)
    for scale in scales:
        check_number("guidance_scale", scale, -1e6, 1e6)
    if format == "lora" and len(scales) != 1:
        raise InputError(f"{len(scales)} guidance scales are given; a LoRA file has one baked in: give one (--guidance-scale)")
    try:
        with writing(folder):
            if format == "lora":
                write_lora(model, folder, scales[0])
                known = {"baked": True, "guidance_scale": scales * 2}
                write_card(replace(model, info=model.info.model_copy(update=known)), folder, name)
            elif format == "onnx":
                made = baked(model, scales)
                write_onnx(made, folder)
                write_card(made, folder, name)
            else:
                save_model(baked(model, scales), folder, lambda made, aside, own: write_card(made, aside, name or own))
    except BaseException:  # nothing half-written is left
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def baked(model: Model, scales: Sequence[float]) -> Model:
    """A plain model of one scale, or of several as a DiT's labels; the model itself without any.

    Raises:
        InputError: not a student that takes a scale, one outside its range, or several for another network than a DiT.
    """
    if not scales:
        return model
    if model.info.kind == "teacher":
        raise InputError("this is a teacher, which has no guidance scale to bake in; distil it, or leave --guidance-scale out")
    model = replace(model, denoiser=replace(model.denoiser, network=merged(model.denoiser.network)))
    return model.bake(scales[0]) if len(scales) == 1 else scales_as_labels(model, scales)


def scales_as_labels(model: Model, scales: Sequence[float]) -> Model:
    """A plain DiT of several scales: with C classes its label k C + c is class c at scales[k].

    The stock pipeline runs its folder with `class_labels=[k * C + c], guidance_scale=1`, or with the names "owl at 2.5".

    Raises:
        InputError: not a DiT student with an input for w, or a scale outside its range.
    """
    from fewstep.models.families.dit import DiT, names_at_scales

    if not (isinstance(model.family, DiT) and model.info.takes_w):
        raise InputError(
            "only a DiT holds several guidance scales, as labels, of a student that takes one: give one for each export"
        )
    for scale in scales:
        model.branches(scale)  # which checks it
    names = names_at_scales(model.info.classes, scales)
    family = model.family.with_classes(names)
    network = family.bake_scales(model.denoiser.network, scales)
    denoiser = replace(model.denoiser, network=network, null=len(names), call=family.call)
    info = model.info.model_copy(update={"baked": True, "guidance_scale": None, "classes": names})
    return replace(model, denoiser=denoiser, info=info, family=family)
