"""Whether a model folder, opened by diffusers alone, gives the samples that we give."""

from pathlib import Path

import torch

from fewstep.method.conditioning import to
from fewstep.method.guidance import weight_of
from fewstep.method.samplers import deterministic
from fewstep.models.model import Model

AGREEMENT = 1e-3  # largest difference between our samples and stock diffusers' that a save accepts; about 1e-6 is usual


@torch.no_grad()
def check_agreement(model: Model, folder: Path) -> float:
    """The largest difference between our samples and those of stock diffusers from the same noise, as the folder stands.

    Raises:
        RuntimeError: it is above `AGREEMENT`.
    """
    info, known = model.info, model.denoiser.process.train_timesteps
    steps = info.steps if info.steps and info.steps < 4 and known % info.steps == 0 else 4  # stock DDIM is exact where N divides T
    z = torch.randn(2, *info.shape, generator=torch.Generator().manual_seed(0)).to(model.denoiser.device)
    condition = to(model.example(2), z.device)
    w = weight_of(torch.tensor(info.guidance_scale, device=z.device)) if info.takes_w and info.guidance_scale else None
    stock = model.family.stock_sample(folder, z, steps, condition, w)
    if stock is None:
        return 0.0
    ours = deterministic(model.denoiser, z, steps, condition, w, model.denoiser.process)
    difference = float((ours - stock).abs().max() / ours.abs().max().clamp(min=1))
    if not difference <= AGREEMENT:
        raise RuntimeError(
            f"stock diffusers' samples from {folder} differ from ours by {difference:.2g} (at most {AGREEMENT:g} is right)"
        )
    return difference
