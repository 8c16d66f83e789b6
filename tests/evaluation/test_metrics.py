"""Measures against closed forms, and streams against the whole."""

import math

import pytest
import torch

from fewstep.errors import InputError
from fewstep.evaluation import metrics as measures
from fewstep.evaluation.statistics import Moments, Reservoir, Statistics


def normal(count, dimension, seed=0, mean=0.0, std=1.0):
    return mean + std * torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_moments_in_parts_are_those_of_the_whole_even_far_from_zero():
    x = normal(1003, 5, mean=1e6) @ normal(5, 5, seed=1)
    one, other = Moments.empty(5), Moments.empty(5)
    for part in x[:700].split(64):
        one.add(part)
    other.add(x[700:]).add(x[:0])
    whole = Moments.of_state(one.state()).merge(other).merge(Moments.empty(5))
    assert whole.count == 1003
    found, known = whole.statistics(), Statistics.of(x)
    torch.testing.assert_close(found.mean, known.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.covariance, known.covariance, rtol=1e-7, atol=1e-7)


def test_a_resumed_stream_goes_on_exactly():
    x = normal(90, 3)
    moments, reservoir = Moments.empty(3).add(x[:40]), Reservoir.empty(3, limit=7).add(x[:40], torch.arange(40), 0)
    again = Moments.of_state(moments.state()), Reservoir.of_state(reservoir.state())
    for m, r in ((moments, reservoir), again):
        m.add(x[40:])
        r.add(x[40:], torch.arange(40, 90), 40)
    assert torch.equal(moments.scatter, again[0].scatter)
    assert torch.equal(reservoir.rows, again[1].rows)
    with pytest.raises(InputError, match="1 samples have no covariance; at least 2"):
        Moments.empty(3).add(torch.zeros(1, 3)).statistics()


def test_a_reservoir_keeps_the_same_rows_however_the_work_is_shared():
    x, labels = torch.arange(500.0)[:, None].expand(-1, 3), torch.arange(500)
    whole = Reservoir.empty(3, limit=40, seed=3).add(x, labels, 0)
    parts = [Reservoir.empty(3, limit=40, seed=3) for _ in range(3)]
    for k, start in enumerate(range(0, 500, 33)):
        parts[k % 3].add(x[start : start + 33], labels[start : start + 33], start)
    merged = parts[2].merge(parts[0]).merge(parts[1])
    assert torch.equal(merged.features, whole.features)
    assert torch.equal(merged.labels, whole.features[:, 0].long())
    assert (len(merged.rows), len(whole.labels.unique())) == (40, 40)
    assert not torch.equal(Reservoir.empty(3, limit=40, seed=4).add(x, labels, 0).labels, whole.labels)


def test_a_reservoir_is_a_uniform_sample():
    kept = torch.zeros(50)
    for seed in range(400):
        kept[Reservoir.empty(1, limit=10, seed=seed).add(torch.zeros(50, 1), torch.arange(50), 0).labels] += 1
    assert kept.sum() == 4000
    assert (kept - 80).abs().max() < 5 * math.sqrt(400 * 0.2 * 0.8)
    assert Reservoir.empty(1, limit=10).add(torch.zeros(4, 1), torch.arange(4), 0).features.shape == (4, 1)


def gaussian(mean, variances):
    return Statistics(torch.tensor(mean, dtype=torch.float64), torch.diag(torch.tensor(variances, dtype=torch.float64)))


def test_frechet_distance_of_gaussians_with_a_known_one():
    one, other = gaussian([0.0, 0.0, 1.0], [1.0, 4.0, 9.0]), gaussian([3.0, 4.0, 1.0], [4.0, 4.0, 0.0])
    assert measures.frechet_distance(one, one) == pytest.approx(0, abs=1e-12)
    assert measures.frechet_distance(one, other) == pytest.approx(25 + 1 + 0 + 9)  # |m|^2 + (1-2)^2 + 0 + (3-0)^2
    assert measures.frechet_distance(other, one) == pytest.approx(35)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]  # which does not depend on the axes
    turned = [Statistics(turn @ s.mean, turn @ s.covariance @ turn.T) for s in (one, other)]
    assert measures.frechet_distance(*turned) == pytest.approx(35)
    a, b = normal(40_000, 3), normal(40_000, 3, seed=1, mean=2.0, std=3.0)
    assert measures.frechet_distance(Statistics.of(a), Statistics.of(b)) == pytest.approx(3 * (4 + 4), rel=0.03)


def score(logits):
    p = logits.double().softmax(1)
    return measures.inception_score(p.sum(0), float(torch.special.entr(p).sum()), len(p))


@pytest.mark.parametrize("classes", [2, 5])
def test_inception_score_of_the_extremes_and_in_one_split(classes):
    sure = 1000.0 * torch.eye(classes).repeat(20, 1)
    assert score(torch.zeros(100, classes)) == pytest.approx(1)
    assert score(sure) == pytest.approx(classes)
    assert score(sure[:1].expand(30, -1)) == pytest.approx(1)  # sure, but of one class alone
    assert score(sure[: classes + 1]) < classes
    logits = normal(101, classes, std=3.0)
    p = logits.softmax(1)
    assert score(logits) == pytest.approx(float((p * (p / p.mean(0)).log()).sum(1).mean().exp()), rel=1e-12)


def test_kid_is_zero_in_expectation_for_equal_distributions_alone():
    found = torch.tensor([measures.kid(normal(60, 4, seed=k), normal(60, 4, seed=1000 + k)) for k in range(200)])
    assert abs(found.mean()) < 4 * found.std() / math.sqrt(200)
    assert (found < 0).any()  # unbiased, so that it falls to both sides
    assert measures.kid(normal(500, 4), normal(400, 4, seed=1, mean=1.0), subsets=5, subset_size=200) > 10 * found.std()
    x, y = torch.full((5, 2), 1.0), torch.zeros(6, 2)
    assert measures.kid(x, y, subsets=3) == pytest.approx(8 + 1 - 2 * 1)  # k(x, x) = 2^3, k(y, y) = k(x, y) = 1
    with pytest.raises(InputError, match="at least 2 samples"):
        measures.kid(x[:1], y)


def test_precision_and_recall_of_sets_with_known_ones():
    x, far = normal(300, 2), normal(200, 2, seed=1, mean=100.0)
    assert measures.precision_recall(x, x) == (1, 1)
    assert measures.precision_recall(x, far) == (0, 0)
    assert measures.precision_recall(x, torch.cat([x, far]), rows=64) == (1, pytest.approx(300 / 500, abs=0.01))  # one mode of two
    assert measures.precision_recall(torch.cat([x, far]), x) == (pytest.approx(300 / 500, abs=0.01), 1)
    assert measures.precision_recall(x[:1].expand(50, -1), x) == (1, pytest.approx(0, abs=0.01))  # one image again and again
    assert measures.precision_recall(x, far, rows=7) == measures.precision_recall(x, far)
    with pytest.raises(InputError, match="at least 4"):
        measures.precision_recall(x[:3], far)


def test_diversity_is_the_distance_of_pairs_within_a_label():
    x, labels = normal(40, 3), torch.arange(40) % 4
    squares = [(a - b).square().sum() for k in range(4) for a in x[labels == k] for b in x[labels == k]]
    pairs = 4 * 10 * 9
    assert measures.diversity(x, labels) == pytest.approx(math.sqrt(sum(squares) / pairs))
    shifted = x + 1000 * labels[:, None]  # far from each other, but not within a label
    assert measures.diversity(shifted, labels * 5) == pytest.approx(measures.diversity(x, labels))
    assert measures.diversity(x[:1].expand(6, -1), torch.zeros(6)) == pytest.approx(0, abs=1e-12)
    assert measures.diversity(x[:4], torch.arange(4)) is None


def test_sharpness_is_zero_for_slopes_and_falls_with_blur():
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    assert (measures.sharpness(blurred) < 0.5 * measures.sharpness(images)).all()
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert measures.sharpness(board.expand(1, 1, 8, 8)).item() == pytest.approx(8 - 4 * 2 / 8)  # 8 inside, 2 less an edge pixel
    assert measures.sharpness(torch.full((2, 1, 5, 7), 0.3)).tolist() == [0, 0]
    torch.testing.assert_close(measures.sharpness(3 * board.expand(1, 1, 8, 8)), measures.sharpness(board.expand(1, 1, 8, 8)))


def test_saturation_grows_with_colour_and_with_contrast():
    grey, red = torch.zeros(1, 3, 4, 4), torch.tensor([1.0, -1, -1])[None, :, None, None].expand(1, 3, 4, 4)
    assert measures.saturation(grey).item() == 0
    assert measures.saturation(red).item() == 2
    assert measures.saturation(red / 2).item() == 1
    ends = torch.tensor([-1.0, 1.0]).repeat(8).view(1, 1, 4, 4)
    assert measures.saturation(ends).item() == 1
    assert measures.saturation(2 * ends).item() == 1  # as a saved image would be
    assert measures.saturation(ends / 4).item() == pytest.approx(0.25)


def test_psnr_of_a_known_distance():
    x = torch.zeros(2, 3, 5, 7)
    assert measures.psnr(x + 0.02, x) == pytest.approx(40, abs=1e-4)  # 2 / 0.02 = 100
    assert measures.rms(x + 0.5, x) == pytest.approx(0.5)
    assert measures.psnr(x, x) == math.inf
    assert measures.psnr(x + 5, x + 1) == math.inf  # both are white once saved


def test_bootstrap_interval_of_a_mean_is_the_known_one_and_repeats():
    x = normal(400, 1, mean=3.0, std=2.0)
    low, high = measures.bootstrap(lambda f: float(f.mean()), x, repeats=400)
    width = 2 * 1.96 * 2 / math.sqrt(400)
    assert low < float(x.mean()) < high
    assert high - low == pytest.approx(width, rel=0.15)
    assert measures.bootstrap(lambda f: float(f.mean()), x, repeats=400) == (low, high)
    with pytest.raises(InputError, match="at least 2"):
        measures.bootstrap(lambda f: 0.0, x, repeats=1)
    data, x = Statistics.of(normal(2000, 8)), normal(100, 8, seed=1)
    low, high = measures.bootstrap(lambda f: measures.frechet_distance(Statistics.of(f), data), x)
    assert low < measures.frechet_distance(Statistics.of(x), data) < high


def test_mind_of_distributions_with_a_known_one():
    x = normal(400, 5)
    shift = torch.tensor([3.0, 0.0, 0.0, 4.0, 0.0], dtype=torch.float64)
    assert measures.mind(x, x) == 0
    assert measures.mind(x + shift, x, projections=20_000) == pytest.approx(3 * 25, rel=0.03)  # 3 d times |shift|^2 / d
    assert measures.mind(3 * x, x - x.mean(0), projections=20_000) == pytest.approx(measures.mind(x - x.mean(0), 3 * x, 20_000))
    far = normal(20_000, 2, seed=1, std=3.0)
    assert measures.mind(far, normal(20_000, 2), projections=50) == pytest.approx(3 * 2 * (3 - 1) ** 2, rel=0.05)


def test_mind_compares_as_many_rows_of_each_and_is_the_same_again():
    x, y = normal(70, 3), normal(50, 3, seed=1)
    assert measures.mind(x, y) == measures.mind(x, y) == pytest.approx(measures.mind(y, x), abs=0.2)
    assert measures.mind(x, y, seed=1) != measures.mind(x, y)
    with pytest.raises(InputError, match="0 samples and 70 references"):
        measures.mind(x[:0], x)
