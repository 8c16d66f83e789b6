"""UNets that predict a variance besides, run by stock pipelines that give them no w: DeepFloyd IF, Kandinsky.

Of the output the first half of the channels counts. Students have `time_cond_proj_dim`, and their stock pipelines run them with a
scale baked in. A student's folder has its network in `student/` in place of `unet/`, so that no stock pipeline runs it without w.
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.parameterization import Prediction
from fewstep.method.process import Process
from fewstep.models.families.prompts import Prompts
from fewstep.models.families.unet import UNet, evaluate


class LearnedVariance(UNet, Prompts):
    """The part of `Family` that follows from such a network."""

    stock_takes_w = False
    inputs = 1  # how many pictures the network takes, next to each other in its channels

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, or one without a variance."""
        super().check(folder, config)
        taken, made = config["in_channels"], config["out_channels"]
        if 2 * taken != self.inputs * made:
            raise InputError(
                f"{folder}: the network takes {taken} channels and gives {made}; {self.pipelines[0]} needs one that gives "
                f"{2 * taken // self.inputs}, half of them a variance"
            )

    def channels(self, config: dict[str, Any]) -> int:
        """How many are denoised: those of the output without the variance."""
        return config["out_channels"] // 2

    def scheduler(self, process: Process, prediction: Prediction) -> Any:
        """Ours, which says that the variance is not the network's, so that the stock pipeline leaves it out."""
        made = super().scheduler(process, prediction)
        made.register_to_config(variance_type="fixed_small")
        return made


def first_half(network: nn.Module, z: Tensor, time: Tensor, text: Tensor | None, w: Tensor | None, **named: Any) -> Tensor:
    """The output (b, c, h, w) of an evaluation, without the variance (b, 2 c, h, w)."""
    return evaluate(network, z, time, text, w, **named).chunk(2, dim=1)[0]
