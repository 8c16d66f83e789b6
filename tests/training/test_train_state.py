"""Learning rates and the average of the weights."""

import pytest
import torch

from fewstep.training.checkpoint import Checkpoint, load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from fewstep.training.train_state import Ema, learning_rate_factor


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


class Odd(torch.nn.Module):
    """A network with a weight that the loss does not reach, and one that stands in two places."""

    def __init__(self):
        super().__init__()
        self.first, self.unused = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.second = torch.nn.Linear(2, 2)
        self.second.weight = self.first.weight


def test_weights_without_a_gradient_and_weights_in_two_places_are_kept_and_put_back(tmp_path):
    network = Odd()
    names = [name for name, _ in network.named_parameters()]
    optimizer = torch.optim.AdamW(network.parameters())
    network.second(network.first(torch.ones(1, 2))).sum().backward()
    optimizer.step()
    tensors = {f"network/{k}": v for k, v in network.state_dict().items()} | optimizer_tensors(optimizer, names)
    save_checkpoint(tmp_path / "state.safetensors", Checkpoint(tensors, {"stage": "x"}))
    saved = load_checkpoint(tmp_path / "state.safetensors").tensors
    assert torch.equal(saved["network/first.weight"], saved["network/second.weight"])
    other = torch.optim.AdamW(network.parameters())
    restore_optimizer(other, names, saved)
    again = optimizer_tensors(other, names)
    assert again.keys() == optimizer_tensors(optimizer, names).keys()
    assert not any(name.startswith("unused") for name in again)
