"""Buckets: the sizes that a rule makes, where a picture goes and what of it is seen, and the order of updates of one bucket each."""

import math
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from fewstep.data.batch_order import BatchOrder, shares
from fewstep.data.buckets import Buckets, Fit, described, usual_buckets
from fewstep.data.decoding import decode
from fewstep.errors import InputError

THREE = Buckets(((16, 16), (12, 24), (24, 12)))  # height, width


def test_the_usual_buckets_of_sdxl_are_those_that_it_was_trained_with():
    names = usual_buckets(1024, 1024, 64, 2.0).names
    assert names == (
        "704x1408", "768x1344", "768x1280", "832x1216", "896x1152", "960x1088", "1024x1024",
        "1088x960", "1152x896", "1216x832", "1280x768", "1344x768", "1408x704",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("height", "width", "step", "ratio"), [(512, 512, 64, 2), (512, 768, 64, 3), (1000, 1000, 64, 2), (16, 16, 2, 4)]
)
def test_usual_buckets_have_the_area_of_the_size_itself_or_less_and_no_proportions_twice(height, width, step, ratio):
    sizes = usual_buckets(height, width, step, ratio).sizes
    assert (height, width) in sizes
    for h, w in sizes:
        assert h * w <= height * width and 1 / ratio <= w / h <= ratio
        assert ((h % step, w % step) == (0, 0) and max(h * (w + step), (h + step) * w) > height * width) or (h, w) == (
            height,
            width,
        )
        assert (w, h) in sizes or (h, w) == (height, width)
    proportions = [w / h for h, w in sizes]
    assert proportions == sorted(set(proportions))


def test_a_step_larger_than_the_picture_leaves_its_own_size():
    assert usual_buckets(16, 16, 64, 2.0).names == ("16x16",)


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((40, 40), 0),
        ((45, 40), 0),
        ((100, 50), 1),
        ((2000, 60), 1),
        ((50, 100), 2),
        ((60, 2000), 2),
        ((1, 1), 0),
        ((141, 100), 0),
        ((142, 100), 1),
    ],
)
def test_a_picture_goes_to_the_nearest_proportions(size, bucket):
    width, height = size
    placed = THREE.place(np.zeros((height, width), np.uint8), 3)
    assert placed.bucket == bucket and placed.original == (height, width)
    assert placed.pixels.shape == (3, *THREE.sizes[bucket])


def coordinates(width, height):
    """A picture whose red says the column, its green the row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width)[None], np.arange(height)[:, None]
    return pixels


@pytest.mark.parametrize("size", [(48, 24), (64, 24), (48, 30), (96, 24)])
def test_the_central_part_is_seen_and_its_corner_is_told_in_pixels_of_the_resized_picture(size):
    width, height = size
    placed = THREE.place(coordinates(width, height), 3)
    scale = height / 12 if width / height >= 2 else width / 24
    top, left = placed.top_left
    assert top == pytest.approx((height / scale - 12) / 2, abs=1) and left == pytest.approx((width / scale - 24) / 2, abs=1)
    seen = placed.pixels.astype(float)
    columns, rows = seen[0].mean(0), seen[1].mean(1)
    assert np.abs(columns[2:-2] - (scale * (left + np.arange(24) + 0.5) - 0.5)[2:-2]).max() <= scale / 2 + 0.6
    assert np.abs(rows[2:-2] - (scale * (top + np.arange(12) + 0.5) - 0.5)[2:-2]).max() <= scale / 2 + 0.6
    assert placed.fit.cropped == pytest.approx(1 - 24 * 12 * scale**2 / (width * height), abs=0.02)
    assert placed.fit.enlarged == 0


def test_a_picture_is_placed_as_its_metadata_turn_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(coordinates(60, 30)).save(tmp_path / "turned.png", exif=exif)
    placed = THREE.place(tmp_path / "turned.png", 3)
    assert (placed.bucket, placed.original) == (2, (60, 30))
    assert (placed.pixels == decode(tmp_path / "turned.png", (24, 12), 3)).all()


def test_a_picture_smaller_than_its_bucket_is_enlarged_and_that_is_counted():
    fit = THREE.place(np.zeros((6, 6), np.uint8), 3).fit + THREE.place(np.zeros((40, 40), np.uint8), 3).fit
    assert (fit.count, fit.enlarged, fit.most_enlarged) == (2, 1, pytest.approx(16 / 6))


def test_the_line_names_the_counts_and_the_worst():
    fits = [Fit(3, 0.3, 0.25, "a.png"), Fit(), Fit(1, 0.5, 0.5, "b.png", 1, 2.5)]
    line = described(("16x16", "24x12", "12x24"), fits)
    assert (
        "3 16x16" in line
        and "24x12" not in line.replace("12x24", "")
        and "20.0%" in line
        and "50% of b.png" in line
        and "2.5" in line
    )


@pytest.mark.parametrize(("counts", "total"), [([10, 3, 1], 4), ([1000, 1, 17], 8), ([2, 3], 64), ([5, 0, 5], 3)])
def test_updates_have_one_bucket_each_and_all_examples_come_equally_often(counts, total):
    order, cycles = BatchOrder(counts, 5, total), 60
    updates, taken = cycles * order.updates, Counter()
    for update in range(updates):
        bucket, position = order.at(update * total, total)
        assert position == total * taken[bucket]  # its examples follow one another
        assert order.at(update * total + total - 1, 1) == (bucket, position + total - 1)
        taken[bucket] += 1
    for bucket, count in enumerate(counts):
        assert abs(taken[bucket] - updates * count / sum(counts)) < 2


@pytest.mark.parametrize(
    "counts", [[1000, 1, 17], [1, 1, 1, 1, 1, 1, 1], [0, 0, 5, 0], [3, 900, 2, 77, 10**9, 1, 4, 6, 800, 12, 13, 1, 1]]
)
def test_shares_add_up_and_never_fall(counts):
    before = shares(0, counts)
    for total in range(1, 3000):
        now = shares(total, counts)
        assert sum(now) == total and all(0 <= b - a <= 1 for a, b in zip(before, now, strict=True))
        before = now
    assert all(abs(share - 10**9 * count / sum(counts)) < 5 for share, count in zip(shares(10**9, counts), counts, strict=True))


def test_the_order_is_a_function_of_seed_and_position_and_shuffled():
    one, again, other = (BatchOrder([40, 40, 20], seed, 2) for seed in (1, 1, 2))
    sequence = [one.at(2 * k, 2)[0] for k in range(100)]
    assert [again.at(2 * k, 2)[0] for k in reversed(range(100))] == sequence[::-1]
    assert [other.at(2 * k, 2)[0] for k in range(100)] != sequence
    assert sequence[:50] != sequence[50:] and sequence != sorted(sequence)


def test_examples_of_two_updates_are_refused_and_one_bucket_has_none():
    with pytest.raises(InputError, match="two updates of 4"):
        BatchOrder([5, 5], 0, 4).at(2, 4)
    assert BatchOrder([5], 0, 4).at(2, 400) == (0, 2) and BatchOrder([5], 0, 4).aligned(3) == 3
    assert [BatchOrder([5, 5], 0, 4).aligned(k) for k in (0, 1, 4, 5)] == [0, 4, 4, 8]


def test_two_proportions_are_as_near_from_either_side():
    between = math.sqrt(24 / 12)
    assert [THREE.nearest(1000, round(1000 * between * by)) for by in (0.99, 1.01)] == [0, 1]
    assert [THREE.nearest(round(1000 * between * by), 1000) for by in (0.99, 1.01)] == [0, 2]
