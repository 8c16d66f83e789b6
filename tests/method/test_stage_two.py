"""Stage two: one student step lands where the teacher's steps land, on every path, for every process, at the same weight."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.errors import InputError
from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.process import EARLIEST, Cosine, add_noise, ddim_step
from fewstep.method.samplers import deterministic, encode
from fewstep.method.stage_two import (
    collapsed_target,
    draw_index,
    encoder_path,
    forward_path,
    landing_target,
    rungs,
    stochastic_path,
)
from processes import Counted, every_process, flow_of_a_gaussian, randn

every_k = pytest.mark.parametrize("k", [2, 3, 4])
RING = Mixture.ring(components=7, classes=3)
MEAN, STD = torch.tensor([1.0, -2.0, 0.5]).double(), 0.5
GAUSSIAN = Mixture.gaussian(MEAN, STD)


def land(path, teacher, z, process, w=None):
    """Where one student step that says the collapsed target lands."""
    labels = torch.zeros(len(z)).long()
    target = collapsed_target(teacher, z, path, labels, w, process)
    return ddim_step(z, target, path[0], path[-1], process)


@every_process
@every_k
@pytest.mark.parametrize(("path_of", "parts"), [(forward_path, 1), (stochastic_path, 2)])
def test_a_step_lands_where_the_teachers_steps_land(path_of, parts, process, k):
    steps, index = 5, torch.arange(1, 6)
    z, path = 2 * randn(5, 3), path_of(index, steps, k)
    torch.testing.assert_close(path[-1], (index - parts).clamp(min=0).double() / steps)
    teacher = GAUSSIAN.perfect_student(process, lambda t: (t - parts / (steps * k)).clamp(min=0), steps=32)
    landed, expected = land(path, teacher, z, process), flow_of_a_gaussian(z, path[0], path[-1], MEAN, STD, process)
    # at the data the target is the teacher's last estimate: on a cosine process, sigma_0 = 4.5e-5 away from its landing point
    torch.testing.assert_close(landed, expected, rtol=0, atol=3e-4 if isinstance(process, Cosine) else 1e-7)
    torch.testing.assert_close(landed[parts:], expected[parts:], rtol=0, atol=1e-7)


@every_process
@every_k
def test_encoder_lands_where_the_teachers_steps_land(process, k):
    steps, index = 5, torch.arange(5)
    z, path = 2 * randn(5, 3), encoder_path(index, steps, k)
    teacher = GAUSSIAN.perfect_student(process, lambda t: torch.round(t * steps * k + 1) / (steps * k), steps=16)
    expected = flow_of_a_gaussian(z, path[0], path[-1], MEAN, STD, process)
    torch.testing.assert_close(land(path, teacher, z, process), expected, rtol=0, atol=1e-6)


@every_process
@every_k
@pytest.mark.parametrize(("sampler", "path_of"), [(deterministic, forward_path), (encode, encoder_path)])
def test_a_student_that_says_the_target_samples_as_its_teacher_in_k_times_fewer_steps(sampler, path_of, process, k):
    teacher, labels, w = (
        RING.denoiser(process),
        torch.arange(7) % 4,
        torch.linspace(0, 3, 7) if sampler is deterministic else torch.zeros(7),
    )
    z = randn(7, 2) if sampler is deterministic else RING.sample(7, torch.Generator().manual_seed(0))[0]

    def student(z, t, condition, w):
        return collapsed_target(teacher, z, path_of((t * 3).round().long(), 3, k), condition, w, process)

    ours, expected = (sampler(model, z, n, labels, w, process) for model, n in ((student, 3), (teacher, 3 * k)))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 if sampler is encode else 1e-7)


@every_process
@settings(deadline=None, max_examples=20)
@given(t=st.floats(0.1, 1), s=st.floats(0, 1))
def test_landing_target_is_the_inverse_of_a_step(process, t, s):
    s = s if abs(t - s) > 0.01 else t - 0.05
    z, x, t, s = randn(2, 3, 5, 7), randn(2, 3, 5, 7, seed=1), torch.tensor([t, 0.7]), torch.tensor([s, 0.2])
    torch.testing.assert_close(landing_target(z, ddim_step(z, x, t, s, process), t, s, process), x, rtol=1e-6, atol=1e-6)


@every_process
@every_k
def test_the_last_step_is_taught_the_teachers_last_estimate(process, k):
    answers, path = randn(k, 3, 2, seed=1), forward_path(torch.ones(3).long(), 4, k)
    asked = iter(answers)
    assert collapsed_target(lambda *_: next(asked), randn(3, 2), path, None, torch.ones(3), process).equal(answers[-1])
    assert next(asked, None) is None


@every_k
@pytest.mark.parametrize("path", [forward_path, stochastic_path, encoder_path])
def test_the_teacher_is_asked_k_times_at_the_same_weight_and_never_guided_again(path, k):
    teacher, w = Counted(RING.denoiser(Cosine())), torch.linspace(0, 3, 4)
    times = path(torch.arange(1, 5) if path is not encoder_path else torch.arange(4), 4, k)
    collapsed_target(teacher, randn(4, 2), times, torch.arange(4), w, Cosine())
    assert len(teacher.times) == k
    assert all(given is w for given in teacher.weights)
    for asked, expected in zip(teacher.times, times[:-1], strict=True):
        assert asked.equal(expected.clamp(min=EARLIEST))


def test_target_carries_no_gradient():
    scale = torch.ones(1, requires_grad=True)
    path = forward_path(torch.tensor([1, 2]), 2, 2)
    assert not collapsed_target(lambda z, t, c, w: scale * z, randn(2, 3), path, None, None, Cosine()).requires_grad


def test_float64_algebra_keeps_a_float32_network_exact_where_bfloat16_loses_the_image():
    process, steps, index = Cosine(), 512, torch.arange(1, 513, 7)
    x, labels = RING.sample(len(index), torch.Generator().manual_seed(0))
    path = forward_path(index, steps, 2)
    z = add_noise(x, randn(*x.shape), path[0], process).float()
    exact = RING.denoiser(process)
    truth = collapsed_target(exact, z, path, labels, None, process)
    in_float32 = collapsed_target(lambda *a: exact(*a).float(), z, path, labels, None, process)
    assert (in_float32 - truth).abs().max() < 1e-6

    halved = SimpleNamespace(at=lambda t, like: tuple(value.bfloat16() for value in process.at(t, like)))
    rough = collapsed_target(lambda *a: exact(*a).bfloat16(), z.bfloat16(), path, labels, None, halved)
    assert not (rough.double() - truth).abs().max() < 1  # off by more than the image, or not even a number


@settings(deadline=None, max_examples=20)
@given(steps=st.integers(1, 1024), k=st.integers(2, 8))
def test_paths_meet_end_to_end_and_cover_time(steps, k):
    forward, encoder = forward_path(torch.arange(1, steps + 1), steps, k), encoder_path(torch.arange(steps), steps, k)
    stochastic = stochastic_path(torch.arange(1, steps + 1), steps, k)
    assert forward.shape == encoder.shape == stochastic.shape == (k + 1, steps)
    assert forward[-1, 1:].equal(forward[0, :-1]) and encoder[0, 1:].equal(encoder[-1, :-1])
    assert stochastic[0].equal(forward[0]) and stochastic[-1, 2:].equal(forward[0, :-2])
    assert (float(forward[0, -1]), float(forward[-1, 0])) == (1, 0) == (float(encoder[-1, -1]), float(stochastic[-1, 0]))
    assert float(encoder[0, 0]) == EARLIEST
    assert (forward.diff(dim=0) < 0).all() and (encoder.diff(dim=0) > 0).all()


def test_stochastic_path_at_the_last_step_ends_at_the_data_and_stays():
    for expected in ([1, 0, 0], [1, 1 / 3, 0, 0], [1, 0.5, 0, 0, 0]):
        assert stochastic_path(torch.tensor([1]), 1, len(expected) - 1)[:, 0].tolist() == pytest.approx(expected)


def test_drawn_indices_are_every_step_equally_often():
    index = draw_index(torch.linspace(0, 1, 7001)[:-1], 7)
    assert index.dtype == torch.int64
    assert index.bincount(minlength=8).tolist() == pytest.approx([0, *[1000] * 7], abs=2)
    assert draw_index(torch.tensor([1.0 - 2**-24, 1.0]), 1024).tolist() == [1024, 1024]


def test_rungs():
    ladders = {(64, 16, 8): [(16, 4), (8, 2)], (1024, 512): [(512, 2)], (7,): [], (15, 5, 1): [(5, 3), (1, 5)]}
    assert {ladder: rungs(ladder) for ladder in ladders} == ladders


@pytest.mark.parametrize("ladder", [[], [0], [-4, -2], [8, 3], [8, 8], [4, 8], [8, 4, 0], [8, 4, -2], [8, 4, 3]])
def test_ladders_that_do_not_divide_are_refused(ladder):
    with pytest.raises(InputError, match="ladder") as error:
        rungs(ladder)
    assert "\n" not in str(error.value)
