"""The one line that says what is trained on or measured against: how many examples, of what, and what is left out."""

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from fewstep.data.bucketed import EncodedBuckets
from fewstep.data.buckets import described
from fewstep.data.class_names import first_names
from fewstep.data.datasets import Data, StreamingData
from fewstep.data.decoding import shortened
from fewstep.data.encoding import EncodedData, PictureRows
from fewstep.data.latent_cache import CachedData
from fewstep.data.masks import MaskedData
from fewstep.data.prompts import PromptFile, PromptRows, TeacherSamples
from fewstep.data.sources import Source
from fewstep.progress import is_first_process, to_stderr

SHOWN = 3  # captions
PEEKED = 16  # examples that are looked at for them


@dataclass(frozen=True)
class Contents:
    """What data hold, as far as it is known before they are decoded."""

    path: str
    examples: int | None = None  # None: not known of a stream before its end
    classes: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()  # the first; or prompts
    distinct: int | None = None  # captions
    left_out: tuple[str, ...] = ()  # how much, what, and perhaps why
    kind: str = "examples"
    buckets: str = ""  # how many are in each, and what of them is cropped away or enlarged


def contents_of(data: Any) -> Contents:
    """The contents of opened data, of a source, or of what says its own; of another object its type alone."""
    if isinstance(data, Data):
        path = str(data.description.get("path", "in memory"))
        if data.description.get("kind") != "captions":
            return Contents(path, len(data), data.classes, left_out=data.left_out)
        first = tuple(data.classes[k] for k in data.labels[:SHOWN].tolist())
        return Contents(path, len(data), (), first, len(data.classes), data.left_out)
    if isinstance(data, StreamingData | PictureRows):
        return contents_of(data.source)
    if isinstance(data, EncodedBuckets):
        left, shown = data.data.parts[0].left_out, described(data.data.buckets.names, data.fits)
        first = tuple(data.classes[k] for part in data.data.parts for k in part.labels[:SHOWN].tolist())[:SHOWN]
        known = Contents(str(data.description["path"]), len(data.data), left_out=left, buckets=shown)
        if data.description["kind"] != "captions":
            return replace(known, classes=data.classes)
        return replace(known, captions=first, distinct=len(data.classes))
    if isinstance(data, EncodedData | MaskedData):
        return contents_of(data.data)
    if isinstance(data, Source):
        classes, captions = data.classes or (), ()
        if data.kind == "captions":
            captions = tuple(e.label for e in islice(data.examples(None, 0), PEEKED) if e.label is not None)[:SHOWN]
        return Contents(data.path, data.total, classes, captions, left_out=data.left_out)
    if isinstance(data, PromptFile):
        return Contents(data.path, len(data.prompts), (), data.prompts[:SHOWN], left_out=data.left_out, kind="prompts")
    if isinstance(data, PromptRows | TeacherSamples):
        return contents_of(data.file if isinstance(data, PromptRows) else data.rows)
    if isinstance(data, CachedData):
        skipped = (f"{len(data.skipped)} pictures, which cannot be used ({shortened(data.skipped)})",) if data.skipped else ()
        shown = described(data.buckets.names, data.fits) if data.buckets else ""
        return Contents(str(data.folder), len(data), data.class_names, data.captions, None, skipped, "cached examples", shown)
    return Contents(f"an object of type {type(data).__name__}")


def summary(data: Any) -> str:
    """One line: "data PATH: 12 examples of 3 classes (cat, dog, owl); left out: 2 files ..."."""
    known = data if isinstance(data, Contents) else contents_of(data)
    parts = known.kind if known.examples is None else f"{known.examples:,} {known.kind}"
    if known.classes:
        parts += f" of {len(known.classes):,} classes ({first_names(known.classes, 5)})"
    if known.captions:
        count = "" if known.distinct is None else f"{known.distinct:,} different "
        what = "" if known.kind == "prompts" else f" with {count}captions"
        parts += f"{what} ({', '.join(map(repr, map(short, known.captions)))}, ...)"
    buckets = f"; buckets: {known.buckets}" if known.buckets else ""
    left = f"; left out: {'; '.join(known.left_out)}" if known.left_out else ""
    return " ".join(f"data {known.path}: {parts}{buckets}{left}".split())


def short(caption: str) -> str:
    """A caption of at most 60 characters."""
    return caption if len(caption) <= 60 else f"{caption[:57]}..."


def announce(data: Any, quiet: bool = False) -> None:
    """Print the line, once for all processes."""
    if not quiet and is_first_process():
        to_stderr(summary(data))
