"""Arrays of an .npz as training data: every layout opens alike, and each wrong one is refused in one line."""

import numpy as np
import pytest
import torch

from fewstep.data.loading import open_data
from fewstep.errors import InputError

IMAGES, FOUR = np.zeros((4, 5, 5), np.uint8), np.arange(4)


def refuse(match: str, folder, **arguments) -> None:
    with pytest.raises(InputError, match=match) as caught:
        open_data(path=str(folder / "a.npz"), report=lambda line: None, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["nhw", "nhw1", "n1hw", "nhw3", "n3hw"])
def test_every_layout_of_an_npz_opens(layout, tmp_path):
    images = torch.arange(5 * 3 * 7 * 7).remainder(251).to(torch.uint8).reshape(5, 3, 7, 7)
    images = images if "3" in layout else images[:, :1]
    stored = {"nhw": images[:, 0], "nhw1": images.movedim(1, 3), "nhw3": images.movedim(1, 3)}.get(layout, images)
    np.savez(
        tmp_path / "a.npz", images=stored.numpy(), labels=np.array([0, 1, 2, 1, 0], np.uint8), classes=np.array(["a", "b", "c"])
    )
    data = open_data(path=str(tmp_path / "a.npz"))
    assert torch.equal(data.images(), images)
    assert (data.classes, data.labels.tolist(), data.size) == (("a", "b", "c"), [0, 1, 2, 1, 0], 7)
    assert open_data(path=str(tmp_path / "a.npz"), size=5, channels=1).images().shape == (5, 1, 5, 5)


def test_float_and_wide_integer_images_of_an_npz_are_scaled(tmp_path):
    images = np.linspace(0, 1, 4 * 9, dtype=np.float64).reshape(4, 3, 3)
    np.savez(tmp_path / "f.npz", images=images, labels=np.arange(4))
    np.savez(tmp_path / "i.npz", images=np.rint(images * 255).astype(np.int64), labels=np.arange(4))
    f, i = (open_data(path=str(tmp_path / name)) for name in ("f.npz", "i.npz"))
    assert torch.equal(f.images(), i.images())
    assert f.images().flatten()[[0, -1]].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (IMAGES, None, "no array 'labels' .it has: images"),
        (None, FOUR, "no array 'images'"),
        (IMAGES, np.arange(3), r"labels .* of shape \(3,\)"),
        (IMAGES, np.arange(4.0), "labels .* are float64"),
        (IMAGES, np.array([0, 1, -2, 1]), "label -2 is outside"),
        (IMAGES, np.array([0, 1, -1, 1]), "no label"),
        (IMAGES, np.array([0, 1, 10**9, 1]), "label 1000000000 is outside"),
        (IMAGES, np.ones(4, int), "only one class"),
        (np.zeros((4, 5, 5, 2), np.uint8), FOUR, r"shape \(4, 5, 5, 2\)"),
        (IMAGES[:0], FOUR[:0], "n > 0"),
        (np.zeros((4, 25), np.uint8), FOUR, r"shape \(4, 25\)"),
        (np.full((4, 5, 5), 256), FOUR, r"from 256 to 256: need integers in 0\.\.255"),
        (np.full((4, 5, 5), np.nan), FOUR, "from nan"),
        (np.full((4, 5, 5), "x"), FOUR, "need integers in"),
        (np.zeros((4, 5, 7), np.uint8), FOUR, "not square: set data.size"),
        (np.array([None] * 4), FOUR, "without objects"),
    ],
)
def test_a_wrong_npz_is_refused(images, labels, match, tmp_path):
    arrays = {"images": images, "labels": labels}
    np.savez(tmp_path / "a.npz", **{name: array for name, array in arrays.items() if array is not None})
    refuse(match, tmp_path)


def test_labels_outside_the_classes_of_an_npz_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES[:2], labels=np.array([0, 2]), classes=np.array(["a", "b"]))
    refuse(r"outside 0\.\.1", tmp_path)


def test_a_damaged_npz_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", images=np.random.default_rng(0).integers(0, 255, (9, 32, 32)), labels=np.arange(9))
    good = (tmp_path / "a.npz").read_bytes()
    for bad in (b"", b"text", good[: len(good) // 2], good[:200] + bytes(100) + good[300:]):
        (tmp_path / "a.npz").write_bytes(bad)
        refuse("cannot be read as an .npz", tmp_path)


def test_the_memory_limit_is_told_from_the_header_of_an_npz(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((9, 64, 64), np.uint8), labels=np.arange(9))
    refuse("GiB", tmp_path, memory_limit=20_000)


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[]", "[1, 2]"])
def test_a_wrong_list_of_classes_is_refused(text, tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=FOUR)
    (tmp_path / "classes.json").write_text(text)
    refuse(r"classes\.json is not", tmp_path)
