"""Export: a model written for use elsewhere, as a diffusers folder, a ComfyUI file, an ONNX file or LoRA files, with its card."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fewstep.errors import InputError, check_choice, check_number
from fewstep.export.comfyui import write_comfyui
from fewstep.export.lora_file import LAYOUTS, write_loras
from fewstep.export.model_card import write_card
from fewstep.export.onnx import write_onnx
from fewstep.files import check_new, os_errors, utf8_path_of, writing
from fewstep.models.lora import merged
from fewstep.models.model import Model
from fewstep.models.pretrained import save_model

FORMATS = ("diffusers", "comfyui", "onnx", "lora")


@os_errors()
def export(
    model: Model,
    out: str | Path,
    *,
    guidance_scale: float | Sequence[float] = (),
    format: str = "diffusers",
    layout: str = "diffusers",
    name: str | None = None,
) -> Path:
    """Write a model into the folder `out`, new or empty, in a format of `FORMATS`, with a card that calls it `name`; the folder.

    With a `guidance_scale` that scale is baked in: a plain model, with exactly the samples of the student at that scale. Several
    make labels of a DiT's classes at each scale, or a LoRA file each, whose names are in a `layout` of `LAYOUTS`. Without one a student keeps
    its input for w.

    Raises:
        InputError: an unknown format or layout, `out` holds something, a teacher (it has no scale to bake in), a scale outside the range;
            as `write_comfyui`, `write_onnx` and `write_loras`.
    """
    check_choice("format", format, FORMATS)
    check_choice("layout", layout, LAYOUTS)
    folder = utf8_path_of("folder", out)
    check_new(folder)
    scales = tuple(guidance_scale) if isinstance(guidance_scale, Sequence) else (guidance_scale,)
    for scale in scales:
        check_number("guidance_scale", scale, -1e6, 1e6)
    if layout != "diffusers" and format != "lora":
        raise InputError(f"layout {layout} is one of LoRA files; leave it out, or give format lora")
    if format == "comfyui" and len(scales) > 1:
        raise InputError(
            f"{len(scales)} guidance scales are given; a file of ComfyUI has one baked in: export once for each, or a LoRA student by format lora"
        )
    try:
        with writing(folder):
            if format == "lora":
                write_loras(model, folder, scales, layout)
                known = {"baked": True, "guidance_scale": (min(scales), max(scales))}
                write_card(replace(model, info=model.info.model_copy(update=known)), folder, name)
            elif format == "diffusers":
                save_model(baked(model, scales), folder, lambda made, aside, own: write_card(made, aside, name or own))
            else:
                made = baked(model, scales)
                write_comfyui(made, folder, folder.name) if format == "comfyui" else write_onnx(made, folder)
                write_card(made, folder, name)
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
