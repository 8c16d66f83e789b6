"""What all families of stock pipelines share: a folder of diffusers, opened part by part, written whole, and run as diffusers runs it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewstep.errors import InputError
from fewstep.method.conditioning import Condition, take
from fewstep.method.guidance import scale_of
from fewstep.method.parameterization import Prediction
from fewstep.method.process import Process, process_settings
from fewstep.models.families.schedulers import process_of_scheduler, scheduler_of
from fewstep.models.metadata import Info


class Stock:
    """The part of `Family` that follows from a pipeline folder. What is peculiar is overridden, or missing here."""

    name: str
    pipelines: tuple[str, ...]
    component = "unet"  # the network's name in the pipeline
    autoencoder = "vae"  # the name of what makes latents, where the network denoises them
    condition: Literal["class", "text"] = "text"
    low_cpu_mem_usage = False  # how diffusers reads the weights; it must be True where a class keeps some of them in float32
    takes_mask = False  # whether a condition holds a mask and the picture that it leaves
    encoders: tuple[str, ...] = ("text_encoder", "tokenizer")  # the parts that `encode_prompts` needs
    nothing = ""  # the prompt that stands for none

    def __init__(self, folder: Path | None = None, variant: str | None = None) -> None:
        self.folder, self.variant = folder, variant
        self._loaded: dict[tuple[str, ...], Any] = {}

    def network_class(self) -> Any:
        """The stock class of the network."""
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        return UNet2DConditionModel

    def pipeline_class(self) -> Any:
        """The stock class that students are saved as: the first of `pipelines`."""
        import diffusers

        return getattr(diffusers, self.pipelines[0])

    def opens(self, pipeline: str, config: dict[str, Any]) -> bool:
        """Whether it opens folders of this pipeline class, the network having this config."""
        return pipeline in self.pipelines

    def describe(self, folder: Path) -> Info:
        """The facts of a teacher in a folder that `fewstep` did not write.

        Raises:
            InputError: distilled already, a scheduler without a process that we know, or parts that do not fit together.
        """
        config = network_config(folder, self)
        self.check(folder, config)
        process, prediction = process_of_scheduler(config_of(folder, "scheduler"), self.tokens(folder, config))
        channels, size, image_size = self.shape(folder, config)
        return Info(
            kind="teacher", family=self.name, prediction=prediction.name, process=process_settings(process), condition=self.condition,
            classes=self.classes(folder, config), size=size, channels=channels, image_size=image_size,
            image_channels=None if image_size is None else int(config_of(folder, self.autoencoder).get("in_channels", 3)),
        )  # fmt: skip

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError where the folder is not a teacher that can be distilled; `config` is the network's."""

    def classes(self, folder: Path, config: dict[str, Any]) -> tuple[str, ...]:
        """The names of the classes, of a family that has them."""
        return ()

    def tokens(self, folder: Path, config: dict[str, Any]) -> int | None:
        """How many tokens the network makes of an image, where its schedulers' shift depends on that."""
        return None

    def shape(self, folder: Path, config: dict[str, Any]) -> tuple[int, int, int | None]:
        """(channels, size) of what the network denoises, and the size of the picture that it stands for, None if it is the picture."""
        channels, size = int(config["out_channels"]), config["sample_size"]
        size = size if isinstance(size, int) else size[0]
        if not has_part(folder, self.autoencoder):
            return channels, size, None
        return channels, size, size * 2 ** (len(config_of(folder, self.autoencoder)["block_out_channels"]) - 1)

    def open(self, folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> Any:
        """The network of a folder, in evaluation mode."""
        with quiet():
            made = self.network_class().from_pretrained(
                folder, subfolder=self.component, use_safetensors=True, low_cpu_mem_usage=self.low_cpu_mem_usage, torch_dtype=dtype, variant=variant,
            )  # fmt: skip
        return made.eval()

    def time_embedding_outputs(self, network: Any) -> list[nn.Linear]:
        """The linear layers that end the network's time embedders, all of one width: where a layer of ours is added."""
        return [network.time_embedding.linear_2]

    def parts(self, *names: str) -> Any:
        """The stock pipeline with these components alone; loaded when first asked for, until `free`.

        Raises:
            InputError: the model has no folder, or its folder lacks one of them.
        """
        if names not in self._loaded:
            if self.folder is None or not all(has_part(self.folder, name) for name in names):
                raise InputError(f"this model's folder has no {' and '.join(names)}; name a whole pipeline folder")
            components = [name for name, value in index_of(self.folder).items() if isinstance(value, list)]
            unused = {name: None for name in components if name not in names}
            with quiet():
                self._loaded[names] = self.pipeline_class().from_pretrained(
                    self.folder, use_safetensors=True, variant=self.variant, **unused
                )
        return self._loaded[names]

    def encode(self, prompts: list[str], device: torch.device, **extra: Any) -> Condition:
        """The condition of prompts; one that is too long is cut, with a warning that says where.

        Raises:
            InputError: something is given that this family does not take.
        """
        refuse(extra)
        return self.encode_prompts(prompts, device)

    def encode_prompts(self, prompts: list[str], device: torch.device) -> Condition:
        """What the network is told of prompts, without what may go with them."""
        raise NotImplementedError

    def null(self, info: Info, prompt: str = "") -> Any:
        """A function that gives the prompt for none, or a negative one, (1, ...), encoded once."""
        return cache(lambda: self.encode_prompts([prompt or self.nothing], torch.device("cpu")))

    def encoders_on(self, device: torch.device, *more: str) -> Any:
        """The stock pipeline with tokenizers and text encoders alone, the encoders on a device."""
        pipeline = self.parts(*self.encoders, *more)
        for name in (*self.encoders, *more):
            if name.startswith("text_encoder"):
                getattr(pipeline, name).to(device)
        return pipeline

    def free(self) -> None:
        """Let go of the parts; they are loaded again when needed."""
        self._loaded.clear()

    @property
    def latent(self) -> bool:
        """Whether the network denoises latents of a VAE."""
        return self.folder is not None and has_part(self.folder, self.autoencoder)

    def to_latents(self, x: Tensor) -> Tensor:
        """Latents of pictures x (n, c, h, w) in [-1, 1], the mode of the VAE's distribution; x itself where there is no VAE."""
        return encoded(self.parts("vae").vae.to(x.device), x) if self.latent else x

    def to_images(self, z: Tensor) -> Tensor:
        """Pictures (n, c, h, w) in about [-1, 1] of latents; z itself where there is no VAE."""
        return decoded(self.parts("vae").vae.to(z.device), z) if self.latent else z

    def write(self, network: nn.Module, process: Process, prediction: Prediction, folder: Path) -> None:
        """Write the whole pipeline: this network, our scheduler, all other parts as they came, in float32 like the network.

        Of parts in different precisions a stock pipeline makes none that runs: transformers opens each as it was stored.

        Raises:
            InputError: the folder that the other parts are in is not known.
        """
        if self.folder is None:
            raise InputError("the folder of this model's text encoder and VAE is not known; open the model with fewstep.open_model")
        mine = absent(self.folder) | {self.component: network, "scheduler": self.scheduler(process, prediction)}
        with quiet():
            pipeline = self.pipeline_class().from_pretrained(
                self.folder, use_safetensors=True, variant=self.variant, dtype=torch.float32, **mine
            )
            pipeline.save_pretrained(folder, safe_serialization=True)

    def scheduler(self, process: Process, prediction: Prediction) -> Any:
        """The stock scheduler with which the stock pipeline makes the grid of our samplers."""
        return scheduler_of(process, prediction)

    @torch.no_grad()
    def stock_sample(self, folder: Path, z: Tensor, steps: int, condition: Condition, w: Tensor | None) -> Tensor:
        """Samples from noise z (b, ...) by the folder's stock pipeline, one call an example, since a call has one scale."""
        with quiet():
            pipeline = self.pipeline_class().from_pretrained(folder, use_safetensors=True).to(z.device)
            pipeline.set_progress_bar_config(disable=True)
            samples = []
            for i in range(len(z)):
                chosen = self.stock_arguments(take(condition, slice(i, i + 1)), pipeline)
                scale = 1.0 if w is None else float(scale_of(w[i]))
                settings = {"num_inference_steps": steps, "guidance_scale": scale, "output_type": "latent", "return_dict": False}
                samples.append(pipeline(**chosen, **settings, **self.stock_latents(z[i : i + 1], pipeline))[0])
        return torch.cat(samples)

    def stock_latents(self, z: Tensor, pipeline: Any) -> dict[str, Any]:
        """How the stock pipeline takes noise z (1, ...)."""
        return {"latents": z}

    def bake(self, network: nn.Module, guidance_scale: float) -> nn.Module:
        """Raises InputError where the family does not say how."""
        raise InputError(f"the family {self.name} does not say how a scale is baked in; sample the student with its guidance_scale")

    def stock_arguments(self, condition: Condition, pipeline: Any) -> dict[str, Any]:
        """What the stock pipeline takes in place of a prompt for this condition."""
        raise NotImplementedError


def refuse(extra: Mapping[str, Any]) -> None:
    """Raises InputError where something is given beside prompts that a family does not take."""
    if extra:
        raise InputError(f"this model takes no {' and no '.join(extra)}; leave it out")


def index_of(folder: Path) -> dict[str, Any]:
    """The content of a pipeline folder's model_index.json.

    Raises:
        InputError: it is not there, damaged, or names no pipeline.
    """
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} has no readable model_index.json ({error}); name a whole pipeline folder") from None
    if not isinstance(index, dict) or "_class_name" not in index:
        raise InputError(f"{folder}/model_index.json names no pipeline (_class_name); name a whole pipeline folder")
    return index


def absent(folder: Path) -> dict[str, Any]:
    """The components that a pipeline folder is without, as None, which some stock pipelines want to be told."""
    return {name: None for name, value in index_of(folder).items() if isinstance(value, list) and value[0] is None}


def has_part(folder: Path, name: str) -> bool:
    """Whether a pipeline folder names a component and holds it."""
    return (folder / name).is_dir() and (index_of(folder).get(name) or [None])[0] is not None


def config_of(folder: Path, part: str) -> dict[str, Any]:
    """The config of a component.

    Raises:
        InputError: the folder has none, or it is damaged.
    """
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} has no readable {part}/{file.name} ({error}); name a whole pipeline folder") from None


def network_config(folder: Path, family: Any) -> dict[str, Any]:
    """The config of a family's network in a folder."""
    return config_of(folder, family.component)


def latent_scaling(config: Mapping[str, Any]) -> tuple[float, float]:
    """(shift, scale) by the config of a VAE: latents are (what it gives - shift) * scale."""
    return float(config.get("shift_factor") or 0.0), float(config.get("scaling_factor") or 1.0)


@torch.no_grad()
def encoded(vae: Any, x: Tensor) -> Tensor:
    """Scaled latents of pictures x (n, c, h, w) in [-1, 1]."""
    shift, scale = latent_scaling(vae.config)
    given = vae.encode(x.to(vae.dtype))
    return ((given.latent_dist.mode() if hasattr(given, "latent_dist") else given.latents) - shift) * scale


@torch.no_grad()
def decoded(vae: Any, z: Tensor) -> Tensor:
    """Pictures (n, c, h, w) of scaled latents z, in z's dtype."""
    shift, scale = latent_scaling(vae.config)
    return vae.decode((z / scale + shift).to(vae.dtype), return_dict=False)[0].to(z.dtype)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and remarks of diffusers and transformers: our own errors say what matters."""
    import diffusers.utils.logging as ours
    import transformers.utils.logging as theirs

    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in (ours, theirs)]
    try:
        for log, _, _ in before:
            log.set_verbosity_error()
            log.disable_progress_bar()
        yield
    finally:
        for log, verbosity, bar in before:
            log.set_verbosity(verbosity)
            if bar:
                log.enable_progress_bar()
