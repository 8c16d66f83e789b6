"""Training inputs from guided samples: how many, with which weights, and that they are what a sampler visits."""

import torch

from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.guidance import draw_w, weight_of
from fewstep.method.process import Cosine
from fewstep.training.guided_inputs import POOL, GuidedInputs, GuidedPool, draw_pool_index, guided_pool
from tiny import LABELS, X, tiny_teacher


def test_a_share_of_the_examples_is_pooled():
    index = draw_pool_index(torch.Generator().manual_seed(0), 4000, 0.3)
    assert 0.27 < (index >= 0).double().mean() < 0.33
    assert index.max() < POOL
    assert (draw_pool_index(torch.Generator(), 4000, 1.0) >= 0).all()


def test_pooled_examples_bring_their_condition_and_weight():
    pool = GuidedPool(torch.full((5, 1, 2, 3), 9.0), torch.arange(5), torch.arange(5) / 2)
    x, condition, w = torch.zeros(3, 1, 2, 3), torch.tensor([7, 7, 7]), torch.full((3,), 0.25)
    new_x, new_condition, new_w = pool.replace(torch.tensor([-1, 4, 0]), x, condition, w)
    assert new_x[:, 0, 0, 0].tolist() == [0, 9, 9]
    assert new_condition.tolist() == [7, 4, 0]
    assert new_w.tolist() == [0.25, 2.0, 0.0]
    assert x.eq(0).all()


def test_a_pool_holds_guided_samples():
    mixture, process = Mixture.ring(4, 4, radius=2.0, std=0.3), Cosine()
    noise, w = torch.randn(POOL, 2), draw_w(torch.rand(POOL).double(), (1.0, 4.0))
    pool = guided_pool(mixture.denoiser(process), process, noise, torch.arange(POOL) % 4, w, 8, torch.device("cpu"))
    assert pool.x.shape == (POOL, 2)
    centres = torch.stack([pool.x[pool.condition == label].mean(0) for label in range(4)])
    assert (centres.norm(dim=1) > 1.5).all()  # each at its own class, away from the middle
    strong, weak = (pool.x[mask].norm(dim=1).mean() for mask in (pool.w > 2, pool.w < 0.5))
    assert strong > weak  # guidance pushes outwards


def test_a_stage_takes_its_share_from_one_pool_that_is_always_the_same():
    teacher, batch = (
        tiny_teacher(),
        {"x": X, "condition": LABELS, "w": torch.full((3,), 9.0), "pool_index": torch.tensor([2, -1, 5])},
    )
    drawn = [GuidedInputs(0.5, teacher.denoiser.guided(), teacher, (1.0, 4.0), 8, None)(batch) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True))
    x, labels, w = drawn[0]
    assert torch.equal(x[1], X[1]) and not torch.equal(x[0], X[0])
    assert labels[1] == LABELS[1] and w[1] == 9 and 0 <= w[0] <= weight_of(4.0)
