"""DiT: class labels in every block's time embedding, latents of a VAE; w is added to the time embedding, scales are baked into labels."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition
from fewstep.method.parameterization import Prediction
from fewstep.method.process import Process, to_float64
from fewstep.models.families.added_embedding import AddedEmbedding, check_fit, given, inputs_of, plain
from fewstep.models.families.labelled import Labelled
from fewstep.models.families.schedulers import load_scheduler
from fewstep.models.families.stock import config_of, index_of

if TYPE_CHECKING:
    from fewstep.models.model import Model


class DiT(AddedEmbedding, Labelled):
    """A condition is labels (b,); the label after the last, 1000 for ImageNet, is none."""

    name = "dit"
    pipelines: tuple[str, ...] = ("DiTPipeline",)
    names: tuple[str, ...] = ()  # of the labels, where they are other than the folder's

    def network_class(self) -> Any:
        """The stock class of the network."""
        from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

        return DiTTransformer2DModel

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a network that takes no class, or a VAE of another model."""
        super().check(folder, _labels_in(config))
        check_fit(folder, "the VAE's channels", config_of(folder, "vae").get("latent_channels"), config["in_channels"])

    def classes(self, folder: Path, config: dict[str, Any]) -> tuple[str, ...]:
        """Their names, from `id2label` in model_index.json where it is, else their numbers."""
        return super().classes(folder, _labels_in(config))

    def shape(self, folder: Path, config: dict[str, Any]) -> tuple[int, int, int | None]:
        """(channels, size) of the latents, without the channels of a learned sigma, and the size of the picture."""
        return super().shape(folder, inputs_of(config))

    def time_embedding_outputs(self, network: Any) -> list[nn.Linear]:
        """The end of each block's time embedder; the output layer takes that of the first block."""
        return [block.norm1.emb.timestep_embedder.linear_2 for block in network.transformer_blocks]

    def call(self, network: nn.Module, z: Tensor, time: Tensor, condition: Tensor, w: Tensor | None) -> Tensor:
        """The output (b, c, h, w) at timesteps `time` (b,), for labels (b,); a learned sigma is left out."""
        return network(z, timestep=time, class_labels=condition, return_dict=False, **given(w))[0][:, : z.shape[1]]

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write the whole pipeline, with the names of the classes, which the stock pipeline reads but does not write."""
        super().write(network, process, prediction, folder)
        assert self.folder is not None
        names = {str(i): name for i, name in enumerate(self.names)} or index_of(self.folder).get("id2label")
        if names:
            index = json.dumps(index_of(folder) | {"id2label": names}, indent=2) + "\n"
            (folder / "model_index.json").write_text(index, encoding="utf-8")

    @torch.no_grad()
    def stock_run(self, folder: Path, network: Any, z: Tensor, steps: int, condition: Condition) -> Tensor:
        """Samples from noise z (b, ...) by the folder's network and scheduler, in the loop of the stock pipeline, which takes no noise."""
        network, scheduler = network.to(z.device), load_scheduler(folder)
        scheduler.set_timesteps(steps)
        for timestep in scheduler.timesteps:
            output = network(z, timestep=timestep.expand(len(z)).to(z.device), class_labels=condition, return_dict=False)[0]
            z = scheduler.step(output[:, : z.shape[1]], timestep, z, return_dict=False)[0]
        return z


def scales_as_labels(model: "Model", scales: Sequence[float]) -> "Model":
    """A plain model of several scales: with C classes its label k C + c is class c at scales[k].

    The stock pipeline runs its folder with `class_labels=[k * C + c], guidance_scale=1`, or with the names "owl at 2.5".

    Raises:
        InputError: not a DiT student with an input for w, or a scale outside its range.
    """
    if not (isinstance(model.family, DiT) and model.info.takes_w):
        raise InputError("only a DiT student that takes a guidance scale can have scales made into labels; name such a student")
    low, high = model.info.guidance_scale or (-float("inf"), float("inf"))
    if wrong := [scale for scale in scales if not low <= scale <= high]:
        raise InputError(
            f"guidance_scale {wrong[0]:g} is outside the range {low:g} to {high:g} that this student was trained for; name others"
        )
    family, classes = copy.copy(model.family), model.info.classes
    family.names = tuple(_named(name, scale) for scale in scales for name in classes)
    info = model.info.model_copy(update={"baked": True, "guidance_scale": None, "classes": family.names})
    denoiser = replace(model.denoiser, network=widened(model.denoiser.network, scales), null=len(family.names), call=family.call)
    return replace(model, denoiser=denoiser, info=info, family=family)


@torch.no_grad()
def widened(network: Any, scales: Sequence[float]) -> nn.Module:
    """A plain copy of a student whose label k C + c says what the student says of class c at scales[k]; the null label stays last."""
    made, classes = copy.deepcopy(plain(network)), network.config["num_embeds_ada_norm"]
    made.register_to_config(num_embeds_ada_norm=classes * len(scales))  # pyright: ignore[reportCallIssue]
    for block in made.transformer_blocks:  # pyright: ignore[reportGeneralTypeIssues]
        embedder = block.norm1.emb.class_embedder
        rows = embedder.embedding_table.weight
        table = [to_float64(rows[:classes]) + network.w_embedding.of(scale) for scale in scales]
        embedder.embedding_table = nn.Embedding.from_pretrained(torch.cat([*table, to_float64(rows[classes:])]).to(rows.dtype))
        embedder.num_classes = classes * len(scales)
    return made


def _labels_in(config: dict[str, Any]) -> dict[str, Any]:
    # DiT counts its classes, the other networks their labels: those and the null one
    count = config.get("num_embeds_ada_norm")
    return {"num_class_embeds": count and count + 1}


def _named(name: str, scale: float) -> str:
    # a class may have several names with commas between, each of which the stock pipeline takes
    return ", ".join(f"{one.strip()} at {scale:g}" for one in name.split(","))
