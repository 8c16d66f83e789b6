"""Random numbers of training: the same for every split of an update, others for every seed, stage and position, and spread as they should be."""

import pytest
import torch

from fewstep.training.draws import Draws

SHAPE = (2, 3, 5)


def numbers(*arguments, part=slice(None)):
    """What an update draws: (uniform, stratified, noise) of some of its examples."""
    draws = Draws(*arguments, part=part)
    return draws.uniform(), draws.uniform(stratified=True), draws.normal(SHAPE)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_parts_of_an_update_draw_what_the_whole_draws(size):
    whole, parts = numbers(7, "stage", 36, 12), [numbers(7, "stage", 36, 12, part=slice(k, k + size)) for k in range(0, 12, size)]
    for one, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(one, torch.cat(pieces))


def test_seed_stage_and_position_decide_each_number():
    first, *others = (
        numbers(*a, 6) for a in ((0, "a", 0), (1, "a", 0), (1 << 30, "a", 0), (0, "b", 0), (0, "a", 6), (0, "a", 6 << 32))
    )
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert not (one == two).any()
    later = numbers(0, "a", 3, 6)  # an update of another size goes on where the one before ended
    assert torch.equal(later[0][:3], first[0][3:]) and torch.equal(later[2][:3], first[2][3:])


def test_uniform_numbers_are_uniform_and_independent():
    draws = Draws(0, "stage", 0, 20_000)
    columns = torch.stack([draws.uniform() for _ in range(4)])
    assert columns.dtype == torch.float64 and columns.min() >= 0 and columns.max() < 1
    counts = torch.stack([column.histc(20, 0, 1) for column in columns])
    assert ((counts - 1000).abs() < 5 * 1000**0.5).all()
    neighbours = torch.cat([columns, columns.roll(1, 1)])
    assert (neighbours.corrcoef() - torch.eye(8)).abs().max() < 5 / 20_000**0.5


def test_stratified_numbers_are_one_in_each_part_in_another_order_each_time():
    draws = Draws(0, "stage", 0, 64)
    one, other = (draws.uniform(stratified=True) * 64 for _ in range(2))
    assert one.floor().sort().values.equal(torch.arange(64).double()) and not one.floor().equal(other.floor())
    assert not Draws(0, "stage", 64, 64).uniform(stratified=True).floor().equal(one.floor())


def test_noise_is_normal_and_no_two_examples_have_the_same():
    noise = Draws(0, "stage", 0, 4000).normal((25,))
    assert abs(noise.mean()) < 5 / 1e5**0.5 and abs(noise.std() - 1) < 5 / 2e5**0.5
    assert (noise.corrcoef() - torch.eye(4000)).abs().max() < 1 - 1e-6 and len(noise[:, 0].unique()) > 3990
