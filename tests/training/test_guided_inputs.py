"""Training inputs from guided samples: how many, with which weights, and that they are what a sampler visits."""

import torch

from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.guidance import weight_of
from fewstep.method.process import Cosine
from fewstep.training.guided_inputs import POOL, GuidedPool, draw_pooled, guided_pool


def test_a_share_of_the_examples_is_pooled():
    which, place = torch.rand(4000, generator=torch.Generator().manual_seed(0)), torch.rand(4000)
    index = draw_pooled(which, place, 0.3)
    assert 0.27 < (index >= 0).double().mean() < 0.33
    assert index.max() < POOL
    assert (draw_pooled(which, place, 1.0) >= 0).all()


def test_pooled_examples_bring_their_condition_and_weight():
    pool = GuidedPool(torch.full((5, 1, 2, 3), 9.0), torch.arange(5), torch.arange(5) / 2)
    x, condition, w = torch.zeros(3, 1, 2, 3), torch.tensor([7, 7, 7]), torch.full((3,), 0.25)
    new_x, new_condition, new_w = pool.replace(torch.tensor([-1, 4, 0]), x, condition, w)
    assert new_x[:, 0, 0, 0].tolist() == [0, 9, 9]
    assert new_condition.tolist() == [7, 4, 0]
    assert new_w.tolist() == [0.25, 2.0, 0.0]
    assert x.eq(0).all()


def test_a_pool_holds_guided_samples_and_is_always_the_same():
    mixture, process = Mixture.ring(4, 4, radius=2.0, std=0.3), Cosine()
    arguments = (mixture.denoiser(process), process, (2,), 4, (1.0, 4.0), 8, torch.device("cpu"))
    pool, again = guided_pool(*arguments), guided_pool(*arguments)
    assert torch.equal(pool.x, again.x)
    assert pool.x.shape == (POOL, 2)
    assert 0 <= pool.w.min() < 0.1
    assert 2.9 < pool.w.max() <= weight_of(4.0)
    centres = torch.stack([pool.x[pool.condition == label].mean(0) for label in range(4)])
    assert (centres.norm(dim=1) > 1.5).all()  # each at its own class, away from the middle
    strong, weak = (pool.x[mask].norm(dim=1).mean() for mask in (pool.w > 2, pool.w < 0.5))
    assert strong > weak  # guidance pushes outwards
