"""The critic of pairs: what it sees, what it learns, and which way it pushes a student."""

import torch

from benchmarks.quality.pair_critic import Critic
from fewstep import open_model


def test_a_critic_tells_samples_apart_and_pushes_the_students_towards_the_teachers():
    torch.manual_seed(0)
    teacher = open_model("digits")
    critic = Critic(teacher, teacher.denoiser.process)
    condition, w = torch.arange(16) % 10, torch.linspace(0, 4, 16).double()
    real = teacher.sample_tensor(condition, steps=4, seed=1).samples
    shift = 0.4 * torch.ones_like(real)
    losses = [critic.learn(*critic.maps(real, real + shift, condition), condition, w) for _ in range(40)]
    assert losses[-1] < 0.5 < losses[0]
    fake = (real + shift).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic.loss(*critic.maps(real, fake, condition), condition, w).mean(), fake)
    assert float((gradient * shift).sum()) > 0  # a step against it takes the shift back
    assert all(not p.requires_grad for p in critic.features.denoiser.network.parameters())
