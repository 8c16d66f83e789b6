"""Sources agree with one another, decoding with arithmetic, batches with their position; each wrong input has its line."""

import gc
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.data.class_names import class_order
from fewstep.data.loading import Data, StreamingData, open_data
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


def content(images: torch.Tensor, labels: torch.Tensor) -> list[tuple[bytes, int]]:
    return sorted((x.numpy().tobytes(), int(y)) for x, y in zip(images, labels, strict=True))


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


def test_digits_are_bundled():
    data = open_data(name="digits")
    assert isinstance(data, Data) and data.pixels.dtype == torch.uint8
    assert (len(data), data.size, data.channels, data.classes) == (1797, 8, 1, tuple("0123456789"))
    assert data.labels[:10].tolist() == list(range(10)) and float(data.images().double().mean()) == pytest.approx(77.8537232192543)
    assert (int(data.images().min()), int(data.images().max())) == (0, 255)
    assert json.loads(json.dumps(data.description)) == data.description
    assert open_data(name="digits", size=16, channels=3).images().shape == (1797, 3, 16, 16)


def test_a_folder_gives_its_classes_in_alphabetical_order(folder):
    data = open_data(path=str(folder))
    assert (data.classes, data.size, data.channels, data.skipped) == (("blue", "green", "red"), 6, 3, ())
    assert data.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.images()[:, 2, 0, 0].tolist() == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    assert data.images()[4, :, 3, 3].tolist() == [0, 255, 0]


@pytest.mark.parametrize("form", ["parquet", "saved", "saved_splits", "tar"])
def test_every_form_of_datasets_gives_what_the_folder_gives(form, folder, tables):
    a, b = open_data(path=str(folder)), open_data(path=str(tables[form]))
    assert a.classes == b.classes and torch.equal(a.images(), b.images()) and torch.equal(a.labels, b.labels)
    assert a.description["sha256"] == b.description["sha256"]


def test_a_single_parquet_or_tar_file_opens(tables):
    assert len(open_data(path=str(tables["parquet"] / "train-00000-of-00002.parquet"), **quiet)) == 7
    assert len(open_data(path=str(tables["tar"] / "train-0000.tar"))) == 12


def test_splits_are_chosen_by_name(folder, tables, tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(folder)
    assert open_data(path=str(tmp_path), split="validation").description["path"].endswith("val")
    assert len(open_data(path=str(tables["saved_splits"]), split="test", **quiet)) == 5
    refuse(r"no split 'test': set data\.split to one of train, val", path=str(tmp_path), split="test")
    refuse(r"no split 'dev': set data\.split to one of train, test", path=str(tables["saved_splits"]), split="dev")


def test_links_are_followed_but_not_round_in_circles(folder, tmp_path):
    for name in COLOURS:
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "round").mkdir()
    (tmp_path / "round" / "again").symlink_to(tmp_path)
    data = open_data(path=str(tmp_path), **quiet)
    assert (len(data), data.classes) == (12, ("blue", "green", "red"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # datasets 5.2 leaves metadata.csv open until it is collected
def test_a_folder_with_metadata_is_opened_by_datasets(folder, tmp_path):
    lines = ["file_name,label"]
    for k, name in enumerate(("red", "blue", "red")):
        picture(k, COLOURS[name]).save(tmp_path / f"{k}.png")
        lines.append(f"{k}.png,{name}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    data = open_data(path=str(tmp_path))
    assert data.classes == ("blue", "red")
    assert data.images()[data.labels == 1][:, 0, 3, 3].tolist() == [255, 255]
    gc.collect()


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


def test_what_cannot_be_read_is_skipped_counted_and_named(damaged, folder):
    lines = []
    data = open_data(path=str(damaged), report=lines.append)
    names = ["blue/bomb.png", "blue/float.tiff", "blue/text.JPEG", "red/cut.jpg", "red/cut.png", "red/empty.webp"]
    assert [line.split(":")[0] for line in data.skipped] == names
    assert data.description["skipped"] == 6
    assert torch.equal(data.images(), open_data(path=str(folder)).images())
    assert any("6 of 18 pictures" in line and "blue/bomb.png" in line for line in lines)
    assert any("nothing" in line for line in lines)
    assert all("\n" not in line and str(damaged) not in line for line in data.skipped)
    write_tar(damaged / "a.tar", folder, break_one=True)
    data = open_data(path=str(damaged / "a.tar"), **quiet)
    assert len(data) == 11 and data.skipped[0].startswith("0001.png: ")


def test_a_folder_of_damaged_pictures_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_text("no")
    for streaming in (False, True):
        refuse("can be read", path=str(tmp_path), size=4, streaming=streaming)


@pytest.mark.parametrize("flip", [False, True])
def test_a_batch_depends_on_its_position_alone(folder, flip):
    data = open_data(path=str(folder), flip=flip, seed=3)
    images, labels = data.batch(5, 40)  # crosses three epochs
    assert (images.dtype, labels.dtype, images.shape) == (torch.float32, torch.int64, (40, 3, 6, 6))
    assert (float(images.min()), float(images.max())) == (-1, 1)
    for start, count in ((5, 1), (11, 2), (30, 15)):
        x, y = open_data(path=str(folder), flip=flip, seed=3).batch(start, count)
        here = slice(start - 5, start - 5 + count)
        assert torch.equal(x, images[here]) and torch.equal(y, labels[here])


def test_every_epoch_has_every_picture_once_in_an_order_of_its_own(folder):
    data = open_data(path=str(folder), seed=1)
    marks = [((data.batch(12 * epoch, 12)[0][:, 2, 0, 0] + 1) * 127.5).round().int().tolist() for epoch in range(3)]
    assert sorted(marks[0]) == sorted(marks[1]) == sorted(marks[2]) == sorted(data.images()[:, 2, 0, 0].tolist())
    assert len({tuple(m) for m in marks}) == 3
    assert not torch.equal(open_data(path=str(folder), seed=2).batch(0, 12)[0], data.batch(0, 12)[0])
    for start, count in ((-1, 4), (0, 0)):
        with pytest.raises(InputError, match="at least"):
            data.batch(start, count)


def test_half_of_the_pictures_are_mirrored_anew_each_epoch():
    plain, flipped = (open_data(name="digits", flip=flip, seed=5).batch(0, 2 * 1797)[0] for flip in (False, True))
    kept = (plain == flipped).flatten(1).all(1)
    assert torch.equal(flipped[~kept], plain[~kept].flip(-1))
    assert 0.46 < kept.float().mean() < 0.54
    assert not torch.equal(kept[:1797], kept[1797:])


@pytest.mark.parametrize("form", ["parquet", "saved", "tar", "folder"])
def test_a_stream_has_the_content_of_the_whole_and_resumes_anywhere(form, folder, tables):
    def stream(flip: bool = True) -> StreamingData:
        data = open_data(path=str({**tables, "folder": folder}[form]), size=6, streaming=True, seed=4, flip=flip)
        assert isinstance(data, StreamingData)
        return data

    data, whole = stream(), open_data(path=str(folder))
    assert (data.classes, data.size, data.channels) == (("blue", "green", "red"), 6, 3)
    with pytest.raises(TypeError):
        len(data)  # pyright: ignore[reportArgumentType]
    images, labels = (torch.cat(parts) for parts in zip(*(data.batch(start, 7) for start in range(0, 42, 7)), strict=True))
    for start, count in ((0, 5), (3, 4), (30, 12), (11, 2), (13, 1)):  # back, forward, over the ends of epochs
        x, y = data.batch(start, count)
        assert torch.equal(x, images[start : start + count]) and torch.equal(y, labels[start : start + count])
    x, y = stream().batch(29, 5)  # resumed in another process
    assert torch.equal(x, images[29:34]) and torch.equal(y, labels[29:34])
    assert not torch.equal(images[:12], images[12:24])
    assert json.loads(json.dumps(data.description))["images"] == 12
    plain = stream(flip=False)
    for epoch in range(2):
        images, labels = plain.batch(12 * epoch, 12)
        assert content(((images + 1) * 127.5).round().to(torch.uint8), labels) == content(whole.images(), whole.labels)


def test_a_stream_puts_the_next_readable_picture_in_place_of_one_that_is_not(damaged):
    lines = []
    data = open_data(path=str(damaged), size=6, streaming=True, report=lines.append)
    images, labels = data.batch(0, 36)
    assert len(data.skipped) == data.description["skipped"] == 6
    assert sum("skipped a picture" in line for line in lines) == 6
    assert set(labels.tolist()) == {0, 1, 2}
    again = open_data(path=str(damaged), size=6, streaming=True, **quiet)
    for start in range(35, -1, -1):
        assert torch.equal(again.batch(start, 1)[0][0], images[start])


def test_a_stream_of_plain_labels_needs_the_names_of_its_classes(folder, tmp_path):
    import datasets

    as_dataset(folder, datasets.Value("int64")).to_parquet(tmp_path / "train.parquet")
    refuse(r"set data\.classes = ", path=str(tmp_path), size=6, streaming=True)
    assert open_data(path=str(tmp_path)).classes == ("0", "1", "2")
    assert open_data(path=str(tmp_path), size=6, streaming=True, classes=["x", "y", "z"]).classes == ("x", "y", "z")
    (tmp_path / "classes.json").write_text('["a", "b"]')
    with pytest.raises(InputError, match=r"label 2 is outside 0\.\.1"):
        open_data(path=str(tmp_path), size=6, streaming=True).batch(0, 12)


@pytest.mark.parametrize("streaming", [False, True])
def test_labels_are_matched_with_a_model_s_classes_by_name(folder, streaming, capsys):
    known = ("red", "blue", "green")  # the data's are blue, green, red
    given, ordered = (open_data(path=str(folder), size=6, streaming=streaming, seed=1) for _ in range(2))
    ordered = ordered.with_classes(known)
    (x, labels), (y, matched) = given.batch(0, 12), ordered.batch(0, 12)
    assert torch.equal(x, y) and ordered.classes == known
    assert [known[k] for k in matched] == [("blue", "green", "red")[k] for k in labels]
    assert "matched by name" in capsys.readouterr().err
    assert torch.equal(ordered.with_classes(known).batch(0, 12)[1], matched)
    assert torch.equal(open_data(path=str(folder), seed=1).with_classes(("0", "1", "2")).labels, open_data(path=str(folder)).labels)
    with pytest.raises(InputError, match=r"red; .*yellow"):
        given.with_classes(("blue", "green", "yellow"))
    with pytest.raises(InputError, match="number of classes is 3, the model's 2"):
        given.with_classes(("blue", "green"))
    with pytest.raises(InputError, match=r'3 of the 3 .*blue, green, red; .*n1, n2, n3.*data.class_names = "by-order"'):
        given.with_classes(("n1", "n2", "n3"))
    named = given.with_classes(("n1", "n2", "n3"), "by-order")
    assert named.classes == ("n1", "n2", "n3") and torch.equal(named.batch(0, 12)[1], labels)
    assert "n1, n2, n3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ours", "known", "order"),
    [
        (("2", "1", "0"), ("0", "1", "2"), [2, 1, 0]),  # numbers are names where the sets agree
        (("1", "2", "3"), ("a", "b", "c"), None),  # names of classes that begin at 1 are no numbers from 0
        (("0", "1", "2"), ("a", "b", "c"), [0, 1, 2]),
        (("a", "b", "c"), ("0", "1", "2"), [0, 1, 2]),
        (("café", "b"), ("b", "cafe\u0301"), [1, 0]),  # composed and decomposed
    ],
)
def test_class_names_of_numbers_and_of_other_spellings(ours, known, order):
    if order is None:
        with pytest.raises(InputError, match=r"data\.class_names"):
            class_order(ours, known, "here")
    else:
        assert class_order(ours, known, "here", lambda line: None).tolist() == order
    assert class_order(ours, known, "here", lambda line: None, "by-order").tolist() == list(range(len(known)))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, r"one of data\.path and data\.name"),
        ({"name": "digits", "path": "x"}, r"one of data\.path and data\.name"),
        ({"name": "digit"}, "did you mean 'digits'"),
        ({"name": "digits", "size": 0}, r"from 1 to 8192"),
        ({"name": "digits", "channels": 2}, "neither 1"),
        ({"name": "digits", "seed": -1}, "seed is -1"),
        ({"name": "digits", "split": "test"}, "no split 'test'"),
        ({"name": "digits", "streaming": True}, r"set data\.streaming = false"),
        ({"name": "digits", "size": 64, "memory_limit": 10**6}, r"set data\.streaming = true .* or a smaller data\.size"),
        ({"path": "/nowhere/at/all"}, "no file or folder '/nowhere/at/all'"),
        ({"path": "nobody/nothing"}, "neither a file or folder here nor a data set that the hub"),
        ({"path": "nobody/nothing", "streaming": True, "size": 8}, "neither a file or folder here nor a data set that the hub"),
        ({"path": "nobody/nothing", "split": "test"}, "neither a file or folder here nor a data set that the hub"),
        ({"path": __file__}, r"type '\.py'"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, match):
    refuse(match, **arguments)


def test_a_folder_without_classes_is_refused(tmp_path):
    refuse("holds no pictures", path=str(tmp_path))
    picture(0).save(tmp_path / "a.png")
    refuse("lie in no sub-folder", path=str(tmp_path))
    (tmp_path / "only").mkdir()
    picture(0).save(tmp_path / "only" / "a.png")
    refuse(r"only one class \('only'\)", path=str(tmp_path))
    refuse(r"only one class \('only'\)", path=str(tmp_path), size=6, streaming=True)
    refuse("no splits, so no 'test'", path=str(tmp_path), split="test")


def test_pictures_of_several_sizes_need_a_size(folder, tmp_path):
    for name, size in (("a", (6, 6)), ("b", (5, 5)), ("c", (4, 7))):
        (tmp_path / name).mkdir()
        picture(0, size=size).save(tmp_path / name / "x.png")
    refuse(r"differ in size \(a/x.png is 6x6, b/x.png is 5x5\): set data\.size", path=str(tmp_path))
    assert open_data(path=str(tmp_path), size=3).images().shape == (3, 3, 3, 3)
    (tmp_path / "b" / "x.png").unlink()
    (tmp_path / "a" / "x.png").unlink()
    refuse(r"4x7, not square: set data\.size", path=str(tmp_path))
    refuse(r"needs a size: set data\.size", path=str(folder), streaming=True)


def test_grey_and_colour_together_become_colour(tmp_path):
    for name, image in (("a", Image.new("L", (4, 4), 70)), ("b", picture(0, size=(4, 4))), ("c", Image.new("L", (4, 4), 80))):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "x.png")
    assert open_data(path=str(tmp_path)).images()[[0, 2], :, 1, 1].tolist() == [[70] * 3, [80] * 3]


def test_wrong_columns_are_refused(folder, tables, tmp_path):
    import datasets

    path = str(tables["parquet"])
    refuse("no column 'imag' for data.image_column: did you mean 'image'", path=path, image_column="imag")
    refuse("no column 'lab' for data.label_column: did you mean 'label'", path=path, label_column="lab")
    refuse("are lists|are .*: set data.label_column", path=path, label_column="image")
    refuse("no split 'validation': set data.split to one of train", path=path, split="validation")
    made = as_dataset(folder)
    second = as_dataset(folder).select_columns("image").rename_column("image", "second")
    two = datasets.concatenate_datasets([made.rename_column("image", "first"), second], axis=1)
    for name, table, match in (
        ("no_label", made.remove_columns("label"), "no column of labels"),
        ("no_image", made.remove_columns("image"), "no column that is plainly the picture"),
        ("two", two, "plainly the picture: set data.image_column"),
        ("float", made.cast_column("label", datasets.Value("float32")), "labels in column 'label' are float32"),
    ):
        table.save_to_disk(tmp_path / name)
        refuse(match, path=str(tmp_path / name))


def test_a_missing_label_and_a_truncated_shard_are_refused(folder, tables, tmp_path):
    import datasets

    rows = rows_of(folder)
    rows["label"][0] = None
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=sorted(COLOURS))})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "a")
    refuse("has no label", path=str(tmp_path / "a"))
    for form, name in (("parquet", "train-00000-of-00002.parquet"), ("tar", "train-0000.tar")):
        (tmp_path / name).write_bytes((tables[form] / name).read_bytes()[:700])
        refuse(name, path=str(tmp_path / name), classes=["a", "b", "c"])
