# ruff: noqa: F811 - fixtures of another file are imported, then named as arguments
"""A batch is a function of its position: shuffled epochs, mirrored pictures, and streams that resume anywhere."""

import json

import pytest
import torch

from coloured_pictures import damaged, folder, quiet, short_streams_without_network, tables  # noqa: F401 - fixtures
from fewstep.data.loading import StreamingData, open_data
from fewstep.errors import InputError


def content(images: torch.Tensor, labels: torch.Tensor) -> list[tuple[bytes, int]]:
    return sorted((x.numpy().tobytes(), int(y)) for x, y in zip(images, labels, strict=True))


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
