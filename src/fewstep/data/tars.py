"""Tar shards as WebDataset writes them: the files of one example have one name and follow one another.

`datasets` refuses a shard in which the first examples have not all the same files, or a .json other types of values: img2dataset's.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from fewstep.data.columns import LABEL_NAMES
from fewstep.data.formats import picture_endings
from fewstep.data.listings import feature_of
from fewstep.data.sidecars import CAPTION_NAMES, lines_of

FIRST = 100  # examples that tell which columns there are
NUMBERS = {"cls", "cls2", "index", "inx", "id"}
TEXTS = {"txt", "text", "transcript", "caption"}


def open_tars(files: Sequence[Path], keys: Sequence[str | None]) -> Any:
    """The IterableDataset of shards: columns of the endings of their files, and of `keys` and usual names in a .json.

    Raises:
        Exception: whatever tarfile and json raise of a damaged shard.
    """
    import datasets

    first = list(islice(examples_of([str(files[0])], keys), FIRST))
    features: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in first for name in row):
        values = [row.get(name) for row in first]
        features[name] = datasets.Image(decode=False) if is_picture(name) else feature_of(values)
    columns = tuple(features)
    arguments = {"files": list(map(str, files)), "keys": tuple(keys), "columns": columns}
    return datasets.IterableDataset.from_generator(rows_of, features=datasets.Features(features), gen_kwargs=arguments)


def rows_of(files: list[str], keys: Sequence[str | None], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The examples as rows that have all of the columns, None where an example lacks one."""
    for row in examples_of(files, keys):
        yield {name: row.get(name) for name in columns}


def is_picture(name: str) -> bool:
    """Whether a column, named by the ending of its files, holds pictures."""
    return f".{name.rsplit('.', 1)[-1]}" in picture_endings()


def examples_of(files: Sequence[str], keys: Sequence[str | None]) -> Iterator[dict[str, Any]]:
    """One dict an example, by the endings of its files in lower case; pictures as {"bytes", "path"}."""
    for file in files:
        example, before = {}, None
        with tarfile.open(file, "r|") as tar:
            for member in tar:
                name = re.fullmatch(r"((?:.*/|)[^.]+)[.]([^/]*)", member.name)
                if not member.isfile() or name is None or "__MACOSX" in member.name:
                    continue
                if example and name[1] != before:
                    yield example
                    example = {}
                opened = tar.extractfile(member)
                content, before = opened.read() if opened else b"", name[1]
                with suppress(ValueError, RecursionError):  # a damaged label or caption is as one that is missing
                    example |= decoded(name[2].lower(), content, member.name, keys)
        if example:
            yield example


def decoded(ending: str, content: bytes, name: str, keys: Sequence[str | None]) -> dict[str, Any]:
    """The columns that one file of an example gives; none where it is of another kind. Raises ValueError where it is damaged."""
    if is_picture(ending):
        return {ending: {"bytes": content, "path": name}}
    if ending in NUMBERS:
        return {ending: int(content)}
    if ending in TEXTS:
        lines = lines_of(content.decode("utf-8-sig"))
        return {ending: lines[0] if lines else None}
    if ending in ("json", "jsn"):
        values = json.loads(content)
        known = [*(key for key in keys if key), *CAPTION_NAMES, *LABEL_NAMES]
        return {key: values[key] for key in known if key in values} if isinstance(values, dict) else {}
    return {}
