"""Wan 2.2 A14B: text to video by two networks, one for the early times and one for the late ones; each is a student's, with its own input for w.

The stock pipeline gives timesteps from `boundary_ratio` (of the scheduler's 1000) on to `transformer`, those below to `transformer_2`. So does
`TwoNetworks`, example by example: a batch of a training stage has times on both sides. Both are trained, by the same stages.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.compat import kept_in_float32
from fewstep.errors import InputError
from fewstep.models.families.pipeline_folder import check_fit, config_of, has_part, index_of
from fewstep.models.families.wan import SECOND, Wan

TIMESTEPS = 1000  # of the scheduler


class TwoNetworks(nn.Module):
    """Two networks as one: each example goes to `transformer` where its timestep is at least `boundary`, else to `transformer_2`.

    Where several processes share the work, each evaluates both networks every time, one that has no example on one that is not counted:
    else processes that wait for one another's weights or gradients would not agree.
    """

    _supports_gradient_checkpointing = True  # diffusers' name, which is asked for

    def __init__(self, transformer: Any, transformer_2: Any, boundary: float) -> None:
        super().__init__()
        self.transformer, self.transformer_2, self.boundary = transformer, transformer_2, boundary
        self._keep_in_fp32_modules = kept_in_float32(transformer)

    @property
    def config(self) -> Any:
        """That of both networks."""
        return self.transformer.config

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether the blocks are computed again for the gradient."""
        return self.transformer.is_gradient_checkpointing

    def enable_gradient_checkpointing(self, *function: Any) -> None:
        """Compute the blocks of both again for the gradient."""
        for network in (self.transformer, self.transformer_2):
            network.enable_gradient_checkpointing(*function)

    def forward(self, timestep: Tensor, **inputs: Any) -> tuple[Tensor]:
        """The output (b, ...) in a tuple; `inputs` are the networks', tensors (b, ...) and whatever else."""
        if timestep.is_meta:  # costs are those of one network an example
            return (self.transformer(timestep=timestep, **inputs)[0],)
        together = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        early, output = timestep >= self.boundary, None
        for network, mine in ((self.transformer, early), (self.transformer_2, ~early)):
            rows = mine.nonzero()[:, 0]
            if not len(rows) and not together:
                continue
            asked = rows if len(rows) else rows.new_zeros(1)
            given = {name: value[asked] if isinstance(value, Tensor) else value for name, value in inputs.items()}
            made = network(timestep=timestep[asked], **given)[0]
            output = made.new_zeros(len(timestep), *made.shape[1:]) if output is None else output
            output = output.index_copy(0, rows, made) if len(rows) else output + 0 * made.sum()
        assert output is not None
        return (output,)


class WanTwo(Wan):
    """A condition is {"text" (b, tokens, features)}."""

    name = "wan_two"
    lora_files = False  # the stock pipeline loads a file into one of them

    def opens(self, pipeline: str, config: dict[str, Any]) -> bool:
        """Whether it opens the folder: one with two networks."""
        return pipeline in self.pipelines and has_part(self.folder, SECOND)

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError as for one network, for two that do not fit, and where the boundary between them is not said."""
        super().check(folder, config)
        other = config_of(folder, SECOND)
        for key in ("in_channels", "out_channels", "text_dim", "patch_size", "num_attention_heads", "attention_head_dim"):
            check_fit(folder, f"{key} of the second network", other.get(key), config.get(key))
        if not isinstance(ratio := index_of(folder).get("boundary_ratio"), float) or not 0 < ratio < 1:
            raise InputError(
                f"{folder}/model_index.json: boundary_ratio is {ratio}; write there where the second network begins, as 0.875"
            )

    def networks(self, network: nn.Module) -> list[Any]:
        """Both."""
        assert isinstance(network, TwoNetworks)
        return [network.transformer, network.transformer_2]

    def of(self, early: Any, late: Any) -> TwoNetworks:
        """Both as one, with the boundary of the model's folder."""
        assert self.folder is not None
        return TwoNetworks(early, late, TIMESTEPS * index_of(self.folder)["boundary_ratio"]).eval()

    def network_of(self, config: dict[str, Any]) -> nn.Module:
        """Both of one config, their weights not those of any model."""
        return self.of(super().network_of(config), super().network_of(config))

    def open(self, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
        """Both networks of a folder, in evaluation mode, with their layers for w if they are a student's."""
        early = self.network_folder(folder)
        late = early + SECOND.removeprefix(self.component)
        return self.of(self.open_part(folder, early, dtype), self.open_part(folder, late, dtype))

    def stock_parts(self, network: nn.Module) -> dict[str, Any]:
        """Both networks by their names in the stock pipeline."""
        return dict(zip((self.component, SECOND), self.networks(self.stock_network(network)), strict=True))
