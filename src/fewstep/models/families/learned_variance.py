"""UNets that predict a variance besides, run by stock pipelines that do not tell them w: DeepFloyd IF, Kandinsky.

Of the output the first half of the channels counts. Students have `time_cond_proj_dim`, and their stock pipelines run them with a
scale baked in. A student's folder has its network in `student/` in place of `unet/`, so that no stock pipeline runs it without w.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition, take
from fewstep.method.guidance import scale_of
from fewstep.method.parameterization import Prediction
from fewstep.method.process import Process
from fewstep.models.families.added_embedding import STUDENT
from fewstep.models.families.stock import Stock, config_of, quiet
from fewstep.models.families.unet import baked_unet, check_teacher, student_unet


class LearnedVariance(Stock):
    """The part of `Family` that follows from such a network; `stock_call` is missing here."""

    inputs = 1  # how many pictures the network takes, next to each other in its channels

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, or one without a variance."""
        check_teacher(config, folder)
        taken, said = config["in_channels"], config["out_channels"]
        if 2 * taken != self.inputs * said:
            raise InputError(
                f"{folder}: the network takes {taken} channels and gives {said}; {self.pipelines[0]} needs one that gives "
                f"{2 * taken // self.inputs}, half of them a variance"
            )

    def shape(self, folder: Path, config: dict[str, Any]) -> tuple[int, int, int | None]:
        """As in `Stock`, without the variance."""
        return super().shape(folder, config | {"out_channels": config["out_channels"] // 2})

    def config(self) -> dict[str, Any]:
        """The network's config, in the folder of a teacher or of a student."""
        assert self.folder is not None
        return config_of(self.folder, STUDENT if (self.folder / STUDENT).is_dir() else self.component)

    def open(self, folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> Any:
        """The network of a folder, in evaluation mode."""
        if not (folder / STUDENT).is_dir():
            return super().open(folder, dtype, variant)
        with quiet():
            settings: dict[str, Any] = {"use_safetensors": True, "low_cpu_mem_usage": False, "torch_dtype": dtype}
            return self.network_class().from_pretrained(folder, subfolder=STUDENT, **settings).eval()

    def student_of(self, network: nn.Module) -> nn.Module:
        """The same network with an input for w that is zero."""
        return student_unet(network)

    def bake(self, network: nn.Module, guidance_scale: float) -> nn.Module:
        """A plain network of one scale."""
        return baked_unet(network, guidance_scale)

    def scheduler(self, process: Process, prediction: Prediction) -> Any:
        """Ours, which says that the variance is not the network's, so that the stock pipeline leaves it out."""
        made = super().scheduler(process, prediction)
        made.register_to_config(variance_type="fixed_small")
        return made

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write the whole pipeline; a student's network under a name of its own."""
        super().write(network, process, prediction, folder)
        if config_of(folder, self.component)["time_cond_proj_dim"] is not None:
            os.rename(folder / self.component, folder / STUDENT)

    @torch.no_grad()
    def stock_sample(self, folder: Path, z: Tensor, steps: int, condition: Condition, w: Tensor | None) -> Tensor:
        """Samples from noise z (b, ...) by the stock pipeline, guidance off; of a student, with each example's scale baked in."""
        network, samples = self.open(folder), []
        parts: dict[str, Any] = dict.fromkeys(self.encoders) | {self.component: network}
        with quiet():
            pipeline = self.stock_class().from_pretrained(folder, use_safetensors=True, **parts).to(z.device)
            pipeline.set_progress_bar_config(disable=True)
            for i in range(len(z)):
                if w is not None:
                    pipeline.register_modules(**{self.component: self.bake(network, float(scale_of(w[i])))})
                row = take(condition, slice(i, i + 1))
                assert isinstance(row, dict)
                settings = {"num_inference_steps": steps, "guidance_scale": 1.0, "return_dict": False}
                samples.append(self.stock_call(pipeline, z[i : i + 1], row, settings)[0])
        return torch.cat(samples)

    def stock_class(self) -> Any:
        """The stock pipeline that runs the network, of what the folder holds."""
        return self.pipeline_class()

    def stock_call(self, pipeline: Any, z: Tensor, condition: dict[str, Tensor], settings: dict[str, Any]) -> Any:
        """What the stock pipeline gives from noise z (1, ...) for a condition of one row: samples, unscaled, and more."""
        raise NotImplementedError


def first_half(output: Tensor) -> Tensor:
    """The output (b, c, h, w) without the variance (b, 2 c, h, w)."""
    return output.chunk(2, dim=1)[0]
