"""Pictures as training data of models that denoise latents or read text: encoded as they are asked for, or one after another."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.data.buckets import Buckets, Fit, Placed, placed_in
from fewstep.data.class_names import class_order
from fewstep.data.datasets import Data, as_input
from fewstep.data.decoding import Example, threads
from fewstep.data.sources import Source, in_memory
from fewstep.errors import InputError
from fewstep.method.conditioning import Condition, join, take, to
from fewstep.models.model import Model

HELD = 256  # conditions that are kept in memory; more distinct ones are encoded for each batch anew
OWN = "own"  # before the names of leaves that each example has for itself


def conditions(model: Model, prompts_or_labels: Sequence[int | str], batch: int = HELD) -> Condition:
    """The condition (n, ...) of labels or prompts, on the CPU, `batch` prompts at a time; without the mask that a model may take.

    Raises:
        InputError: the model needs more than a class or a prompt.
    """
    if model.info.condition == "class":
        return torch.tensor([int(label) for label in prompts_or_labels])
    prompts = [str(prompt) for prompt in prompts_or_labels]
    encode = model.family.encode_prompts if model.family.takes_mask else model.family.encode
    try:
        parts = (encode(prompts[k : k + batch], model.denoiser.device) for k in range(0, len(prompts), batch))
        return reduce(join, (to(part, "cpu") for part in parts))
    except InputError as error:
        remedy = "give data whose batches hold whole conditions"
        raise InputError(f"pictures with classes or captions are not enough: {error}; {remedy}") from None


def label_conditions(model: Model, classes: Sequence[str], batch: int) -> Callable[[Tensor], Condition]:
    """A function from labels int64 (n,) to conditions (n, ...): the labels, or the encoded names of their classes or captions.

    Where the names are few, all are encoded now. Raises InputError as `conditions` does.
    """
    if model.info.condition == "class":
        return lambda labels: labels
    if len(classes) <= HELD:
        return partial(take, conditions(model, classes, batch))
    return lambda labels: conditions(model, [classes[int(k)] for k in labels], batch)


@torch.no_grad()
def latents(model: Model, x: Tensor, batch: int | None = None) -> Tensor:
    """What the model denoises, float32 on the CPU, of pictures x (n, c, h, w) in [-1, 1], `batch` at a time."""
    parts = x.split(batch or len(x))
    return torch.cat([model.family.to_latents(part.to(model.denoiser.device)).float().cpu() for part in parts])


class EncodedData:
    """The latents of a model's VAE for pictures, and their captions or the names of their classes as its prompts (or the labels)."""

    def __init__(self, data: Any, model: Model, batch: int = HELD) -> None:
        """Encode the prompts of all classes or captions now, where they are few; raises InputError as `conditions` does."""
        if model.family.takes_mask:
            raise InputError(
                f"pictures are not enough: the family {model.info.family} also needs masks; give MaskedData, or set data.path"
            )
        self.data, self.model, self.encode_batch = data, model, batch
        self.classes, self.description = data.classes, data.description
        self.conditions = label_conditions(model, data.classes, batch)

    def first_conditions(self, count: int) -> tuple[list[str], Condition]:
        """(names, conditions (n, ...)) of the first examples, at most `count` of them, each another class or caption."""
        labels = first_labels(self.data, count)
        return [self.classes[k] for k in labels.tolist()], self.conditions(labels)

    def batch(self, start: int, count: int) -> tuple[Tensor, Condition]:
        """Latents (count, c, h, w) and conditions (count, ...) from position `start` on."""
        x, labels = self.data.batch(start, count)
        return latents(self.model, x, self.encode_batch), self.conditions(labels)


def first_labels(data: Any, count: int) -> Tensor:
    """Labels int64 (n,) of the first examples of data, at most `count` of them, no two the same."""
    return torch.tensor(list(dict.fromkeys(data.batch(0, 4 * count)[1].tolist()))[:count])


def is_encoded(model: Model) -> bool:
    """Whether a model's training data are something else than pixels with labels."""
    return model.info.image_size is not None or model.info.condition == "text"


def encoded(data: Any, model: Model, batch: int = HELD) -> Any:
    """`data` itself where it is what the model denoises, else its pictures as the model's latents."""
    if not is_encoded(model) or not hasattr(data, "classes") or data.batch(0, 1)[0].shape[-1] != model.info.picture[1]:
        return data
    return EncodedData(data, model, batch)


def placements(pictures: Sequence[Placed], buckets: Buckets) -> tuple[Tensor, Tensor, Tensor]:
    """What a family may tell its network of pictures: (height, width) of the originals, the corner of the part, its size; float32 (n, 2) each."""
    known = [(p.original, p.top_left, buckets.sizes[p.bucket]) for p in pictures]
    original, top_left, target = torch.tensor(known, dtype=torch.float32).unbind(1)
    return original, top_left, target


@dataclass(frozen=True)
class Encoded:
    """Examples of one shape: tensors (n, ...) by name, and their places among the items that were asked for."""

    tensors: dict[str, Tensor]
    places: list[int]
    bucket: str = ""  # its name, where there are several
    fit: Fit | None = None  # and how its pictures were made to fit


def own_leaves(given: Condition, own: Condition) -> dict[str, Tensor]:
    """The leaves (n, ...) in which the conditions `own` of examples are others than those `given`, as "own.LEAF"."""
    if not isinstance(given, dict) or not isinstance(own, dict):
        return {}
    return {f"{OWN}.{leaf}": value for leaf, value in own.items() if value is not given[leaf]}


def with_own(condition: Condition, own: dict[str, Tensor]) -> Condition:
    """The condition (n, ...) with the leaves of which `own_leaves` gave the tensors."""
    if isinstance(condition, Tensor):
        return condition
    return condition | {name.removeprefix(f"{OWN}."): leaf for name, leaf in own.items()}


class PictureRows:
    """The pictures of a source in its order, to be encoded once each: what a cache is written of.

    An item is an example of the source; the model is conditioned on its label, the name of its class, or its caption. Without `buckets` all
    have the model's size.
    """

    def __init__(
        self, source: Source, model: Model, flip: bool = False, class_names: str = "match", buckets: Buckets | None = None
    ) -> None:
        self.source, self.model, self.flip, self.buckets = source, model, flip, buckets
        self.total, self._pool = source.total, threads()
        self.channels, height, width = model.info.picture_shape
        self._sizes = buckets or Buckets(((height, width),))
        by_class = model.info.condition == "class" and source.classes is not None
        known = source.classes or (), model.info.classes, source.path
        self._order = class_order(*known, class_names=class_names) if by_class else None

    def items(self) -> Iterator[Example]:
        """The examples, in order, unreadable ones included."""
        return self.source.examples(None, 0)

    def prompt_or_label(self, item: Example) -> int | str | None:
        """What the model is conditioned on for a picture; None where it is left out; raises InputError for an unknown class."""
        if item.fault:
            return None
        classes = self.source.classes
        if classes is None:
            return str(item.label)
        label = classes.index(item.label) if isinstance(item.label, str) and item.label in classes else item.label
        if isinstance(label, bool) or not isinstance(label, int | np.integer) or not 0 <= label < len(classes):
            known = f"not one of the {len(classes)} classes"
            raise InputError(f"{self.source.path}: the label {label!r} is {known}: name all in data.classes")
        return classes[int(label)] if self._order is None else int(self._order[label])

    def encode(self, items: list[Example], condition: Condition) -> tuple[list[Encoded], list[str]]:
        """(those of each bucket: "x", with flips "mirrored", and "own.LEAF" of what each alone is conditioned on; "name: reason" of what is left out)."""
        outcomes = list(self._pool.map(self._placed, items))
        skipped = [f"{item.title}: {why}" for item, why in zip(items, outcomes, strict=True) if isinstance(why, str)]
        readable = {k: picture for k, picture in enumerate(outcomes) if not isinstance(picture, str)}
        made = []
        for bucket, name in enumerate(self._sizes.names):
            if pictures := {k: picture for k, picture in readable.items() if picture.bucket == bucket}:
                x = as_input(torch.from_numpy(np.stack([p.pixels for p in pictures.values()])), np.arange(0), None)
                tensors = {"x": latents(self.model, x)} | ({"mirrored": latents(self.model, x.flip(-1))} if self.flip else {})
                if self.buckets is None:
                    made.append(Encoded(tensors, list(pictures)))
                    continue
                given, fit = take(condition, torch.tensor(list(pictures))), sum((p.fit for p in pictures.values()), Fit())
                own = self.model.family.with_sizes(given, *placements(list(pictures.values()), self.buckets))
                made.append(Encoded(tensors | own_leaves(given, own), list(pictures), name, fit))
        return made, skipped

    def _placed(self, item: Example) -> Placed | str:
        return placed_in(item, self._sizes, self.channels)


def source_of(data: Data) -> Source:
    """The pictures of data that are in memory already."""
    return in_memory("memory", "data", data.pixels.numpy(), data.labels.tolist(), data.classes)
