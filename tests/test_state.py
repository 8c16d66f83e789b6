"""Learning rates and the average of the weights."""

import pytest
import torch

from fewstep.state import Ema, learning_rate_factor


@pytest.mark.parametrize(("schedule", "end"), [("constant", 1.0), ("linear", 0.0), ("cosine", 0.0)])
def test_learning_rates_rise_and_fall(schedule, end):
    factors = [learning_rate_factor(schedule, u, 1000, 100) for u in range(1000)]
    assert factors[0] == pytest.approx(0.01, abs=1e-4)
    assert factors[-1] == pytest.approx(end, abs=2e-3)
    assert max(factors) <= 1.0
    rise = factors[:100]
    assert rise == sorted(rise)


def test_the_average_starts_fast_and_ends_at_its_decay():
    network = torch.nn.Linear(3, 2)
    average = Ema(network, 0.99)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1.0)
    average.update(network, 0)
    gap = (average.average[0] - network.weight.detach()).abs().max()
    assert float(gap) == pytest.approx(0.1, abs=1e-6)  # (1 + 0) / (10 + 0) of the old
    assert not any(a.requires_grad for a in average.average)  # else a graph would grow with every update
    average.update(network, 10**6)
    assert float((average.average[0] - network.weight.detach()).abs().max()) == pytest.approx(0.099, abs=1e-6)
