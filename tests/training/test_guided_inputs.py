"""Training inputs from guided samples: how many, with which weights, and that they are what a sampler visits."""

import torch

from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.guidance import weight_of
from fewstep.training.draws import Draws
from fewstep.training.guided_inputs import POOL, GuidedInputs
from tiny import LABELS, X, exact_teacher, tiny_teacher


def inputs_of(teacher, share=0.5):
    return GuidedInputs(share, teacher.denoiser.guided(), teacher, (1.0, 4.0), 8, None)


def test_a_share_of_the_examples_is_pooled():
    teacher = tiny_teacher()
    index = inputs_of(teacher, 0.3).draw(Draws(0, "stage-one", 0, 4000))["pool_index"]
    assert 0.27 < (index >= 0).double().mean() < 0.33 and index.max() < POOL
    assert (inputs_of(teacher, 1.0).draw(Draws(0, "stage-one", 0, 4000))["pool_index"] >= 0).all()
    assert inputs_of(teacher, 0.0).draw(Draws(0, "stage-one", 0, 4000)) == {}


def test_a_pool_holds_guided_samples_with_their_conditions_and_weights():
    inputs = inputs_of(exact_teacher(Mixture.ring(4, 4, radius=2.0, std=0.3), 1))
    known = {"condition": torch.zeros(POOL).long(), "w": torch.zeros(POOL), "pool_index": torch.arange(POOL)}
    x, condition, w = inputs({"x": torch.zeros(POOL, 2)} | known)
    centres = torch.stack([x[condition == label].mean(0) for label in range(4)])
    assert (centres.norm(dim=1) > 1.5).all()  # each at its own class, away from the middle
    strong, weak = (x[mask].norm(dim=1).mean() for mask in (w > 2, w < 0.5))
    assert strong > weak  # guidance pushes outwards


def test_a_stage_takes_its_share_from_one_pool_that_is_always_the_same():
    teacher, own = tiny_teacher(), X.clone()
    batch = {"x": X, "condition": LABELS, "w": torch.full((3,), 9.0), "pool_index": torch.tensor([2, -1, 5])}
    drawn = [inputs_of(teacher)(batch) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True))
    x, labels, w = drawn[0]
    assert torch.equal(x[1], X[1]) and not torch.equal(x[0], X[0]) and torch.equal(X, own)
    assert labels[1] == LABELS[1] and w[1] == 9 and 0 <= w[0] <= weight_of(4.0)
