"""Folders of pictures: a sub-folder a class, or a file with the caption beside each picture, either perhaps in folders of splits."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from fewstep.data.decoding import Example
from fewstep.data.formats import missing_plugins, picture_endings
from fewstep.data.sidecars import nfc, read_caption
from fewstep.data.sources import NO_CAPTION, Source, SourceSettings, captioned, numbered
from fewstep.errors import InputError, first_line

SPLITS = {"train": "train", "training": "train"}  # by the name of a folder
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
SPLITS |= dict.fromkeys(("test", "testing", "eval", "evaluation"), "test")
SYSTEM = {"@eadir", "$recycle.bin", "lost+found", "system volume information"}  # what file servers and systems put beside data
SYSTEM_FILES = {"thumbs.db", "desktop.ini"}


def split_of(name: str) -> str | None:
    """The split that a folder's name stands for, whatever its case: "Val" for validation; None for other names."""
    return SPLITS.get(name.casefold())


def files_below(folder: Path) -> list[Path]:
    """All files below the folder that are not hidden, relative to it, sorted; links are followed, save into a folder above."""
    found, real = [], {}
    for root, folders, names in os.walk(folder, onerror=raised, followlinks=True):
        real[root] = os.path.realpath(root)
        if any(real.get(str(parent)) == real[root] for parent in Path(root).parents):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        found += [Path(root, name).relative_to(folder) for name in names if not name.startswith(".")]
    return sorted(found)


def raised(error: OSError) -> None:
    """Raises the error of a folder that cannot be read: what is in it must not be left out without a word."""
    raise error


def pictures_of(files: Iterable[Path]) -> list[Path]:
    """The files with the ending of a picture that lie in no folder of the system's."""
    return [file for file in files if file.suffix.lower() in picture_endings() and not in_system_folder(file)]


def in_system_folder(file: Path) -> bool:
    """Whether one of the folders that a file is in belongs to a file server or an operating system."""
    return any(part.casefold() in SYSTEM for part in file.parts[:-1])


def class_names(pictures: list[Path]) -> set[str]:
    """The names of the folders that would be classes, those within folders of splits included."""
    depths = [(file, 1 if split_of(file.parts[0]) else 0) for file in pictures]
    return {file.parts[depth] for file, depth in depths if len(file.parts) > depth + 1}


def are_captions(pictures: list[Path], captions: Mapping[Path, Path], settings: SourceSettings) -> bool:
    """Whether pictures with these files of captions are read with them: where there are folders of classes, half of them need one."""
    if not settings.captions_first or settings.layout not in ("auto", "captions"):
        return False
    few = len(class_names(pictures)) > 1 and 2 * len(captions) < len(pictures)
    return bool(captions) and (settings.layout == "captions" or settings.caption_column is not None or not few)


def open_folder(folder: Path, files: list[Path], captions: Mapping[Path, Path], settings: SourceSettings) -> Source:
    """The pictures of the folder, of the split that is asked for, with captions where those come first, else with classes.

    `captions` are the files with them, by picture.

    Raises:
        InputError: there are no pictures, neither captions nor classes, no such split, or two ways to read the folder.
    """
    pictures = pictures_of(files)
    if not pictures:
        others = "; ".join(other_files(files)) or f"{len(files)} other files"
        raise InputError(f"{folder} holds no pictures ({others}): put the pictures of each class in a sub-folder")
    captioned = are_captions(pictures, captions, settings)
    if settings.layout == "captions" and not captioned:
        raise InputError(f"{folder}: data.layout = 'captions', and no picture has a .txt of the same name beside it: add them")
    hidden = Counter(file.parts[0] for file in files if in_system_folder(file))
    left = [f"{count} files in {name}, a folder of the system" for name, count in hidden.items()]
    if captioned:
        tops = {file.parts[0] if len(file.parts) > 1 else "" for file in pictures}
        splits = {split_of(name) for name in tops} - {None}
        level = 0 if len(splits) > 1 or (splits and all(map(split_of, tops))) else None
        place, chosen = of_split(folder, pictures, settings, level, left)
        top = place.relative_to(folder)
        beside = {file.relative_to(top): text.relative_to(top) for file, text in captions.items() if file.is_relative_to(top)}
        source = with_captions(place, chosen, beside, settings, left)
    else:
        level = class_split_level(folder, pictures, settings.layout)
        source = with_classes(*of_split(folder, pictures, settings, level, left), settings, left)
    if captions and settings.captions_first and not captioned:
        left.append(f'{len(captions)} captions beside pictures in folders of classes: data.layout = "captions" reads them')
    used = set(captions.values()) if captions and settings.captions_first else set()
    return replace(source, left_out=(*left, *other_files([file for file in files if file not in used])))


def other_files(files: Iterable[Path]) -> list[str]:
    """How many files are no pictures, by ending, and what would read them; files of tables and of systems are not counted."""
    known = picture_endings() | {".parquet", ".tar", ".arrow"}
    others = [file for file in files if not in_system_folder(file) and file.name.lower() not in SYSTEM_FILES]
    others = [file for file in others if file.suffix.lower() not in known]
    if not others:
        return []
    endings = Counter(file.suffix.lower() or "no ending" for file in others)
    kinds = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5)) + (", ..." if len(endings) > 5 else "")
    pip = f": pip install 'fewstep[heif]' reads {' and '.join(unread)}" if (unread := missing_plugins(set(endings))) else ""
    return [f"{len(others)} files of other types ({kinds}; {others[0]}{', ...' if len(others) > 1 else ''}){pip}"]


def class_split_level(folder: Path, pictures: list[Path], layout: str) -> int | None:
    """How deep the folders of splits are: 0 (train/cat/1.png), 1 (cat/train/1.png), None for none; raises `two_readings`."""
    nested = [file for file in pictures if len(file.parts) > 1]
    if layout == "classes":
        return None
    tops = {file.parts[0] for file in nested}
    splits = {name for name in tops if split_of(name)}
    holds_classes = any(len(file.parts) > 2 and file.parts[0] in splits for file in pictures)
    if splits and (layout == "splits" or (holds_classes and (len(set(map(split_of, splits))) > 1 or splits == tops))):
        return 0
    if splits and (holds_classes or (len(splits) > 1 and splits == tops)):
        raise two_readings(folder, f"{listed(tops)} may be classes", f"{listed(splits)} may be splits")
    inner = [file for file in nested if len(file.parts) > 2 and split_of(file.parts[1])]
    if inner and (layout == "splits" or len(inner) == len(nested)):
        return 1
    if len({split_of(file.parts[1]) for file in inner}) > 1:
        names = {file.parts[1] for file in inner}
        raise two_readings(folder, f"{listed(names)} in {inner[0].parts[0]} may be parts of that class", "they may be splits")
    return None


def two_readings(folder: Path, classes: str, splits: str) -> InputError:
    """The error of a folder whose names may be classes or splits."""
    remedy = '(set data.layout = "splits", or name the folder of one)'
    return InputError(f'{folder}: {classes} (set data.layout = "classes"), or {splits} {remedy}')


def listed(names: Iterable[str]) -> str:
    """The first five of the names."""
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (", ..." if len(ordered) > 5 else "")


def of_split(
    folder: Path, pictures: list[Path], settings: SourceSettings, level: int | None, left: list[str]
) -> tuple[Path, list[Path]]:
    """The folder and the pictures of the split, whose folders are `level` deep; with level None all. What is in none joins `left`."""
    split = settings.split
    if level is None:
        if split != "train":
            raise InputError(f"{folder} has no splits, so no '{split}': give the folder of that split as data.path")
        return folder, pictures
    names = {file.parts[level] for file in pictures if len(file.parts) > level + 1}
    names = {name for name in names if split_of(name) or name == split}
    odd = Counter(str(file.parent) for file in pictures if len(file.parts) < level + 2 or file.parts[level] not in names)
    left += [f"{count} pictures in no split ({name})" for name, count in sorted(odd.items())]
    chosen = names & {split} or {name for name in names if split_of(name) == split_of(split) is not None}
    if not chosen:
        raise InputError(f"{folder} has no split '{split}': set data.split to one of {listed(names)}")
    if level:
        return folder, [file for file in pictures if len(file.parts) > 2 and file.parts[1] in chosen]
    if len(chosen) > 1:
        raise InputError(f"{folder}: the folders {listed(chosen)} are all '{split}': set data.split to the name of one")
    name = chosen.pop()
    return folder / name, [file.relative_to(name) for file in pictures if file.parts[0] == name]


def with_captions(
    folder: Path, pictures: list[Path], captions: Mapping[Path, Path], settings: SourceSettings, left: list[str]
) -> Source:
    """Pictures, given relative to the folder, with the captions in files beside them. What is left out joins `left`."""
    having = [file for file in pictures if file in captions]
    if without := [file for file in pictures if file not in captions]:
        left.append(f"{len(without)} pictures without a caption ({without[0]}{', ...' if len(without) > 1 else ''})")

    def example(k: int) -> Example:
        file, text = having[k], captions[having[k]]
        caption, fault = None, ""
        try:
            caption = read_caption(folder / text, settings.caption_column)
        except FileNotFoundError:
            fault = f"{NO_CAPTION} ({text.name} is missing)"
        except (OSError, ValueError) as error:
            fault = f"its caption {text.name} cannot be read ({first_line(error)})"
        return Example(folder / file, caption, file.as_posix(), fault)

    if not having:
        raise InputError(f"{folder}: none of the {len(pictures)} pictures of the split has a caption beside it: add them")
    return captioned(str(folder), numbered("captions", str(folder), None, example, len(having)).examples, len(having))


def with_classes(folder: Path, pictures: list[Path], settings: SourceSettings, left: list[str]) -> Source:
    """Pictures in one sub-folder a class, at any depth; labels follow the sorted names. What is left out joins `left`."""
    inside = [file for file in pictures if len(file.parts) > 1]
    if not inside:
        many = f"the {len(pictures)} pictures lie in no sub-folder"
        raise InputError(f"{folder} {settings.but}{many}: put those of each class in a sub-folder")
    if outside := [file for file in pictures if len(file.parts) == 1]:
        left.append(f"{len(outside)} pictures outside the sub-folders ({outside[0]}, ...)")
    classes = tuple(sorted({nfc(file.parts[0]) for file in inside}))
    label = {name: k for k, name in enumerate(classes)}
    folders = {entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith((".", "__"))}
    if empty := {name for name in folders if nfc(name) not in classes and name.casefold() not in SYSTEM}:
        left.append(f"{len(empty)} sub-folders without pictures, which are no classes ({listed(empty)})")

    def example(k: int) -> Example:
        return Example(folder / inside[k], label[nfc(inside[k].parts[0])], inside[k].as_posix())

    return numbered("folder", str(folder), classes, example, len(inside))
