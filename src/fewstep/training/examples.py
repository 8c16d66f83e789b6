"""What a distillation trains on: pixels with labels as they are, else what a cache holds, or what is encoded on the fly."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fewstep.data import fingerprints
from fewstep.data.bucketed import EncodedBuckets
from fewstep.data.cache_writer import Rows, Writer, processes
from fewstep.data.class_names import check_classes
from fewstep.data.datasets import Data, matched
from fewstep.data.encoding import PictureRows, conditions, encoded, is_encoded, latents, source_of
from fewstep.data.folders import files_below
from fewstep.data.latent_cache import CachedData, check_made_by, is_cache, teacher_fingerprint
from fewstep.data.loading import load_buckets, open_settings, open_source
from fewstep.data.masks import MaskedData
from fewstep.data.prompts import PromptRows, TeacherSamples, prompt_file, read_prompts
from fewstep.data.sources import Source, SourceSettings, resolve
from fewstep.data.summary import announce
from fewstep.errors import InputError
from fewstep.locks import locked
from fewstep.models.families.class_conditional_inpainting import ClassConditionalInpainting
from fewstep.models.model import Model
from fewstep.models.negative_prompts import NegativePrompts
from fewstep.progress import to_stderr
from fewstep.training.bucketing import buckets_of, check_cache_of_buckets
from fewstep.training.recipe import Recipe

SOURCE_KEYS = ("name", "path", "split", "layout", "image_column", "label_column", "caption_column", "classes", "streaming")


@dataclass(frozen=True)
class ToCache:
    """What is to be encoded once: its rows, what they are of, and the seed and flips of the epochs in which it is read."""

    rows: Rows
    model: Model
    data: dict[str, Any]
    seed: int
    flip: bool = False

    def written(self, folder: Path, recipe: Recipe, device: str | None, quiet: bool, again: bool = False) -> CachedData:
        """The cache in the folder, written or gone on with where it is not whole; `again` looks at each of its bits.

        Raises:
            InputError: the folder holds something else or another cache, or the disk is full.
        """
        state, made_by = processes(device), {"teacher": teacher_fingerprint(self.model), "data": self.data}
        if is_cache(folder):
            check_made_by(folder, made_by)
            with suppress(InputError):
                if not again and len(data := CachedData(folder, self.seed, self.flip)):
                    return data
        self.model.to(state.device or "cpu")
        arguments = self.rows, self.model, folder, recipe.data.encode_batch, recipe.data.shard_size, state, quiet
        with locked(folder):
            Writer(*arguments).write(made_by, (lambda line: None) if quiet or not state.is_main_process else to_stderr)
        return CachedData(folder, self.seed, self.flip)


def prepared(data: Any, recipe: Recipe, model: Model) -> "Any | ToCache":
    """Examples that can be trained on at once, or what is to be cached first, of given data or of the recipe's.

    Raises:
        InputError: no data, or data that cannot be used with the model.
    """
    settings, buckets = recipe.data, buckets_of(recipe, model)
    if model.info.condition == "class":
        data = matched(data, model.info.classes, settings.class_names)
    if model.family.takes_mask:
        return with_masks(data, recipe, model)
    if hasattr(data, "batch"):
        if buckets:
            raise InputError(
                "data.buckets: the data given are open already, of one size: leave it out, or name their folder in data.path"
            )
        return from_open_data(data, recipe, model)
    if settings.cache is not None:
        return from_cache(recipe, model)
    if settings.prompts is None and not is_encoded(model):
        return open_examples(recipe, model)
    if model.family.folder is not None and not settings.on_the_fly:
        return to_cache(recipe, model)
    if settings.prompts is not None:
        return TeacherSamples(prompts_of(recipe, model), settings.encode_batch, recipe.train.seed)
    if buckets:
        chosen = source_settings(recipe, captions=True), buckets, model.info.picture_shape[0], settings.flip, recipe.train.seed
        return EncodedBuckets(load_buckets(*chosen), model, settings.encode_batch, recipe.train.seed)
    return encoded(open_examples(recipe, model), model, settings.encode_batch)


def masked(data: Any, recipe: Recipe) -> Any:
    """`data` itself, or with masks where the recipe's teacher is to fill in."""
    return MaskedData(data, ClassConditionalInpainting(), recipe.train.seed) if recipe.teach.inpainting else data


def with_masks(data: Any, recipe: Recipe, model: Model) -> Any:
    """Examples for a network that takes a mask: of pictures, each with a random one; whole conditions are taken as they are.

    Raises:
        InputError: prompts without pictures, or a cache, whose masks would be the same in each epoch.
    """
    for key in ("prompts", "cache"):
        if getattr(recipe.data, key) is not None:
            raise InputError(f"data.{key}: a network that fills in needs pictures, each time with another mask: set data.path")
    pictures, (channels, size) = data if hasattr(data, "batch") else open_examples(recipe, model), model.info.picture
    if not hasattr(pictures, "classes") or pictures.batch(0, 1)[0].shape[1:] != (channels, size, size):
        return pictures
    return MaskedData(pictures, model.family, recipe.train.seed, model, recipe.data.encode_batch)


def from_open_data(data: Any, recipe: Recipe, model: Model) -> "Any | ToCache":
    """As `prepared`, of data that are open already."""
    examples = encoded(data, model, recipe.data.encode_batch)
    if examples is data or not isinstance(data, Data) or recipe.data.on_the_fly or model.family.folder is None:
        return examples
    source = source_of(data)
    check_pictures(source, model)
    digest = fingerprints.of_pictures(data.pixels, data.labels, data.classes)
    record = {"kind": "pictures", "path": "memory", "sha256": digest, "size": data.size, "flip": data.flip}
    return ToCache(PictureRows(source, model, data.flip), model, record, data.seed, data.flip)


def from_cache(recipe: Recipe, model: Model) -> CachedData:
    """The examples of `data.cache`.

    Raises:
        InputError: it was made by another teacher, or of other data than the recipe names, where it names any.
    """
    settings = recipe.data
    if settings.on_the_fly:
        raise InputError("data.cache and data.on_the_fly = true exclude each other: leave one of them out")
    folder = Path(str(settings.cache)).expanduser()
    check_cache_of_buckets(recipe, model)
    check_made_by(folder, {"teacher": teacher_fingerprint(model), "data": data_fingerprint(recipe, model)})
    return CachedData(folder, recipe.train.seed, settings.flip)


def to_cache(recipe: Recipe, model: Model) -> ToCache:
    """The recipe's pictures or prompts, to be encoded once.

    Raises:
        InputError: there is nothing to encode, or the data cannot be used with the model.
    """
    settings = recipe.data
    if model.family.takes_mask:
        raise InputError("this teacher fills in, and sees every picture with another mask each time: nothing to cache; distil it")
    if settings.prompts is None and not is_encoded(model):
        raise InputError("this teacher denoises the pictures themselves and takes labels, so there is nothing to cache; distil it")
    record = data_fingerprint(recipe, model)
    if record is None:
        raise InputError("there are no data: set data.path (pictures with captions or classes) or data.prompts (a text file)")
    if settings.prompts is not None:
        return ToCache(prompts_of(recipe, model), model, record, recipe.train.seed)
    check_pictured(model)
    buckets, (channels, size) = buckets_of(recipe, model), model.info.picture
    for what, given, needed in (("size", settings.size, size), ("channels", settings.channels, channels)):
        if given not in (None, needed):
            raise InputError(f"data.{what} is {given}, the teacher's pictures have {needed}: leave it out, or set it to that")
    source = open_source(source_settings(recipe, model.info.condition == "text"))
    if source.kind != "captions" and source.classes is None:  # only all labels together tell the classes
        if buckets:
            labels = [example.label for example in source.examples(None, 0) if not example.fault]
            source = replace(source, classes=resolve(labels, None, source.path)[1])
        else:
            opened = open_examples(recipe, model)
            assert isinstance(opened, Data)
            source = source_of(opened)
    check_pictures(source, model)
    rows = PictureRows(source, model, settings.flip, settings.class_names, buckets)
    return ToCache(rows, model, record, recipe.train.seed, settings.flip)


def check_pictured(model: Model) -> None:
    """Raises InputError where a model makes sounds, which pictures are not."""
    if model.info.makes_sounds:
        raise InputError(
            "this teacher makes sounds, which pictures are not: set data.prompts (its own samples stand in), or give latents"
        )


def check_pictures(source: Source, model: Model) -> None:
    """Raises InputError where pictures are not what the model's latents are of, or its conditioning needs more than they have."""
    info = model.info
    if source.kind != "captions":
        check_classes(source.classes or (), source.path)
    if info.condition == "text":
        conditions(model, [(source.classes or ("a",))[0]])
    if len(info.shape) > 3:
        raise InputError("this teacher denoises videos, which pictures are not: set data.prompts, and its own samples stand in")
    channels, height, width = info.picture_shape
    found = tuple(latents(model, torch.zeros(1, channels, height, width)).shape[1:])
    if found != info.shape:
        shapes = f"latents of shape {found}, the teacher's is {info.shape}"
        raise InputError(f"pictures of {width}x{height} become {shapes}: set data.prompts instead")


def prompts_of(recipe: Recipe, model: Model) -> PromptRows:
    """The rows of the recipe's prompts; raises InputError where pictures are given as well, or the prompts cannot be used."""
    settings = recipe.data
    if settings.path is not None or settings.name is not None:
        raise InputError("data.prompts is for training without pictures: leave out data.path and data.name, or data.prompts")
    scales, file = recipe.student.guidance_scale, prompt_file(str(settings.prompts))
    return PromptRows(file.prompts, model, scales, settings.sampling_steps, settings.samples_per_prompt, recipe.train.seed, file)


def open_examples(recipe: Recipe, teacher: Model | None = None) -> Any:
    """The recipe's pictures, of the teacher's size and channels where the recipe leaves them open."""
    settings, captions = recipe.data, teacher is not None and teacher.info.condition == "text"
    if teacher is not None:
        check_pictured(teacher)
    if settings.buckets and teacher is None:
        raise InputError("data.buckets are for teachers of text: leave it out")
    channels, size = None, None
    if teacher is not None:
        channels, height, width = teacher.info.picture_shape
        size = width if height == width else (height, width)
    chosen = settings.size or size, settings.channels or channels, settings.flip, recipe.train.seed
    data = open_settings(source_settings(recipe, captions), *chosen)
    return data if teacher is None or captions else matched(data, teacher.info.classes, settings.class_names)


def source_settings(recipe: Recipe, captions: bool) -> SourceSettings:
    """Where the recipe's pictures lie and what is read of them."""
    return SourceSettings(**{key: getattr(recipe.data, key) for key in SOURCE_KEYS}, captions=captions)


def data_fingerprint(recipe: Recipe, model: Model) -> dict[str, Any] | None:
    """What identifies the recipe's data, before any is decoded; None where it names none."""
    settings = recipe.data.model_dump(mode="json")
    if settings["prompts"] is not None:
        text = "\n".join(read_prompts(settings["prompts"]))
        record = {"kind": "prompts", "path": settings["prompts"], "sha256": hashlib.sha256(text.encode()).hexdigest()}
        record |= {key: settings[key] for key in ("samples_per_prompt", "sampling_steps")}
        return record | {"guidance_scale": list(recipe.student.guidance_scale), "seed": recipe.train.seed}
    path = settings["path"] or settings["name"]
    if path is None:
        return None
    record = {"kind": "pictures", "path": path, "sha256": fingerprint_of(path)}
    record |= {key: settings[key] for key in SOURCE_KEYS if key not in ("path", "streaming")}
    record |= {"class_names": settings["class_names"]}
    for key, default in (("layout", "auto"), ("class_names", "match")):  # a cache from before there was the key stays valid
        if record[key] == default:
            del record[key]
    if buckets := buckets_of(recipe, model):
        record["buckets"] = buckets.pairs
    return record | {"size": model.info.picture[1], "flip": settings["flip"]}


def fingerprint_of(path: str) -> str:
    """A fingerprint of the files of a path; of a name on the hub, the name's."""
    place = Path(path).expanduser()
    if place.is_dir():
        return fingerprints.of_files(place, files_below(place))
    return fingerprints.of_file(place) if place.is_file() else hashlib.sha256(path.encode()).hexdigest()


def free(model: Model) -> None:
    """Let text encoder and VAE leave memory, after the null condition has been encoded, which the teacher needs to the end."""
    null = model.denoiser.null
    if callable(null):
        null()
    model.family.free()


def negative_prompts_of(recipe: Recipe, teacher: Model, quiet: bool = True) -> NegativePrompts | None:
    """The negative prompts of a recipe, encoded by the teacher's own encoders; None where it asks for none.

    Raises:
        InputError: a teacher without prompts, or no readable list.
    """
    if not recipe.student.negative_prompts:
        return None
    file = prompt_file(str(recipe.data.negative_prompts), "data.negative_prompts")
    announce(file, quiet)
    return NegativePrompts.encode(teacher.family, teacher.info, file.prompts, recipe.student.negative_share)
