"""Whether a model folder, opened by diffusers alone, gives the samples that we give. A folder is complete before it is asked."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import first_line
from fewstep.method.conditioning import to
from fewstep.method.guidance import weight_of
from fewstep.method.samplers import deterministic
from fewstep.models.model import Model

# largest difference between our samples, of the weights in memory, and stock diffusers', of those in the folder, by the dtype there;
# usual are TOLERANCES
AGREEMENT = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 2e-1}


def compared(model: Model, folder: Path) -> dict[str, Any]:
    """What `fewstep.json` says of stock diffusers' samples: their largest "difference" from ours, relative to the samples' size, the
    "tolerance" that fits the "dtype" of the folder's weights, and whether it "agrees"; {"failed": why} where there are none.

    Nothing is made of a family that diffusers does not know. A warning with the figures says that they do not agree.
    """
    dtype = model.family.stored_dtype(folder)
    try:
        difference = difference_of(model, folder)
    except Exception as error:  # of whatever kind: the folder is there, and what it cost must not be lost
        warnings.warn(
            f"{folder} is saved, but stock diffusers could not sample from it to compare: {first_line(error)}", stacklevel=3
        )
        return {"failed": first_line(error)}
    if difference is None:
        return {}
    found = {
        "difference": difference,
        "tolerance": AGREEMENT[dtype],
        "dtype": str(dtype).removeprefix("torch."),
        "agrees": difference <= AGREEMENT[dtype],
    }
    if not found["agrees"]:
        warnings.warn(
            f"{folder} is saved, but stock diffusers' samples from it differ from ours by {difference:.2g} (at most {AGREEMENT[dtype]:g} is "
            f"right for {found['dtype']}): do not rely on it outside fewstep, and report it",
            stacklevel=3,
        )
    return found


@torch.no_grad()
def difference_of(model: Model, folder: Path) -> float | None:
    """The largest difference between our samples and those of stock diffusers from the same noise; None where it knows no such network."""
    info, known = model.info, model.denoiser.process.train_timesteps
    steps = info.steps if info.steps and info.steps < 4 and known % info.steps == 0 else 4  # stock DDIM is exact where N divides T
    z = torch.randn(2, *info.shape, generator=torch.Generator().manual_seed(0)).to(model.denoiser.device)
    condition = to(model.example(2), z.device)
    w = weight_of(torch.tensor(info.guidance_scale, device=z.device)) if info.takes_w and info.guidance_scale else None

    def stock_on(device: torch.device) -> Tensor | None:
        there = None if w is None else w.to(device)
        return model.family.stock_sample(folder, z.to(device), steps, to(condition, device), there)

    try:
        stock = stock_on(z.device)
    except torch.OutOfMemoryError:  # the device holds the training
        stock = stock_on(torch.device("cpu"))
    if stock is None:
        return None
    ours = deterministic(model.denoiser, z, steps, condition, w, model.denoiser.process)
    difference = (ours - stock.to(ours)).abs().max() / ours.abs().max().clamp(min=1)
    return float(difference.nan_to_num(torch.inf))
