"""UNet2DConditionModel as a network that takes w: through `time_cond_proj_dim`, into the time embedding, additively."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.guidance import embed_w, weight_of
from fewstep.method.process import to_float64

EMBEDDING_SIZE = 256  # of w: what latent-consistency models use, so that their tools read it
ENTRANCE = "time_embedding.cond_proj.weight"


def embedded_w(w: Tensor | None, z: Tensor) -> Tensor | None:
    """What the network takes as `timestep_cond` (b, 256) for w (b,)."""
    return None if w is None else embed_w(w, EMBEDDING_SIZE).to(z.dtype)


def check_teacher(config: dict[str, Any], folder: Path) -> None:
    """Raises InputError where the network takes a guidance weight already."""
    if config.get("time_cond_proj_dim") is not None:
        raise InputError(
            f"{folder} is guidance-distilled already (time_cond_proj_dim is set): it has no unguided branch to learn from; name its teacher"
        )


def student_unet(network: nn.Module) -> UNet2DConditionModel:
    """The same network and weights with an input for w, its layer zero.

    Raises:
        InputError: the network takes w already: it is a student.
    """
    assert isinstance(network, UNet2DConditionModel)
    if network.config["time_cond_proj_dim"] is not None:
        raise InputError(
            "this model takes a guidance weight already (time_cond_proj_dim is set): it is a student; name its teacher"
        )
    student = UNet2DConditionModel.from_config(network.config, time_cond_proj_dim=EMBEDDING_SIZE)
    assert isinstance(student, UNet2DConditionModel)
    missing, unexpected = student.load_state_dict(network.state_dict(), strict=False)
    assert missing == [ENTRANCE], missing
    assert not unexpected, unexpected
    nn.init.zeros_(student.get_parameter(ENTRANCE))
    return like(network, student)


@torch.no_grad()
def baked_unet(network: nn.Module, guidance_scale: float) -> UNet2DConditionModel:
    """A plain network that says what the student `network` says at one scale: w is additive, so it goes into a bias, exactly."""
    assert isinstance(network, UNet2DConditionModel)
    plain = UNet2DConditionModel.from_config(network.config, time_cond_proj_dim=None)
    assert isinstance(plain, UNet2DConditionModel)
    weights = dict(network.state_dict())
    entrance = to_float64(weights.pop(ENTRANCE))
    w = to_float64(embed_w(torch.tensor([weight_of(float(guidance_scale))], device=entrance.device), EMBEDDING_SIZE))
    linear, bias = to_float64(weights["time_embedding.linear_1.weight"]), weights["time_embedding.linear_1.bias"]
    weights["time_embedding.linear_1.bias"] = (to_float64(bias) + linear @ (entrance @ w[0])).to(bias.dtype)
    plain.load_state_dict(weights)
    return like(network, plain)


def like(network: nn.Module, other: UNet2DConditionModel) -> UNet2DConditionModel:
    """`other` in evaluation mode, where and in the dtype that `network` is: a student is trained without dropout."""
    parameter = next(network.parameters())
    nn.Module.to(other.eval(), parameter.device, parameter.dtype)
    return other
