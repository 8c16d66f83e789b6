"""Networks of diffusers that have no input for w: an embedding of w is added to what their time embedders give.

For a family whose stock network knows nothing of w (DiT, PixArt, SD3, Qwen-Image, Wan, ...): subclass `AddedEmbedding` in place of
`Stock`, say in `entrances(network)` which linear layers end its time embedders, and call the network in `call` with `**given(w)`:

    class Mine(AddedEmbedding):
        component = "transformer"

        def entrances(self, network):
            return [network.time_text_embed.timestep_embedder.linear_2]

        def call(self, network, z, time, condition, w):
            return network(z, timestep=time, encoder_hidden_states=condition["text"], return_dict=False, **given(w))[0]

The student is an instance of the stock class with its state dict and one layer more, `w_embedding.weight`, zero at first. Since w
is added to the output of a linear layer, a scale is baked into that layer's bias, exactly. A student's folder has its network in
`student/` in place of `transformer/`, with the layer for w in a file of its own, so that no stock pipeline runs it by mistake without w.
"""

import copy
import inspect
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition, take
from fewstep.method.guidance import embed_w, scale_of, weight_of
from fewstep.method.parameterization import Prediction
from fewstep.method.process import Process
from fewstep.models.families.added_layer import AddedLayer, add_to_bias, detached
from fewstep.models.families.stock import Stock, absent, config_of, quiet

EMBEDDING_SIZE = 256  # of w, as in a UNet's students
STUDENT = "student"  # the folder of a student's network
WEIGHTS = "w_embedding.safetensors"  # in it: the layer for w


def given(w: Tensor | None) -> dict[str, Tensor]:
    """The argument by which a student's network takes w (b,): none for a teacher, whose network does not know it."""
    return {} if w is None else {"w": w}


class WEmbedding(AddedLayer):
    """The layer of the embedded w."""

    argument, member = "w", "w_embedding"

    def __init__(self, features: int, **where: Any) -> None:
        super().__init__(EMBEDDING_SIZE, features, **where)

    def embedded(self, told: Tensor) -> Tensor:
        """Of w (b,), what the UNets' students take."""
        return embed_w(told, EMBEDDING_SIZE)

    def of(self, guidance_scale: float) -> Tensor:
        """What is added at one scale, float64 (features,)."""
        return self.constant(torch.tensor([weight_of(float(guidance_scale))]))


class AddedEmbedding(Stock):
    """The part of `Family` that follows from `time_embedding_outputs`."""

    component = "transformer"

    def time_embedding_outputs(self, network: Any) -> list[nn.Linear]:
        """The linear layers that end the network's time embedders, all of one width."""
        raise NotImplementedError

    def student_of(self, network: nn.Module) -> nn.Module:
        """A copy with an input for w that is zero.

        Raises:
            InputError: the network takes w already: it is a student.
        """
        if hasattr(network, "w_embedding"):
            raise InputError("this model takes a guidance weight already (w_embedding): it is a student; name its teacher")
        return self._with_w(copy.deepcopy(network))

    def bake(self, network: nn.Module, guidance_scale: float) -> nn.Module:
        """A plain copy of the student `network`, of one scale."""
        return copy.deepcopy(self._baked(network, guidance_scale))

    def open(self, folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> Any:
        """The network of a folder, in evaluation mode, with its layer for w if it is a student's."""
        if not (folder / STUDENT).is_dir():
            return super().open(folder, dtype, variant)
        settings: dict[str, Any] = {"use_safetensors": True, "low_cpu_mem_usage": self.low_cpu_mem_usage, "torch_dtype": dtype}
        with quiet():
            network = self._with_w(self.network_class().from_pretrained(folder, subfolder=STUDENT, **settings))
        network.w_embedding.load_state_dict(load_file(folder / STUDENT / WEIGHTS))
        return network

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write the whole pipeline; a student's network under a name of its own."""
        if not hasattr(network, "w_embedding"):
            super().write(network, process, prediction, folder)
            return
        super().write(plain(network), process, prediction, folder)
        os.rename(folder / self.component, folder / STUDENT)
        added = {name: value.contiguous() for name, value in network.get_submodule("w_embedding").state_dict().items()}
        save_file(added, folder / STUDENT / WEIGHTS, {"format": "pt"})

    @torch.no_grad()
    def stock_sample(self, folder: Path, z: Tensor, steps: int, condition: Condition, w: Tensor | None) -> Tensor:
        """Samples from noise z (b, ...) by the stock pipeline; of a student, with each example's scale baked in."""
        if w is None:
            return self.stock_run(folder, self.open(folder), z, steps, condition)
        network, samples = self.open(folder), []
        for i in range(len(z)):
            baked = self._baked(network, float(scale_of(w[i])))
            samples.append(self.stock_run(folder, baked, z[i : i + 1], steps, take(condition, slice(i, i + 1))))
        return torch.cat(samples)

    def stock_run(self, folder: Path, network: nn.Module, z: Tensor, steps: int, condition: Condition) -> Tensor:
        """Samples from noise z (b, ...) by the folder's stock pipeline with a plain network, guidance off, one call an example."""
        with quiet():
            parts: dict[str, Any] = absent(folder) | {self.component: network}
            pipeline = self.pipeline_class().from_pretrained(folder, use_safetensors=True, **parts).to(z.device)
            pipeline.set_progress_bar_config(disable=True)
            settings, samples = self.stock_settings(folder, pipeline, steps), []
            for i in range(len(z)):
                chosen = self.stock_arguments(take(condition, slice(i, i + 1)), pipeline) | settings
                latents = self.stock_latents(z[i : i + 1], pipeline)
                samples.append(pipeline(**chosen, **latents, output_type="latent", return_dict=False)[0])
        return torch.cat(samples)

    def stock_settings(self, folder: Path, pipeline: Any, steps: int) -> dict[str, Any]:
        """With what the stock pipeline takes so many of our steps, without guidance."""
        return {"num_inference_steps": steps, "guidance_scale": 1.0}

    def _with_w(self, network: Any) -> Any:
        time_embedding_outputs = self.time_embedding_outputs(network)
        weight = time_embedding_outputs[0].weight
        made = WEmbedding(time_embedding_outputs[0].out_features, device=weight.device, dtype=weight.dtype)
        made.attach(network.eval(), time_embedding_outputs)
        return network

    def _baked(self, network: Any, guidance_scale: float) -> nn.Module:
        made = plain(network)
        add_to_bias(self.time_embedding_outputs(made), network.w_embedding.of(guidance_scale))
        return made


def plain(network: nn.Module) -> nn.Module:
    """The stock network of a student, its layer for w left out; it shares all weights with the student."""
    return detached(network, WEmbedding.member)


def inputs_of(config: dict[str, Any]) -> dict[str, Any]:
    """A network's config, what it says of the channels of its output being those of its input: a learned sigma is no part of a sample."""
    return config | {"out_channels": config["in_channels"]}


def tokens_of(pipeline: Any) -> int:
    """How many tokens of a prompt a stock pipeline, or its class, reads unless told otherwise."""
    return inspect.signature(pipeline.encode_prompt).parameters["max_sequence_length"].default


def check_guided(folder: Path) -> None:
    """Raises InputError where the scheduler is one for distilled networks alone."""
    name = config_of(folder, "scheduler").get("_class_name", "")
    if "LCM" in name or "TCD" in name:
        raise InputError(f"{folder} is distilled already ({name}): it has no unguided branch to learn from; name its teacher")


def check_fit(folder: Path, what: str, gives: Any, takes: Any) -> None:
    """Raises InputError where what a part gives is not what the network takes."""
    if gives != takes:
        raise InputError(f"{folder}: {what} are {gives}, the network takes {takes}; they do not belong together")
