"""Folders of pictures: a sub-folder a class, a .txt with the caption beside each picture, either perhaps in folders of splits."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fewstep.data.decoding import Example
from fewstep.data.sources import NO_CAPTION, Source, SourceSettings, captioned, numbered
from fewstep.errors import InputError

# fmt: off
PICTURES = {
    ".apng", ".avif", ".bmp", ".cur", ".dds", ".dib", ".gif", ".icns", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".ras", ".sgi", ".tga", ".tif", ".tiff", ".webp", ".xbm",
}
# fmt: on
SPLITS = {"train": "train", "training": "train"}  # by the name of a folder
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
SPLITS |= dict.fromkeys(("test", "testing", "eval", "evaluation"), "test")
SYSTEM = {"@eadir", "$recycle.bin", "lost+found", "system volume information"}  # what file servers and systems put beside data


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
    return [file for file in files if file.suffix.lower() in PICTURES and not in_system_folder(file)]


def in_system_folder(file: Path) -> bool:
    """Whether one of the folders that a file is in belongs to a file server or an operating system."""
    return any(part.casefold() in SYSTEM for part in file.parts[:-1])


def has_captions(files: list[Path]) -> bool:
    """Whether a .txt of the same name lies beside one of the pictures."""
    texts = {file.with_suffix("") for file in files if file.suffix.lower() == ".txt"}
    return any(file.with_suffix("") in texts for file in pictures_of(files))


def class_names(pictures: list[Path]) -> set[str]:
    """The names of the folders that would be classes, those within folders of splits included."""
    depths = [(file, 1 if split_of(file.parts[0]) else 0) for file in pictures]
    return {file.parts[depth] for file, depth in depths if len(file.parts) > depth + 1}


def open_folder(folder: Path, files: list[Path], settings: SourceSettings) -> Source:
    """The pictures of the folder, of the split that is asked for, with captions where those come first, else with classes.

    Raises:
        InputError: there are no pictures, neither captions nor classes, no such split, or two ways to read the folder.
    """
    pictures, hidden = pictures_of(files), Counter(file.parts[0] for file in files if in_system_folder(file))
    if not pictures:
        raise InputError(f"{folder} holds no pictures ({len(files)} other files): put the pictures of each class in a sub-folder")
    captions = settings.captions_first and settings.layout in ("auto", "captions") and has_captions(files)
    if settings.layout == "captions" and not captions:
        raise InputError(f"{folder}: data.layout = 'captions', and no picture has a .txt of the same name beside it: add them")
    left = [f"{count} files in {name}, a folder of the system" for name, count in hidden.items()]
    if captions:
        tops = {file.parts[0] if len(file.parts) > 1 else "" for file in pictures}
        splits = {split_of(name) for name in tops} - {None}
        level = 0 if len(splits) > 1 or (splits and all(map(split_of, tops))) else None
        source = with_captions(*of_split(folder, pictures, settings, level, left))
    else:
        level = class_split_level(folder, pictures, settings.layout)
        source = with_classes(*of_split(folder, pictures, settings, level, left), settings, left)
    if left:
        settings.report(f"{folder}: left out: {'; '.join(left)}")
    return source


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


def with_captions(folder: Path, pictures: list[Path]) -> Source:
    """Pictures, given relative to the folder, with the .txt of the same name beside each."""

    def example(k: int) -> Example:
        file, text = pictures[k], pictures[k].with_suffix(".txt")
        caption, fault = None, ""
        try:
            caption = (folder / text).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            fault = f"{NO_CAPTION} ({text.name} is missing)"
        except (OSError, UnicodeDecodeError) as error:
            fault = f"its caption {text.name} cannot be read ({error})"
        return Example(folder / file, caption, file.as_posix(), fault)

    return captioned(str(folder), numbered("captions", str(folder), None, example, len(pictures)).examples, len(pictures))


def with_classes(folder: Path, pictures: list[Path], settings: SourceSettings, left: list[str]) -> Source:
    """Pictures in one sub-folder a class, at any depth; labels follow the sorted names. What is left out joins `left`."""
    inside = [file for file in pictures if len(file.parts) > 1]
    if not inside:
        many = f"the {len(pictures)} pictures lie in no sub-folder"
        raise InputError(f"{folder} {settings.but}{many}: put those of each class in a sub-folder")
    if outside := [file for file in pictures if len(file.parts) == 1]:
        left.append(f"{len(outside)} pictures outside the sub-folders ({outside[0]}, ...)")
    classes = tuple(sorted({file.parts[0] for file in inside}))
    label = {name: k for k, name in enumerate(classes)}
    folders = {entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith((".", "__"))}
    if empty := {name for name in folders - set(classes) if name.casefold() not in SYSTEM}:
        left.append(f"sub-folders without pictures, which are no classes ({listed(empty)})")

    def example(k: int) -> Example:
        return Example(folder / inside[k], label[inside[k].parts[0]], inside[k].as_posix())

    return numbered("folder", str(folder), classes, example, len(inside))
