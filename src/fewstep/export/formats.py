"""Export: a model written for use elsewhere, as a diffusers folder, a ComfyUI file, an ONNX file or LoRA files, with its card."""

import copy
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fewstep.errors import InputError, check_choice, check_number, shown
from fewstep.export.comfyui import write_comfyui
from fewstep.export.lora_file import LAYOUTS, write_loras
from fewstep.export.model_card import write_card
from fewstep.export.onnx import write_onnx
from fewstep.files import check_new, os_errors, utf8_path_of, writing
from fewstep.models.half_weights import DTYPES
from fewstep.models.lora import merged
from fewstep.models.model import Model
from fewstep.models.pretrained import save_model

FORMATS = ("diffusers", "comfyui", "onnx", "lora")
SIZE = re.compile(r"[1-9]\d*(KB|MB|GB)")


@os_errors()
def export(
    model: Model,
    out: str | Path,
    *,
    guidance_scale: float | Sequence[float] = (),
    format: str = "diffusers",
    layout: str = "diffusers",
    name: str | None = None,
    dtype: str | None = None,
    max_shard_size: str | None = None,
) -> Path:
    """Write a model into the folder `out`, new or empty, in a format of `FORMATS`, with a card that calls it `name`; the folder.

    With a `guidance_scale` that scale is baked in: a plain model, with exactly the samples of the student at that scale. Several
    make labels of a DiT's classes at each scale, or a LoRA file each, whose names are in a `layout` of `LAYOUTS`. Without one a student keeps
    its input for w. Weights are written in a `dtype` of `DTYPES` (without one in that of the model's folder; what the export leaves as it is keeps its own), those of
    a pipeline folder's network in files of at most `max_shard_size`, as "5GB".

    Raises:
        InputError: an encoder, an unknown format, layout or dtype, no size, or one of what is one file, `out` holds something, a teacher (it has no scale to bake in), a scale outside the range;
            as `write_comfyui`, `write_onnx` and `write_loras`.
    """
    check_choice("format", format, FORMATS)
    check_choice("layout", layout, LAYOUTS)
    check_weights_of(format, dtype, max_shard_size)
    if model.info.kind == "encoder":
        raise InputError(
            "this is an encoder, which makes noise of pictures: nothing but fewstep runs one; export a student of the run"
        )
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
                write_loras(model, folder, scales, layout, DTYPES[dtype or "float32"])
                known = {"baked": True, "guidance_scale": (min(scales), max(scales))}
                write_card(replace(model, info=model.info.model_copy(update=known)), folder, name)
            elif format == "diffusers":
                made = in_shards(baked(model, scales), max_shard_size)
                save_model(made, folder, lambda made, aside, own: write_card(made, aside, name or own), DTYPES.get(dtype or ""))
            else:
                made = baked(model, scales)
                if format == "comfyui":
                    write_comfyui(made, folder, folder.name, DTYPES.get(dtype or ""))
                else:
                    write_onnx(made, folder)
                write_card(made, folder, name)
    except BaseException:  # nothing half-written is left
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def check_weights_of(format: str, dtype: str | None, max_shard_size: str | None) -> None:
    """Raises InputError for a dtype or a size that is none, or that this format does not have."""
    if dtype is not None:
        check_choice("dtype", dtype, tuple(DTYPES))
        if format == "onnx" and dtype != "float32":
            raise InputError(f"dtype {dtype} is not for format onnx, which is checked against PyTorch in float32; leave it out")
    if max_shard_size is not None:
        if not isinstance(max_shard_size, str) or not SIZE.fullmatch(max_shard_size):
            raise InputError(f"max_shard_size {shown(max_shard_size)} is no size; give one as 5GB or 500MB")
        if format != "diffusers":
            raise InputError(f"max_shard_size is for format diffusers, since {format} is written as it is; leave it out")


def in_shards(model: Model, max_shard_size: str | None) -> Model:
    """The same model, whose network is written in files of at most this size; InputError for a network of one's own, which is one file."""
    if max_shard_size is None:
        return model
    if model.info.family == "own":
        raise InputError("a network of one's own is written as one file; leave max_shard_size out")
    family = copy.copy(model.family)
    family.max_shard_size = max_shard_size
    return replace(model, family=family)


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
