"""A student as one file for ComfyUI, with a workflow that draws from it; Forge, A1111 and sd-scripts read the same checkpoints."""

import json
import math
from pathlib import Path
from typing import Any

import torch

from fewstep.errors import InputError
from fewstep.export.checkpoint_layouts import CONVERSIONS
from fewstep.method.process import DiscreteBetas, RectifiedFlow, process_of
from fewstep.models.lora import merged
from fewstep.models.metadata import Info
from fewstep.models.model import DEFAULT_STEPS, Model

WORKFLOW = "workflow.json"
SAMPLING = {"eps": "eps", "v": "v_prediction", "x": "x0"}  # ComfyUI's names of predictions
STABLE = (0.00085, 0.012)  # the first and last of the betas, linear in their roots, that the tools take for Stable Diffusion
SAME = 1e-4  # largest difference from them in alpha^2 that counts as none


def write_comfyui(model: Model, folder: Path, name: str, dtype: torch.dtype | None = None) -> Path:
    """Write `NAME.safetensors` and `workflow.json` into a folder, all weights in a dtype (None: each in its own); the file.

    Stable Diffusion 1.x, 2.x and XL become whole checkpoints (`models/checkpoints` of ComfyUI), Stable Diffusion 3 and Flux the network alone
    (`models/diffusion_models`). One scale must be baked in, except of Flux, whose network has an input for it there too.

    Raises:
        InputError: a family that these tools have no layout for, a student that takes a scale there is no input for, a process of other times.
    """
    from safetensors.torch import save_file

    info, family = model.info, model.family
    if family.name not in CONVERSIONS:
        raise InputError(
            f"the family {family.name} has no layout in ComfyUI; known: {', '.join(CONVERSIONS)}; use --format diffusers"
        )
    if info.takes_w and family.name != "flux":
        raise InputError(
            "a file of ComfyUI has no input for the guidance scale: name the one to bake in (--guidance-scale), one a file"
        )
    if info.sampler == "stochastic":
        raise InputError("this student was trained for the stochastic sampler, which is none of ComfyUI's; use --format diffusers")
    check_times(info)
    network = merged(model.denoiser.network)
    stock: Any = family.stock_network(network)  # pyright: ignore[reportAttributeAccessIssue] - those of CONVERSIONS have one
    weights = {
        key: as_dtype(value.detach().cpu(), dtype).contiguous() for key, value in CONVERSIONS[family.name](family, stock).items()
    }
    if info.prediction == "v" and "xl" in family.name:
        weights["v_pred"] = torch.zeros(0)  # by its presence ComfyUI and Forge know that the network predicts v
    folder.mkdir(parents=True, exist_ok=True)
    known = {
        "steps": info.steps,
        "guidance_scale": (info.guidance_scale or (None,))[0] if info.baked else None,
        "prediction": info.prediction,
    }
    file = folder / f"{name}.safetensors"
    save_file(weights, file, {"format": "pt", "fewstep": json.dumps(known)})
    (folder / WORKFLOW).write_text(json.dumps(workflow(info, family.name, file.name), indent=1) + "\n", encoding="utf-8")
    return file


def as_dtype(value: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """A weight in a dtype, where one is asked for; what is no number with a fraction (positions) stays as it is."""
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value


def check_times(info: Info) -> None:
    """Raises InputError where ComfyUI would visit other noise levels than the student was trained for.

    Its times are ours, or where the steps do not divide 1,000 at most one of 1,000 beside them.
    """
    process = process_of(info.process)
    if isinstance(process, RectifiedFlow):
        return
    roots = torch.linspace(STABLE[0] ** 0.5, STABLE[1] ** 0.5, 1000, dtype=torch.float64)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    apart = (process.at(t, t)[0] ** 2 - torch.cumprod(1 - roots**2, 0)).abs().max()
    if not isinstance(process, DiscreteBetas) or process.train_timesteps != 1000 or apart > SAME:
        raise InputError("ComfyUI takes Stable Diffusion's own betas alone, and this student's are others; use --format diffusers")


def workflow(info: Info, family: str, file: str) -> dict[str, Any]:
    """The nodes of a ComfyUI workflow (its API format, which the page takes dropped onto it) that draws from the student's file.

    Sampler `euler` on schedule `simple` is DDIM at t = 1, 1 - 1/N, ..., 1/N, the student's own times; `cfg` is 1, so that each step is one evaluation.
    """
    checkpoint, flux = family.startswith("stable_diffusion") and family != "stable_diffusion_3", family == "flux"
    pixels = info.image_size or 8 * info.size
    sides = {"width": pixels, "height": pixels * info.shape[-2] // info.shape[-1]}
    scale = min(max(3.0, (info.guidance_scale or (3.0, 3.0))[0]), (info.guidance_scale or (3.0, 3.0))[1])
    if checkpoint:
        nodes = {"model": node("CheckpointLoaderSimple", ckpt_name=file)}
        model, clip, vae = ["model", 0], ["model", 1], ["model", 2]
        nodes["sampling"] = node("ModelSamplingDiscrete", model=model, sampling=SAMPLING[info.prediction], zsnr=False)
        latent = node("EmptyLatentImage", **sides, batch_size=1)
    else:
        shift, names = process_of(info.process).shift, ("clip_l.safetensors", "t5xxl_fp16.safetensors")  # pyright: ignore[reportAttributeAccessIssue]
        nodes = {
            "model": node("UNETLoader", unet_name=file, weight_dtype="default"),
            "vae": node("VAELoader", vae_name="ae.safetensors" if flux else "sd3_vae.safetensors"),
        }
        model, clip, vae = ["model", 0], ["clip", 0], ["vae", 0]
        if flux:
            nodes["clip"] = node("DualCLIPLoader", clip_name1=names[0], clip_name2=names[1], type="flux")
            nodes["sampling"] = node(
                "ModelSamplingFlux", model=model, max_shift=math.log(shift), base_shift=math.log(shift), **sides
            )
        else:
            nodes["clip"] = node("TripleCLIPLoader", clip_name1=names[0], clip_name2="clip_g.safetensors", clip_name3=names[1])
            nodes["sampling"] = node("ModelSamplingSD3", model=model, shift=shift)
        latent = node("EmptySD3LatentImage", **sides, batch_size=1)
    nodes |= {
        "prompt": node("CLIPTextEncode", clip=clip, text="a photo of an owl"),
        "empty": node("CLIPTextEncode", clip=clip, text=""),
    }
    positive, negative, start = ["prompt", 0], ["empty", 0], ["latent", 0]
    if flux and info.takes_w:
        nodes["guidance"] = node("FluxGuidance", conditioning=positive, guidance=scale)
        positive = ["guidance", 0]
    if family.endswith("inpainting"):  # the picture's alpha is the mask
        nodes["picture"] = node("LoadImage", image="example.png")
        latent = node(
            "InpaintModelConditioning",
            positive=positive,
            negative=negative,
            vae=vae,
            pixels=["picture", 0],
            mask=["picture", 1],
            noise_mask=False,
        )
        positive, negative, start = ["latent", 0], ["latent", 1], ["latent", 2]
    drawing = {
        "seed": 0,
        "steps": info.steps or DEFAULT_STEPS,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
    }
    nodes |= {
        "latent": latent,
        "samples": node("KSampler", model=["sampling", 0], positive=positive, negative=negative, latent_image=start, **drawing),
    }
    nodes |= {
        "images": node("VAEDecode", samples=["samples", 0], vae=vae),
        "saved": node("SaveImage", images=["images", 0], filename_prefix="fewstep"),
    }
    numbers = {name: str(number) for number, name in enumerate(nodes, 1)}
    for made in nodes.values():  # names of nodes are numbers there
        made["inputs"] = {
            key: [numbers[value[0]], value[1]] if isinstance(value, list) else value for key, value in made["inputs"].items()
        }
    return {numbers[name]: made for name, made in nodes.items()}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node of a workflow; a list as input is [the node that gives it, which of its outputs]."""
    return {"class_type": kind, "inputs": inputs}
