"""The Fréchet distance of infinitely many samples, against a known one."""

import pytest
import torch

from fewstep.errors import InputError
from fewstep.evaluation.extrapolation import balanced_order, extrapolated_frechet
from fewstep.evaluation.metrics import frechet_distance
from fewstep.evaluation.statistics import Statistics


def test_it_is_nearer_to_the_distance_of_two_gaussians_than_the_plain_one():
    d, n, plain, extrapolated = 20, 400, [], []
    data = Statistics(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))
    truth = d * 0.01 + d * 0.25**2  # means 0.1 apart in each direction, deviations 1.25 and 1
    for seed in range(10):
        rows = 0.1 + 1.25 * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        plain.append(frechet_distance(Statistics.of(rows), data))
        found, sizes = extrapolated_frechet(rows, torch.arange(n) % 10, data)
        extrapolated.append(found)
        assert sizes == [100, 133, 200, 400]
        assert abs(found - truth) < abs(plain[-1] - truth)
    bias, left = sum(plain) / 10 - truth, sum(extrapolated) / 10 - truth
    assert bias > 0.3 and abs(left) < 0.35 * bias  # a line leaves what falls as 1/n^2


def test_every_part_has_its_share_of_every_label():
    labels = torch.arange(180) % 3
    order = balanced_order(labels, torch.Generator().manual_seed(0))
    assert torch.equal(order.sort().values, torch.arange(180))
    for parts in (4, 3, 2):
        assert all(labels[order[k::parts]].bincount().tolist() == [60 // parts] * 3 for k in range(parts))
    assert not torch.equal(order, balanced_order(labels, torch.Generator().manual_seed(1)))


def test_too_few_samples_are_refused():
    data = Statistics(torch.zeros(5, dtype=torch.float64), torch.eye(5, dtype=torch.float64))
    with pytest.raises(InputError, match=r"23 samples are too few .* 5 features.*at least 24"):
        extrapolated_frechet(torch.randn(23, 5), torch.zeros(23, dtype=torch.int64), data)
