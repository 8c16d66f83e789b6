"""Pictures of three classes, in each form in which data comes, and damaged ones: what tests of data share."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.data.loading import open_data
from fewstep.errors import InputError

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}
quiet = {"report": lambda line: None}


def picture(k: int, colour=(0, 0, 0), size=(6, 6)) -> Image.Image:
    """One colour, with its number in the top left pixel's blue channel."""
    image = Image.new("RGB", size, colour)
    image.putpixel((0, 0), (colour[0], colour[1], k))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """3 classes with 4 pictures each, 6 x 6."""
    root = tmp_path_factory.mktemp("folder")
    for label, (name, colour) in enumerate(COLOURS.items()):
        (root / name).mkdir()
        for k in range(4):
            picture(10 * label + k, colour).save(root / name / f"{k}.png")
    return root


def rows_of(folder: Path) -> dict[str, list]:
    files = sorted(folder.rglob("*.png"))
    return {
        "image": [{"bytes": f.read_bytes(), "path": f"{f.parent.name}-{f.name}"} for f in files],
        "label": [sorted(COLOURS).index(f.parent.name) for f in files],
    }


def as_dataset(folder: Path, label=None):
    import datasets

    columns = {"image": datasets.Image(), "label": label or datasets.ClassLabel(names=sorted(COLOURS))}
    return datasets.Dataset.from_dict(rows_of(folder), features=datasets.Features(columns))


def write_tar(path: Path, folder: Path, break_one: bool = False) -> None:
    with tarfile.open(path, "w") as tar:
        for k, (image, label) in enumerate(zip(*rows_of(folder).values(), strict=True)):
            data = image["bytes"][:50] if break_one and k == 1 else image["bytes"]
            for name, content in ((f"{k:04}.png", data), (f"{k:04}.cls", str(label).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="module")
def tables(folder, tmp_path_factory) -> dict[str, Path]:
    """The same pictures in every form that `datasets` opens."""
    import datasets

    root = tmp_path_factory.mktemp("tables")
    made = as_dataset(folder)
    (root / "parquet").mkdir()
    made.select(range(7)).to_parquet(root / "parquet" / "train-00000-of-00002.parquet")
    made.select(range(7, 12)).to_parquet(root / "parquet" / "train-00001-of-00002.parquet")
    made.save_to_disk(root / "saved")
    datasets.DatasetDict({"train": made, "test": made.select(range(5))}).save_to_disk(root / "saved_splits")
    (root / "tar").mkdir()
    write_tar(root / "tar" / "train-0000.tar", folder)
    (root / "tar" / "classes.json").write_text(json.dumps(sorted(COLOURS)))
    return {p.name: p for p in root.iterdir()}


@pytest.fixture
def damaged(folder, tmp_path) -> Path:
    """The folder's pictures, and six files that are no pictures whatever they are called, and things to pass over in silence."""
    for name in COLOURS:
        (tmp_path / name).mkdir()
        for file in (folder / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "red" / "cut.jpg").write_bytes(encoded(noise, "JPEG")[:2000])
    (tmp_path / "red" / "cut.png").write_bytes(encoded(noise)[:2000])
    (tmp_path / "red" / "empty.webp").write_bytes(b"")
    (tmp_path / "blue" / "text.JPEG").write_text("not a picture")
    (tmp_path / "blue" / "float.tiff").write_bytes(encoded(Image.new("F", (6, 6)), "TIFF"))
    (tmp_path / "blue" / "bomb.png").write_bytes(encoded(Image.new("1", (14000, 13000))))
    (tmp_path / "blue" / "notes.txt").write_text("passed over")
    (tmp_path / "blue" / ".hidden.png").write_text("passed over")
    (tmp_path / "nothing").mkdir()
    return tmp_path


def refuse(match: str, **arguments) -> None:
    with pytest.raises(InputError, match=match) as caught:
        open_data(**{**quiet, **arguments})
    assert "\n" not in str(caught.value)


@pytest.fixture(autouse=True)
def short_streams_without_network(monkeypatch):
    """`datasets` neither tries the network nor sleeps 5 s after each pass over parquet (for threads of pyarrow at exit)."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("fewstep.data.tables.SHUFFLE_BUFFER", 5)  # shorter than the data
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
