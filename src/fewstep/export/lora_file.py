"""A LoRA student as files that its teacher's stock pipeline, or ComfyUI, loads; each has one scale baked in."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError
from fewstep.method.parameterization import prediction_of
from fewstep.models.lora import adapters_of, is_input, merged
from fewstep.models.model import Model

EXPORTED = "pytorch_lora_weights.safetensors"  # the name that `load_lora_weights` looks for
LAYOUTS = ("diffusers", "kohya")  # of names; kohya's are those of sd-scripts, which ComfyUI reads


def write_loras(
    model: Model, folder: Path, guidance_scales: Sequence[float], layout: str = "diffusers", dtype: torch.dtype = torch.float32
) -> list[Path]:
    """Write a LoRA student as a file for each scale, its weights in a dtype, with the scheduler to use them with; the files.

    In the teacher's pipeline: `load_lora_weights(folder)`, the scheduler of `folder/scheduler`, guidance off. One scale makes the file of the
    name that diffusers looks for, or with kohya's layout of the folder's; several make `scale-2.safetensors` and so on.

    Raises:
        InputError: no scale, not a LoRA student, a scale outside its range, a network into which diffusers loads no LoRA or whose scale is no
            bias, kohya's layout of another network than a UNet.
    """
    from safetensors.torch import save_file

    if not guidance_scales:
        raise InputError("a LoRA file has a guidance scale baked in; give it (--guidance-scale), again for a file each")
    found = adapters_of(model)
    if found is None:
        raise InputError("this model was not trained with student.lora, so it has no adapters; use --format diffusers")
    tensors, known = found
    family: Any = model.family
    kind = family.network_class()
    if not hasattr(kind, "load_lora_adapter") or not family.lora_files:
        raise InputError(f"diffusers loads no LoRA into {kind.__name__} of the family {family.name}; use --format diffusers")
    if layout == "kohya" and family.component != "unet":
        raise InputError(f"kohya's layout is known of UNets alone, not of the family {family.name}; use --layout diffusers")
    lora = {name.replace(".default.", "."): value.float() for name, value in tensors.items() if not is_input(name)}
    lora = {name: value * (known["alpha"] / known["rank"]) if ".lora_B." in name else value for name, value in lora.items()}
    folder.mkdir(parents=True, exist_ok=True)
    files, whole = [], replace(model, denoiser=replace(model.denoiser, network=merged(model.denoiser.network)))
    for scale in guidance_scales:
        biases = _biases(whole, scale)
        made = _kohya(lora, biases) if layout == "kohya" else _with_biases(lora, biases, whole, family.component)
        usual = EXPORTED if layout == "diffusers" else f"{folder.name}.safetensors"
        files.append(folder / (usual if len(guidance_scales) == 1 else f"scale-{scale:g}.safetensors"))
        facts = known | {"guidance_scale": scale, "steps": model.info.steps}
        save_file(
            {name: value.to(dtype).contiguous() for name, value in made.items()},
            files[-1],
            {"format": "pt", "fewstep": json.dumps(facts)},
        )
    family.scheduler(model.denoiser.process, prediction_of(model.info.prediction)).save_pretrained(folder / "scheduler")
    return files


def _biases(model: Model, guidance_scale: float) -> dict[str, Tensor]:
    """What a scale adds to biases of a model without adapters, by the name of the module; InputError where it goes into other weights."""
    plain = model.bake(guidance_scale).denoiser.network
    before, after = dict(model.denoiser.network.named_parameters()), dict(plain.named_parameters())
    changed = [name for name in after if name not in before or not torch.equal(after[name], before[name])]
    if any(not name.endswith(".bias") or name not in before for name in changed):
        raise InputError(f"the family {model.family.name} bakes a scale into more than biases; use --format diffusers")
    added = {name: (after[name].cpu().double() - before[name].cpu().double()).detach().float() for name in changed}
    return {name.removesuffix(".bias"): value for name, value in added.items()}


def _with_biases(lora: dict[str, Tensor], biases: dict[str, Tensor], model: Model, component: str) -> dict[str, Tensor]:
    """diffusers' names, each adapter with a bias (PEFT has it for all or for none), those of a scale with what it adds."""
    made, weights = dict(lora), dict(model.denoiser.network.named_parameters())
    named = {name.rpartition(".lora_")[0] for name in lora} | set(biases)
    ends = tuple(f".{name}" for name in named)  # diffusers looks for adapters in all layers whose names end so (HunyuanVideo)
    alike = [name.removesuffix(".weight") for name in weights if name.removesuffix(".weight").endswith(ends)]
    for module in (*biases, *alike):
        if f"{module}.lora_A.weight" not in made:  # a bias comes with an adapter: one that is zero
            rows, columns = weights[f"{module}.weight"].shape[:2]
            made[f"{module}.lora_A.weight"], made[f"{module}.lora_B.weight"] = torch.zeros(1, columns), torch.zeros(rows, 1)
    for module in [name.removesuffix(".lora_B.weight") for name in made if name.endswith(".lora_B.weight")]:
        made[f"{module}.lora_B.bias"] = biases.get(module, torch.zeros(len(made[f"{module}.lora_B.weight"])))
    return {f"{component}.{name}": value for name, value in made.items()}


def _kohya(lora: dict[str, Tensor], biases: dict[str, Tensor]) -> dict[str, Tensor]:
    """kohya's names: modules without dots, `alpha` so that the adapter counts once, and what a scale adds to a bias as `diff_b`."""
    made: dict[str, Tensor] = {}
    for name, value in lora.items():
        module, _, which = name.removesuffix(".weight").rpartition(".")
        start = f"lora_unet_{module.replace('.', '_')}"
        made[f"{start}.{'lora_down' if which == 'lora_A' else 'lora_up'}.weight"] = value
        if which == "lora_A":
            made[f"{start}.alpha"] = torch.tensor(float(len(value)))
    return made | {f"lora_unet_{module.replace('.', '_')}.diff_b": value for module, value in biases.items()}
