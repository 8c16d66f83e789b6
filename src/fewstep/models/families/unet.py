"""UNet2DConditionModel as a network that takes w: through `time_cond_proj_dim`, into the time embedding, additively."""

from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.guidance import embed_w, weight_of
from fewstep.method.process import to_float64
from fewstep.models.families.diffusers_family import DiffusersFamily

EMBEDDING_SIZE = 256  # of w: what latent-consistency models use, so that their tools read it
W_WEIGHT, BIAS = "time_embedding.cond_proj.weight", "time_embedding.linear_1.bias"


def embedded_w(w: Tensor | None, z: Tensor) -> Tensor | None:
    """What the network takes as `timestep_cond` (b, 256) for w (b,)."""
    return None if w is None else embed_w(w, EMBEDDING_SIZE).to(z.dtype)


def evaluate(network: nn.Module, z: Tensor, time: Tensor, text: Tensor | None, w: Tensor | None, **named: Any) -> Tensor:
    """The output (b, c, h, w) at timesteps `time` (b,), for hidden states of text and w (b,), or None."""
    return network(z, time, text, timestep_cond=embedded_w(w, z), return_dict=False, **named)[0]


class UNet(DiffusersFamily):
    """The part of `Family` that follows from a UNet2DConditionModel called `unet`."""

    network_type = "UNet2DConditionModel"
    time_embedding = "time_embedding.linear_2"
    stock_takes_w = True

    def student_of(self, network: nn.Module) -> UNet2DConditionModel:
        """The same network and weights with an input for w, its layer zero.

        Raises:
            InputError: the network takes w already: it is a student.
        """
        assert isinstance(network, UNet2DConditionModel)
        if network.config["time_cond_proj_dim"] is not None:
            raise InputError(
                "this model takes a guidance weight already (time_cond_proj_dim is set): it is a student; name its teacher"
            )
        return _rebuilt(network, EMBEDDING_SIZE, network.state_dict())

    @torch.no_grad()
    def bake(self, network: nn.Module, guidance_scale: float) -> UNet2DConditionModel:
        """A plain network of one scale: w is additive, so it goes into a bias, exactly."""
        assert isinstance(network, UNet2DConditionModel)
        weights = dict(network.state_dict())
        projection = to_float64(weights.pop(W_WEIGHT))
        w = to_float64(embed_w(torch.tensor([weight_of(float(guidance_scale))], device=projection.device), EMBEDDING_SIZE))
        linear, bias = to_float64(weights["time_embedding.linear_1.weight"]), weights[BIAS]
        weights[BIAS] = (to_float64(bias) + linear @ (projection @ w[0])).to(bias.dtype)
        return _rebuilt(network, None, weights)


def _rebuilt(network: UNet2DConditionModel, size: int | None, weights: dict[str, Tensor]) -> UNet2DConditionModel:
    """A network of the same config but for `time_cond_proj_dim`, with these weights, zero where there is none, in evaluation mode."""
    made = UNet2DConditionModel.from_config(network.config, time_cond_proj_dim=size)
    assert isinstance(made, UNet2DConditionModel)
    missing, unexpected = made.load_state_dict(weights, strict=False)
    assert missing == ([] if size is None else [W_WEIGHT]) and not unexpected, (missing, unexpected)
    if size is not None:
        nn.init.zeros_(made.get_parameter(W_WEIGHT))
    parameter = next(network.parameters())
    nn.Module.to(made.eval(), parameter.device, parameter.dtype)
    return made
