"""What all families of diffusers pipelines share: a folder opened part by part, written whole, and sampled by its own pipeline."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition, take
from fewstep.method.guidance import scale_of
from fewstep.method.parameterization import Prediction
from fewstep.method.process import Process, process_settings
from fewstep.models.denoiser import check_finite
from fewstep.models.families import Family
from fewstep.models.families.pipeline_folder import (
    check_fit,
    check_guided,
    check_weights,
    components_of,
    config_of,
    dtype_of,
    has_part,
    naming_damage,
    quiet,
    set_token_limits,
    variants_of,
)  # fmt: skip
from fewstep.models.families.schedulers import process_of_scheduler, scheduler_of
from fewstep.models.families.unchanged_parts import bare_pipeline, write_parts
from fewstep.models.families.vae import decoded, encoded
from fewstep.models.half_weights import InFloat32
from fewstep.models.metadata import Info

STUDENT = "student"  # in place of `component`: a student's network that no stock pipeline may run, since none gives it w


class DiffusersFamily(Family):
    """The part of `Family` that follows from a pipeline folder."""

    network_type: str  # the diffusers class of the network
    autoencoder = "vae"  # the name of what makes latents, where the network denoises them
    stock_size_factor = ""  # the pixels of a latent, as the stock pipeline calls them, where it has to be given height and width
    stock_reads_autoencoder = False  # whether the stock pipeline takes numbers from the autoencoder to sample latents
    stock_takes_w = False  # whether the stock pipeline gives its guidance_scale to a student; else it runs baked ones
    lora_files = True  # whether its stock pipeline loads a LoRA into all that the network is
    unguided = 1.0  # the stock pipeline's guidance_scale at which it makes one evaluation a step
    pipeline_arguments: dict[str, str] = {}  # noqa: RUF012 - what the stock pipeline takes for a condition: its argument -> our leaf

    def __init__(self, folder: Path | None = None, variant: str | None = None) -> None:
        self.folder, self.variant = folder, variant
        self._loaded: dict[tuple[str, ...], Any] = {}

    def network_class(self) -> Any:
        """The diffusers class of the network."""
        import diffusers

        return getattr(diffusers, self.network_type)

    def pipeline_class(self) -> Any:
        """The diffusers class that students are saved as: the first of `pipelines`."""
        import diffusers

        with quiet():  # importing one has remarks to make
            return getattr(diffusers, self.pipelines[0])

    def network_config(self) -> dict[str, Any]:
        """The network's config in the model's folder, that of a teacher or of a student."""
        assert self.folder is not None
        return config_of(self.folder, self.network_folder(self.folder))

    def check_info(self, info: Info) -> None:
        """Raises InputError where the metadata in the model's folder do not fit the network there."""
        assert self.folder is not None
        check_fit(self.folder, "channels in fewstep.json", info.channels, self.channels(self.network_config()))

    def network_folder(self, folder: Path) -> str:
        """The name of the network's folder in a pipeline folder."""
        return STUDENT if (folder / STUDENT).is_dir() else self.component

    def describe(self, folder: Path) -> Info:
        """The facts of a teacher in a folder that `fewstep` did not write.

        Raises:
            InputError: distilled already, a scheduler without a process that we know, or parts that do not fit together.
        """
        config = config_of(folder, self.component)
        self.check(folder, config)
        channels, size, image_size = self.shape(folder, config)
        process, prediction = process_of_scheduler(self.scheduler_config(folder, config), self.tokens(folder, config))
        return Info(
            kind="teacher", family=self.name, prediction=prediction.name, process=process_settings(process), condition=self.condition,
            classes=self.classes(folder, config), size=size, channels=channels, image_size=image_size,
            latent_shape=None if len(set(sides := self.sides(folder, config))) == 1 and len(sides) == 2 else (channels, *sides),
            image_channels=None if image_size is None else int(config_of(folder, self.autoencoder).get("in_channels", 3)),
        )  # fmt: skip

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError where the folder is not a teacher that can be distilled; `config` is the network's."""
        check_guided(folder, config, force=self.force)

    def classes(self, folder: Path, config: dict[str, Any]) -> tuple[str, ...]:
        """The names of the classes, of a family that has them."""
        return ()

    def scheduler_config(self, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        """The config of the teacher's scheduler; with the shift written out where the stock pipeline decides it in a way of its own."""
        return config_of(folder, "scheduler")

    def tokens(self, folder: Path, config: dict[str, Any]) -> int | None:
        """How many tokens the network makes of an image, where its schedulers' shift depends on that."""
        return None

    def shape(self, folder: Path, config: dict[str, Any]) -> tuple[int, int, int | None]:
        """(channels, width) of what the network denoises, and the width of the picture that it stands for, None if it is the picture."""
        channels, width = self.channels(config), self.sides(folder, config)[-1]
        return channels, width, width * self.pixels_of_latent(folder) if has_part(folder, self.autoencoder) else None

    def sides(self, folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
        """(height, width) of what the network denoises.

        Raises:
            InputError: the config has none, or two that differ, of a family that is square alone.
        """
        given, where = config.get("sample_size"), f"{folder / self.component}/config.json: sample_size"
        sides = (given, given) if isinstance(given, int) else tuple(given or ())
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise InputError(f"{where} is {given}; write the side of what the network denoises there, as 64, or [height, width]")
        if sides[0] != sides[1] and not self.oblong:
            raise InputError(f"{where} is {list(sides)}; the family {self.name} has equal sides alone here: name another teacher")
        return sides

    def channels(self, config: dict[str, Any]) -> int:
        """How many channels are denoised."""
        return int(config["out_channels"])

    def pixels_of_latent(self, folder: Path) -> int:
        """How many pixels a latent stands for, along a side."""
        return 2 ** (len(config_of(folder, self.autoencoder)["block_out_channels"]) - 1)

    def open(self, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
        """The network of a folder, its weights in a dtype, in evaluation mode."""
        return self.open_part(folder, self.network_folder(folder), dtype)

    def open_part(self, folder: Path, part: str, dtype: torch.dtype) -> Any:
        """The network in one part of a folder, its weights in a dtype, in evaluation mode."""
        variant = self.variant if folder == self.folder and self.variant in variants_of(folder / part) else None
        with quiet():
            made, found = self.network_class().from_pretrained(
                folder, subfolder=part, variant=variant, use_safetensors=True, dtype=dtype, output_loading_info=True
            )
        if missing := found["missing_keys"]:  # diffusers makes them up, with a remark
            raise InputError(f"{folder / part} lacks {len(missing)} weights, as {min(missing)}: copy {folder} again")
        return made.eval()

    def stored_dtype(self, folder: Path | None = None) -> torch.dtype:
        """That of most of the network's weights in a folder, or in the model's own."""
        folder = folder or self.folder
        return torch.float32 if folder is None else dtype_of(folder / self.network_folder(folder), self.variant)

    def parts(self, *names: str) -> Any:
        """The stock pipeline with these components alone; loaded when first asked for, until `free`.

        Raises:
            InputError: the model has no folder, or its folder lacks one of them.
        """
        if names not in self._loaded:
            if self.folder is None or not all(has_part(self.folder, name) for name in names):
                raise InputError(f"this model's folder has no {' and '.join(names)}; name a whole pipeline folder")
            unused: dict[str, Any] = {name: None for name in components_of(self.folder) if name not in names}
            with quiet(), naming_damage(self.folder):
                unused |= {name: part for name, part in self.stand_ins().items() if name in unused}
                pipeline = self.pipeline_class().from_pretrained(self.folder, use_safetensors=True, variant=self.variant, **unused)
                check_weights(pipeline, self.folder)
                set_token_limits(pipeline)
            for name, part in pipeline.components.items():
                if isinstance(part, nn.Module):
                    check_finite(part, f"{self.folder / name}")
            self._loaded[names] = pipeline
        return self._loaded[names]

    def stand_ins(self) -> dict[str, Any]:
        """What the stock pipeline is given in place of parts, by their names, which it cannot be made without and which `parts` does not ask for."""
        return {}

    def autoencoder_on(self, device: torch.device) -> Any:
        """What makes latents, on a device."""
        return getattr(self.parts(self.autoencoder), self.autoencoder).to(device)

    def free(self) -> None:
        """Let go of the parts; they are loaded again when needed."""
        self._loaded = {}

    def load_shapes(self) -> int:
        """Have an autoencoder of shapes alone, by its config, until `free`; the bytes of its weights, 0 where there is none."""
        import diffusers

        if not self.latent or self.folder is None:
            return 0
        config = config_of(self.folder, self.autoencoder)
        with quiet(), torch.device("meta"):
            made = getattr(diffusers, config["_class_name"]).from_config(config).eval().to("meta")
        self._loaded[(self.autoencoder,)] = SimpleNamespace(**{self.autoencoder: made})
        return sum(p.numel() * p.element_size() for p in made.parameters())

    @property
    def latent(self) -> bool:
        """Whether the network denoises latents of a VAE."""
        return has_part(self.folder, self.autoencoder)

    def to_latents(self, x: Tensor) -> Tensor:
        """Latents of pictures x (n, c, h, w) in [-1, 1], the mode of the VAE's distribution; x itself where there is no VAE."""
        return encoded(self.autoencoder_on(x.device), x) if self.latent else x

    def to_images(self, z: Tensor) -> Tensor:
        """Pictures (n, c, h, w) in about [-1, 1] of latents; z itself where there is no VAE."""
        return decoded(self.autoencoder_on(z.device), z) if self.latent else z

    def scheduler(self, process: Process, prediction: Prediction) -> Any:
        """The stock scheduler with which the stock pipeline visits the times of our samplers."""
        return scheduler_of(process, prediction)

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write the whole pipeline: this network in its dtype, our scheduler, all other parts as they came (`unchanged_parts`).

        Raises:
            InputError: the folder that the other parts are in is not known.
        """
        if self.folder is None:
            raise InputError("the folder of this model's text encoder and VAE is not known; open the model with fewstep.open_model")
        networks = self.stock_parts(network)
        mine = networks | {"scheduler": self.scheduler(process, prediction)}
        hidden = not self.stock_takes_w and self.takes_w(network)
        names = {name: STUDENT + name.removeprefix(self.component) for name in networks} if hidden else {}
        write_parts(self.folder, folder, self.variant, self.pipeline_class(), mine)
        with quiet():
            for name, part in mine.items():
                shards = {"max_shard_size": self.max_shard_size} if name in networks else {}
                part.save_pretrained(folder / names.get(name, name), **shards)

    def stock_network(self, network: nn.Module) -> nn.Module:
        """The network as diffusers writes it, sharing its weights."""
        return network

    def stock_parts(self, network: nn.Module) -> dict[str, Any]:
        """The components of the stock pipeline that the network is, by their names, as diffusers writes them."""
        return {self.component: self.stock_network(network)}

    def takes_w(self, network: Any) -> bool:
        """Whether the network is a student's, with an input for w."""
        return network.config.get("time_cond_proj_dim") is not None

    @torch.no_grad()
    def stock_sample(self, folder: Path, z: Tensor, steps: int, condition: Condition, w: Tensor | None) -> Tensor:
        """Samples from noise z (b, ...) by the folder's stock pipeline, one call an example, since a call has one scale.

        The pipeline has the folder's network and scheduler, and of its VAE the shapes; what encodes prompts is not needed. Where it
        gives no scale to the network, each example's is baked in.
        """
        baked, samples = w is not None and not self.stock_takes_w, []
        network = self.open(folder, self.stored_dtype(folder)).to(z.device)
        with quiet(), InFloat32():
            parts = self.stock_parts(network)
            if self.stock_reads_autoencoder:
                parts[self.autoencoder] = self.autoencoder_on(z.device)
            pipeline = bare_pipeline(self.sampling_class(), folder, parts, self.autoencoder)
            settings = self.stock_settings(folder, pipeline, steps)
            for i in range(len(z)):
                scale = 1.0 if w is None else float(scale_of(w[i]))
                if baked:
                    pipeline.register_modules(**self.stock_parts(self.bake(network, scale)))
                row, settings["guidance_scale"] = take(condition, slice(i, i + 1)), self.unguided if baked or w is None else scale
                samples.append(self.stock_call(pipeline, z[i : i + 1], row, settings))
        return torch.cat(samples)

    def sampling_class(self) -> Any:
        """The stock pipeline that samples from what a folder holds."""
        return self.pipeline_class()

    def stock_settings(self, folder: Path, pipeline: Any, steps: int) -> dict[str, Any]:
        """The arguments by which the stock pipeline of a folder takes so many of our steps, maybe with another scheduler."""
        return self.step_arguments(steps)

    def step_arguments(self, steps: int) -> dict[str, Any]:
        """The arguments by which it takes them with the folder's own scheduler."""
        return {"num_inference_steps": steps}

    def stock_call(self, pipeline: Any, z: Tensor, condition: Any, settings: dict[str, Any]) -> Tensor:
        """Samples, unscaled, of the stock pipeline from noise z (1, ...) for a condition of one row."""
        arguments = self.stock_arguments(condition, pipeline) | {"output_type": "latent", "return_dict": False} | settings
        if self.stock_size_factor:
            height, width = (side * getattr(pipeline, self.stock_size_factor) for side in z.shape[2:])
            arguments |= {"height": height, "width": width}
        return pipeline(**{"latents": z} | arguments)[0]

    def stock_arguments(self, condition: Any, pipeline: Any) -> dict[str, Any]:
        """The stock pipeline's arguments for this condition, in place of a prompt."""
        return {argument: condition[leaf] for argument, leaf in self.pipeline_arguments.items()}
