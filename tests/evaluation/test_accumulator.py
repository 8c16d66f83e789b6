"""The data as the measures see them: the same in batches, from the file, and for streamed data."""

from dataclasses import replace

import pytest
import torch
from cheap_features import pixels

from fewstep.data.datasets import Data
from fewstep.data.loading import open_data
from fewstep.errors import InputError
from fewstep.evaluation.accumulator import data_statistics
from fewstep.evaluation.metrics import saturation, sharpness
from fewstep.evaluation.statistics import Statistics

FEATURES = pixels(19, 23, classes=10)


def computed(*arguments):
    return data_statistics(*arguments, batch_size=50, quiet=True)


def test_statistics_in_batches_are_those_of_the_whole_and_come_back_from_their_file(tmp_path):
    data = open_data(name="digits")
    images = data.images().float() / 127.5 - 1
    found, calls = computed(FEATURES, data, tmp_path), []
    rows = images.flatten(1)[:, 19:23].double()
    torch.testing.assert_close(found.moments.statistics().mean, rows.mean(0))
    torch.testing.assert_close(found.moments.statistics().covariance, Statistics.of(rows).covariance)
    assert found.mean("sharpness") == pytest.approx(float(sharpness(images).mean()))
    assert found.mean("saturation") == pytest.approx(float(saturation(images).mean()))
    right = (rows.argmax(1) == data.labels) & (rows.amax(1) >= 0) | (rows.amax(1) < 0) & (data.labels == 4)
    assert found.mean("right", "labelled") == pytest.approx(float(right.double().mean()), abs=0.01)  # logits after the fourth are 0
    assert found.moments.count == len(data)
    again = data_statistics(replace(FEATURES, run=calls.append), data, tmp_path)
    assert not calls and again.state().keys() == found.state().keys()
    assert all(torch.equal(value, again.state()[key]) for key, value in found.state().items())


def test_other_features_or_data_have_other_files_and_one_that_was_cut_short_is_made_again(tmp_path):
    data = open_data(name="digits")
    first = computed(FEATURES, data, tmp_path)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(computed(FEATURES, data, tmp_path).moments.mean, first.moments.mean)
    computed(replace(FEATURES, fingerprint="2"), data, tmp_path)
    computed(FEATURES, Data(data.pixels.flip(-1), data.labels, data.classes), tmp_path)
    assert len(list(tmp_path.glob("reference-8-*.safetensors"))) == 3


def test_streamed_data_are_read_for_one_epoch_and_not_kept(tmp_path):
    data = open_data(name="digits")

    class Stream:
        classes, description = data.classes, {"images": len(data)}
        batch = staticmethod(data.batch)

    found, known = computed(FEATURES, Stream(), tmp_path), computed(FEATURES, data, tmp_path / "kept")
    torch.testing.assert_close(found.moments.scatter, known.moments.scatter)
    assert not list(tmp_path.glob("*.safetensors"))
    Stream.description = {"images": None}
    with pytest.raises(InputError, match=r"data\.streaming = false"):
        computed(FEATURES, Stream(), tmp_path)
    data = Data(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), ("a", "b"))
    with pytest.raises(InputError, match="1 images"):
        computed(FEATURES, data, tmp_path)
