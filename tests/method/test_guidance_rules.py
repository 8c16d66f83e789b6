"""Guidance rules: none at w = 0, and each what its paper says."""

import pytest
import torch

from fewstep.errors import InputError
from fewstep.method.guidance import combine, guided, plain
from fewstep.method.guidance_rules import RULES, Interval, Projected, Rescale, rule_of, rule_settings

GENERATOR = torch.Generator().manual_seed(0)
X, NULL = torch.randn(2, 3, 5, 7, generator=GENERATOR).double(), torch.randn(2, 3, 5, 7, generator=GENERATOR).double()
W, T = torch.tensor([0.5, 3.0]).double(), torch.tensor([0.25, 0.75]).double()


@pytest.mark.parametrize("name", RULES)
def test_at_w_0_every_rule_is_no_guidance(name):
    torch.testing.assert_close(RULES[name]()(X, NULL, torch.zeros(2).double(), T), X)


@pytest.mark.parametrize("rule", [plain, Interval(0, 1), Rescale(phi=0), Projected(eta=1, norm=1e9)])
def test_rules_whose_effect_is_taken_away_are_plain_guidance(rule):
    torch.testing.assert_close(rule(X, NULL, W, T), combine(X, NULL, W))


def test_an_interval_guides_within_it_alone():
    found = Interval(0.5, 1.0)(X, NULL, W, T)
    torch.testing.assert_close(found[0], X[0])
    torch.testing.assert_close(found[1], combine(X, NULL, W)[1])


def test_rescaled_estimates_have_the_spread_of_the_conditional_one():
    found = Rescale(phi=1.0)(X, NULL, W, T)
    torch.testing.assert_close(found.flatten(1).std(1), X.flatten(1).std(1))
    torch.testing.assert_close(Rescale(1.0, "channels")(X, NULL, W, T).norm(dim=1), X.norm(dim=1))


def test_a_projected_difference_stands_upright_on_x_within_its_norm():
    moved = Projected(eta=0.0, norm=0.5)(X, NULL, W, T) - X
    torch.testing.assert_close((moved * X).flatten(1).sum(1), torch.zeros(2).double(), atol=1e-9, rtol=0)
    assert bool((moved.flatten(1).square().mean(1).sqrt() <= 0.5 * W + 1e-9).all())


def test_a_rule_is_read_back_from_its_settings():
    for rule in (plain, Interval(0.1, 0.7), Rescale(0.4, "channels"), Projected(0.2, 3.0)):
        assert rule_of(rule_settings(rule)) == rule


@pytest.mark.parametrize("settings", [{"name": "intervall"}, {"name": "apg", "phi": 1.0}])
def test_unknown_rules_and_numbers_are_refused(settings):
    with pytest.raises(InputError, match=r"interval|eta"):
        rule_of(settings)


def test_a_weak_model_takes_the_place_of_the_null_branch():
    def strong(z, t, condition, w):
        return z + 1

    def weak(z, t, condition, w):
        return z - 1

    estimate = guided(strong, lambda condition: condition, weak=weak)
    torch.testing.assert_close(estimate(X, T, torch.zeros(2), W), combine(X + 1, X - 1, W))
    torch.testing.assert_close(estimate(X, T, torch.zeros(2), None), X + 1)
