"""DiT: class labels in every block's time embedding, latents of a VAE; w is added to the time embedding, scales are baked into labels."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.method.parameterization import Prediction
from fewstep.method.process import Process, to_float64
from fewstep.models.families.added_embedding import AddedEmbedding, given
from fewstep.models.families.labelled import Labelled
from fewstep.models.families.pipeline_folder import check_fit, config_of, index_of


class DiT(Labelled, AddedEmbedding):
    """A condition is labels (b,); the label after the last, 1000 for ImageNet, is none."""

    name, network_type, pipelines = "dit", "DiTTransformer2DModel", ("DiTPipeline",)
    time_embedding = "transformer_blocks.*.norm1.emb.timestep_embedder.linear_2"  # the output layer takes that of the first block
    names: tuple[str, ...] = ()  # of the labels, where they are other than the folder's

    def labels(self, config: dict[str, Any]) -> int:
        """How many labels the network takes: DiT counts its classes, without that of none."""
        classes = config.get("num_embeds_ada_norm")
        return classes + 1 if classes else 0

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a network that takes no class, or a VAE of another model."""
        super().check(folder, config)
        check_fit(folder, "the VAE's channels", config_of(folder, "vae").get("latent_channels"), config["in_channels"])

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

    def stock_call(self, pipeline: Any, z: Tensor, condition: Tensor, settings: dict[str, Any]) -> Tensor:
        """Samples of the pipeline's network and scheduler, in its own loop: the pipeline itself takes no noise."""
        pipeline.scheduler.set_timesteps(settings["num_inference_steps"])
        for timestep in pipeline.scheduler.timesteps:
            output = self.call(pipeline.transformer, z, timestep.expand(len(z)).to(z.device), condition, None)
            z = pipeline.scheduler.step(output, timestep, z, return_dict=False)[0]
        return z

    def with_classes(self, names: tuple[str, ...]) -> "DiT":
        """The family of a network whose labels are called otherwise than the folder says."""
        made = copy.copy(self)
        made.names = names
        return made

    @torch.no_grad()
    def bake_scales(self, network: Any, scales: Sequence[float]) -> nn.Module:
        """A plain copy of a student whose label k C + c is class c at scales[k]; the null label stays last."""
        made: Any = copy.deepcopy(self.stock_network(network))
        classes = network.config["num_embeds_ada_norm"]
        made.register_to_config(num_embeds_ada_norm=classes * len(scales))
        for block in made.transformer_blocks:
            embedder = block.norm1.emb.class_embedder
            rows = embedder.embedding_table.weight
            table = [to_float64(rows[:classes]) + network.w_embedding.of(scale) for scale in scales]
            embedder.embedding_table = nn.Embedding.from_pretrained(torch.cat([*table, to_float64(rows[classes:])]).to(rows.dtype))
            embedder.num_classes = classes * len(scales)
        return made


def names_at_scales(classes: Sequence[str], scales: Sequence[float]) -> tuple[str, ...]:
    """The names of the labels k C + c: "owl at 2.5"; a class may have several with commas between, each of which the stock pipeline takes."""
    return tuple(", ".join(f"{one.strip()} at {scale:g}" for one in name.split(",")) for scale in scales for name in classes)
