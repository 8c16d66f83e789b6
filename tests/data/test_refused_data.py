# ruff: noqa: F811 - fixtures of another file are imported, then named as arguments
"""What cannot be read is left out, counted and named; each wrong argument, folder, column and file is refused in one line."""

import pytest
import torch

from coloured_pictures import (  # noqa: F401 - fixtures
    COLOURS,
    as_dataset,
    damaged,
    folder,
    picture,
    quiet,
    refuse,
    rows_of,
    short_streams_without_network,
    tables,
    write_tar,
)
from fewstep.data.loading import open_data


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
