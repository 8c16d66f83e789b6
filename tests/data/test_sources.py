# ruff: noqa: F811 - fixtures of another file are imported, then named as arguments
"""Every form in which data comes gives the same examples: folders, splits, parquet, saved data sets, tar shards."""

import gc
import json

import pytest
import torch
from PIL import Image

from coloured_pictures import COLOURS, folder, picture, quiet, refuse, short_streams_without_network, tables  # noqa: F401 - fixtures
from fewstep.data.loading import Data, open_data


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


def test_grey_and_colour_together_become_colour(tmp_path):
    for name, image in (("a", Image.new("L", (4, 4), 70)), ("b", picture(0, size=(4, 4))), ("c", Image.new("L", (4, 4), 80))):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "x.png")
    assert open_data(path=str(tmp_path)).images()[[0, 2], :, 1, 1].tolist() == [[70] * 3, [80] * 3]
