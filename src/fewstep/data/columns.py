"""Which columns of a table are the pictures, the labels and the captions, by their names and types as `datasets` has them."""

from pathlib import Path
from typing import Any

from fewstep.data.sidecars import CAPTION_NAMES
from fewstep.data.sources import SourceSettings, class_names_in
from fewstep.errors import InputError, nearest

IMAGE_NAMES = ("image", "img", "images", "jpg", "jpeg", "png", "webp", "picture", "pixel_values")
PATH_NAMES = ("file_name", "filename", "image_path", "img_path", "filepath", "file_path", "path", "file")
LABEL_NAMES = ("label", "labels", "fine_label", "cls", "class", "class_label")
TEXT = ("string", "large_string", "string_view")


def holds_text(feature: Any) -> bool:
    """Whether a column is of text, or of lists of it."""
    return getattr(feature, "dtype", None) in TEXT or getattr(getattr(feature, "feature", None), "dtype", None) in TEXT


def holds_numbers(feature: Any) -> bool:
    """Whether a column is of numbers."""
    return str(getattr(feature, "dtype", "")).startswith(("int", "uint", "float")) and not getattr(feature, "names", None)


def column_of(features: Any, settings: SourceSettings, key: str, usual: tuple[str, ...], kind: type) -> str | None:
    """The column that `key` of the settings names, else the only one of a kind, else the first with a usual name.

    Usual names are looked for among the columns of the kind, or among all where none is. Raises InputError where there is none of
    the name in the settings.
    """
    given = getattr(settings, key)
    if given is not None and given not in features:
        raise InputError(f"{settings.path} has no column '{given}' for data.{key}: {nearest(given, features)}")
    typed = [name for name, feature in features.items() if isinstance(feature, kind)]
    return given or (typed[0] if len(typed) == 1 else next((name for name in usual if name in (typed or features)), None))


def image_of(features: Any, settings: SourceSettings) -> str:
    """The name of the column with pictures."""
    import datasets

    found = column_of(features, settings, "image_column", (*IMAGE_NAMES, *PATH_NAMES), datasets.Image)
    if found is None:
        known = nearest("", features)
        raise InputError(f"{settings.path} has no column that is plainly the picture: set data.image_column ({known})")
    return found


def caption_of(features: Any, settings: SourceSettings) -> str | None:
    """The name of the column of captions: the given one, else one of text or numbers with a usual name, else None."""
    text = [name for name, feature in features.items() if holds_text(feature)]
    if settings.caption_column is None:  # captions that are all numbers are captions
        numbers = [name for name, feature in features.items() if holds_numbers(feature)]
        return next((name for named in (text, numbers) for name in CAPTION_NAMES if name in named), None)
    found = column_of(features, settings, "caption_column", (), object)
    if found not in text and not holds_numbers(features[found]):
        remedy = f"set data.caption_column to one that is ({nearest('', text)})"
        raise InputError(f"{settings.path}: column '{found}' is not text: {remedy}")
    return found


def label_of(features: Any, settings: SourceSettings) -> str:
    """The name of the column with labels: integers or names."""
    import datasets

    found = column_of(features, settings, "label_column", LABEL_NAMES, datasets.ClassLabel)
    if found is None:
        remedy = f"set data.label_column to one of integers or names ({nearest('', features)})"
        raise InputError(f"{settings.path} {settings.but}has no column of labels: {remedy}")
    kind = str(getattr(features[found], "dtype", None) or "lists")
    if not kind.startswith(("int", "uint")) and kind not in TEXT:
        remedy = "set data.label_column to integers or names"
        raise InputError(f"{settings.path}: the labels in column '{found}' are {kind}: {remedy}")
    return found


def known_classes(label: str, features: Any, settings: SourceSettings) -> tuple[str, ...] | None:
    """The names of the classes: of a ClassLabel, of the settings, of classes.json in the folder; None where the labels tell.

    Raises:
        InputError: a stream, where the labels do not tell beforehand.
    """
    here, names = Path(str(settings.path)).expanduser(), getattr(features[label], "names", None)
    known = tuple(names) if names else settings.classes
    known = known or (class_names_in(here if here.is_dir() else here.parent) if here.exists() else None)
    if settings.streaming and known is None:
        remedy = 'set data.classes = ["first", ...] or data.streaming = false'
        raise InputError(f"{settings.path}: column '{label}' has plain labels, so a stream cannot know the classes: {remedy}")
    return known
