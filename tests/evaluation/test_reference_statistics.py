"""The data as the measures see them: the same in batches, from the file, and for streamed data."""

import pytest
import torch

from fewstep.data.datasets import Data
from fewstep.data.loading import open_data
from fewstep.errors import InputError
from fewstep.evaluation import reference_statistics
from fewstep.evaluation.metrics import Statistics, saturation, sharpness
from fewstep.evaluation.reference_statistics import reference


class Corners:
    """Features without a network: 4 pixels."""

    name, dimension, size, accuracy_of, fingerprint = "corners", 4, None, None, "1"

    def __call__(self, images):
        assert len(images) <= 50
        return images[:, 0, 2:4, 3:5].flatten(1).double()

    def logits(self, features):
        return torch.nn.functional.one_hot(torch.zeros(len(features), dtype=torch.int64), 10).double()  # always class 0


def test_a_reference_in_batches_is_that_of_the_whole_and_comes_back_from_its_file(tmp_path, monkeypatch):
    data = open_data(name="digits")
    images = data.images().float() / 127.5 - 1
    found = reference(Corners(), data, tmp_path, limit=100, batch_size=50, quiet=True)
    rows = images[:, 0, 2:4, 3:5].flatten(1).double()
    torch.testing.assert_close(found.statistics.mean, rows.mean(0))
    torch.testing.assert_close(found.statistics.covariance, Statistics.of(rows).covariance)
    assert found.sharpness == pytest.approx(float(sharpness(images).mean()))
    assert found.saturation == pytest.approx(float(saturation(images).mean()))
    assert found.accuracy == pytest.approx(float((data.labels == 0).double().mean()))
    assert (found.count, found.features.shape, found.labels.shape) == (len(data), (100, 4), (100,))
    monkeypatch.setattr(reference_statistics, "_compute", None)
    again = reference(Corners(), data, tmp_path, limit=100)
    assert all(torch.equal(value, again.state()[key]) for key, value in found.state().items())
    assert again.features.dtype == torch.float64


def test_other_features_data_or_limits_have_other_files(tmp_path):
    data = open_data(name="digits")
    other = Corners()
    other.fingerprint = "2"
    flipped = Data(data.pixels.flip(-1), data.labels, data.classes)
    for features, images, limit in ((Corners(), data, 9), (other, data, 9), (Corners(), flipped, 9), (Corners(), data, 8)):
        reference(features, images, tmp_path, limit=limit, batch_size=50, quiet=True)
    assert len(list(tmp_path.glob("reference-8-*.safetensors"))) == 4


def test_a_file_that_was_cut_short_is_made_again(tmp_path):
    data = open_data(name="digits")
    first = reference(Corners(), data, tmp_path, batch_size=50, quiet=True)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(reference(Corners(), data, tmp_path, batch_size=50, quiet=True).statistics.mean, first.statistics.mean)


def test_streamed_data_are_read_for_one_epoch_and_not_kept(tmp_path):
    data = open_data(name="digits")

    class Stream:
        classes, description = data.classes, {"images": len(data)}
        batch = staticmethod(data.batch)

    found = reference(Corners(), Stream(), tmp_path, batch_size=50, quiet=True)
    known = reference(Corners(), data, tmp_path / "kept", batch_size=50, quiet=True)
    torch.testing.assert_close(found.statistics.covariance, known.statistics.covariance)
    assert not list(tmp_path.glob("*.safetensors"))
    Stream.description = {"images": None}
    with pytest.raises(InputError, match=r"set data\.streaming = false"):
        reference(Corners(), Stream(), tmp_path)


def test_one_image_is_refused(tmp_path):
    data = Data(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), ("a", "b"))
    with pytest.raises(InputError, match="1 images have no covariance"):
        reference(Corners(), data, tmp_path)
