"""A LoRA student as a file that its teacher's stock pipeline loads."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.method.parameterization import prediction_of
from fewstep.models.lora import INPUTS, adapters_of, merged
from fewstep.models.model import Model

EXPORTED = "pytorch_lora_weights.safetensors"  # the name that `load_lora_weights` looks for


def write_lora(model: Model, folder: Path, guidance_scale: float) -> Path:
    """Write a LoRA student as a file that the teacher's stock pipeline loads, one scale baked in as biases, and its scheduler.

    In the teacher's pipeline: `load_lora_weights(folder)`, the scheduler of `folder/scheduler`, guidance off.

    Raises:
        InputError: not a LoRA student, a scale outside its range, a network into which diffusers loads no LoRA or whose scale is no
            bias.
    """
    from safetensors.torch import save_file

    found = adapters_of(model)
    if found is None:
        raise InputError("this model was not trained with student.lora, so it has no adapters; use --format diffusers")
    tensors, known = found
    family, kind = model.family, model.family.network_class()
    if not hasattr(kind, "load_lora_adapter"):
        raise InputError(f"diffusers loads no LoRA into {kind.__name__}; use --format diffusers")
    lora = {name.replace(".default.", "."): value.float() for name, value in tensors.items() if name not in INPUTS}
    lora = {name: value * (known["alpha"] / known["rank"]) if ".lora_B." in name else value for name, value in lora.items()}
    lora = _with_biases(lora, model, guidance_scale)
    known |= {"guidance_scale": guidance_scale, "steps": model.info.steps}
    folder.mkdir(parents=True, exist_ok=True)
    prefixed = {f"{family.component}.{name}": value.contiguous() for name, value in lora.items()}
    save_file(prefixed, folder / EXPORTED, {"format": "pt", "fewstep": json.dumps(known)})
    family.scheduler(model.denoiser.process, prediction_of(model.info.prediction)).save_pretrained(folder / "scheduler")
    return folder


def _with_biases(lora: dict[str, Tensor], model: Model, guidance_scale: float) -> dict[str, Tensor]:
    """The adapters, each with a bias (PEFT has it for all or for none), those that the scale goes into with what it adds."""
    network = merged(model.denoiser.network)
    plain = replace(model, denoiser=replace(model.denoiser, network=network)).bake(guidance_scale).denoiser.network
    before, after = dict(network.named_parameters()), dict(plain.named_parameters())
    changed = [name for name in after if name not in before or not torch.equal(after[name], before[name])]
    modules = {name.removesuffix(".bias") for name in changed}
    if any(not name.endswith(".bias") or name not in before for name in changed):
        raise InputError(f"the family {model.family.name} bakes a scale into more than biases; use --format diffusers")
    for module in modules:
        weight = before[f"{module}.weight"]
        if f"{module}.lora_A.weight" not in lora:  # a bias comes with an adapter: one that is zero
            lora[f"{module}.lora_A.weight"] = torch.zeros(1, weight.shape[1])
            lora[f"{module}.lora_B.weight"] = torch.zeros(weight.shape[0], 1)
    for module in [name.removesuffix(".lora_B.weight") for name in lora if name.endswith(".lora_B.weight")]:
        bias = torch.zeros(len(lora[f"{module}.lora_B.weight"]))
        if module in modules:
            bias = (after[f"{module}.bias"].cpu().double() - before[f"{module}.bias"].cpu().double()).detach().float()
        lora[f"{module}.lora_B.bias"] = bias
    return lora
