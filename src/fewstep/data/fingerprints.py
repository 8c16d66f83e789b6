"""Fingerprints of files, folders and weights: what a cache was made of, known again without reading terabytes."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

WHOLE = 16 * 2**20  # bytes up to which a file is read whole
BLOCKS, BLOCK = 64, 64 * 2**10  # of a larger one, so many blocks of so many bytes


def of_file(path: Path) -> str:
    """SHA-256 of a file's size and content; of a large file, of 64 blocks spread over it from its first byte to its last."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size} ".encode())
    with path.open("rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
        else:
            for k in range(BLOCKS):
                file.seek((size - BLOCK) * k // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()


def of_files(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 of the names and fingerprints of files, given relative to the folder, in any order; where it lies does not matter."""
    regular = (file for file in files if (folder / file).is_file())  # a pipe may never end, a link lead nowhere
    lines = sorted(f"{file.as_posix()} {of_file(folder / file)}\n" for file in regular)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def of_weights(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names and values of tensors, wherever they are; real numbers as float32, counts as they are."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        value = value.detach().float() if value.is_floating_point() else value
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def of_pictures(pixels: Tensor, labels: Tensor, classes: tuple[str, ...]) -> str:
    """SHA-256 of pictures uint8 (n, c, h, w) with their labels int64 (n,) and the names of the classes."""
    digest = hashlib.sha256(repr((tuple(pixels.shape), classes)).encode() + labels.numpy().tobytes())
    digest.update(pixels.contiguous().numpy().data)
    return digest.hexdigest()


def whole(path: Path) -> str:
    """SHA-256 of all of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
