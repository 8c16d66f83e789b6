"""Guidance: the two conventions, the two branches, and how a student is told the weight."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.method.guidance import combine, draw_w, embed_w, guided, scale_of, weight_of
from processes import randn


@given(scale=st.floats(0, 30))
def test_scale_and_weight_are_inverse_and_a_scale_of_one_is_no_guidance(scale):
    assert scale_of(weight_of(scale)) == pytest.approx(scale, abs=1e-12)
    assert weight_of(1.0) == 0 and scale_of(torch.tensor([0.0, 6.5])).tolist() == [1, 7.5]


def test_combine_at_its_fixed_points_where_every_size_is_the_same():
    x, x_null, w = randn(3, 3, 3), randn(3, 3, 3, seed=1), torch.tensor([0.0, -1.0, 0.0])
    torch.testing.assert_close(combine(x, x_null, w), torch.stack([x[0], x_null[1], x[2]]))
    torch.testing.assert_close(combine(x, x, torch.tensor([3.0, 14.0, 1.0])), x)  # branches that agree: nothing to amplify


@settings(deadline=None, max_examples=20)
@given(w=st.floats(0, 14))
def test_combine_goes_on_along_the_line_from_null_to_condition(w):
    x, x_null, w = randn(2, 3, 5), randn(2, 3, 5, seed=1), torch.tensor([w, 1.0], dtype=torch.float64)
    beyond = (combine(x, x_null, w) - x).flatten(1).norm(dim=1) / (x - x_null).flatten(1).norm(dim=1)
    torch.testing.assert_close(beyond, w)


class Recorder:
    """A denoiser that says its condition everywhere, and keeps what it was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, z, t, condition, w):
        self.calls.append((z, t, condition, w))
        return condition.double().reshape(-1, 1, 1, 1).expand_as(z)


def test_guided_makes_one_call_of_twice_the_batch():
    denoiser, z, t = Recorder(), randn(2, 3, 5, 7), torch.tensor([0.2, 0.7])
    estimate = guided(denoiser, null=lambda c: torch.full_like(c, 10))(z, t, torch.tensor([1, 2]), torch.tensor([0.5, 3.0]))
    [(both_z, both_t, condition, w)] = denoiser.calls
    assert (both_z.shape, both_t.shape, w) == ((4, 3, 5, 7), (4,), None)
    torch.testing.assert_close(both_z[:2], both_z[2:])
    torch.testing.assert_close(both_t, torch.tensor([0.2, 0.7, 0.2, 0.7]))
    assert condition.tolist() == [1, 2, 10, 10]
    torch.testing.assert_close(estimate[:, 0, 0, 0], torch.tensor([1.5 * 1 - 0.5 * 10, 4 * 2 - 3 * 10]).double())


def test_guided_without_a_weight_is_the_conditional_denoiser_in_one_call():
    denoiser, z = Recorder(), randn(2, 3, 5, 7)
    estimate = guided(denoiser, null=torch.zeros_like)(z, torch.ones(2), torch.tensor([1, 2]), None)
    assert len(denoiser.calls) == 1 and denoiser.calls[0][0] is z
    assert estimate[:, 0, 0, 0].tolist() == [1, 2]


def test_drawn_weights_cover_the_range_continuously():
    w = draw_w(torch.linspace(0, 1, 1001, dtype=torch.float64), (3.0, 15.0))
    assert (float(w[0]), float(w[-1])) == pytest.approx((2, 14))
    torch.testing.assert_close(w.diff(), torch.full((1000,), 0.012).double())  # evenly, no weight more likely than another
    assert draw_w(torch.rand(500), (1.0, 5.0)).frac().unique().numel() > 400
    assert draw_w(torch.rand(7), (4.0, 4.0)).tolist() == [3] * 7


@pytest.mark.parametrize("dim", [4, 5, 20, 256, 257, 512, 2048])
def test_embedding_is_that_of_diffusers_to_the_bit(dim):
    from diffusers import LatentConsistencyModelPipeline, StableDiffusionPipeline

    w = torch.cat([torch.tensor([0.0, 0.5, 6.5, 14.0]), 14 * torch.rand(7, generator=torch.Generator().manual_seed(0))])
    for pipeline in (StableDiffusionPipeline, LatentConsistencyModelPipeline):
        expected = pipeline.get_guidance_scale_embedding(None, w, embedding_dim=dim)
        assert torch.equal(embed_w(w, dim), expected) and torch.equal(embed_w(w.double(), dim), expected)
