"""The oracle itself: against numerical integration, the closed-form flow of one Gaussian, and the law of large numbers."""

import pytest
import torch

from fewstep.errors import InputError
from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.guidance import guided
from fewstep.method.process import Cosine, RectifiedFlow, add_noise
from processes import STABLE_DIFFUSION, every_process, flow_of_a_gaussian, randn

RING = Mixture.ring(components=7, classes=3)


@every_process
@pytest.mark.parametrize("label", [0, 1, 2, 3])
def test_denoiser_is_the_mean_of_the_posterior_integrated_numerically(process, label):
    stds, weights = torch.tensor([0.3, 0.5, 0.2, 0.4]), torch.tensor([3.0, 1.0, 1.0, 2.0])
    line = Mixture(torch.tensor([[-1.0], [0.5], [2.0], [0.0]]), stds, weights, torch.tensor([0, 1, 2, 0]))
    x = torch.linspace(-6, 7, 40_001, dtype=torch.float64)
    members = {k: p for k, p in enumerate((3, 1, 1, 2)) if label in (line.labels[k], 3)}
    prior = sum(w * torch.distributions.Normal(line.means[k, 0], line.stds[k]).log_prob(x).exp() for k, w in members.items())
    for time in (0.1, 0.5, 0.9):
        t, z = torch.tensor([time]), torch.tensor([[0.7]]).double()
        alpha, sigma = process.at(t, z)
        p = prior * torch.exp(-((z[0] - alpha[0] * x) ** 2) / (2 * sigma[0] ** 2))
        estimate = line.denoiser(process)(z, t, torch.tensor([label]), None)
        torch.testing.assert_close(estimate[0, 0], (p * x).sum() / p.sum(), rtol=1e-8, atol=1e-8)


def test_denoiser_is_the_best_estimate_on_samples():
    process = Cosine()
    x, labels = RING.sample(20_000, torch.Generator().manual_seed(1))
    t = torch.full((20_000,), 0.4)
    z = add_noise(x, randn(20_000, 2, seed=2), t, process)
    estimate = RING.denoiser(process)(z, t, labels, None)
    error, null_error = (x - estimate).square().mean(), (x - RING.denoiser(process)(z, t, RING.null(labels), None)).square().mean()
    assert error < null_error < x.square().mean()
    assert ((x - estimate) * estimate).mean().abs() < 0.01  # what is left is orthogonal to the estimate


def test_samples_have_the_classes_means_and_spread_of_the_mixture():
    means, stds = torch.tensor([[0.0, 5.0, 1.0], [3.0, -2.0, 0.0]]), torch.tensor([0.5, 0.1])
    mixture = Mixture(means, stds, torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
    x, labels = mixture.sample(20_000, torch.Generator().manual_seed(0))
    assert labels.double().mean() == pytest.approx(0.75, abs=0.02)
    for label, std in enumerate((0.5, 0.1)):
        torch.testing.assert_close(x[labels == label].mean(0), mixture.means[label], rtol=0, atol=0.05 * std)
        assert float(x[labels == label].std(0).mean()) == pytest.approx(std, rel=0.02)


@every_process
def test_everything_is_finite_from_end_to_end_even_far_from_the_data(process):
    narrow = Mixture.ring(components=5, classes=2, std=1e-3)
    t = torch.tensor([0.0, 1e-5, 0.5, 1.0])
    for z in (1e3 * randn(4, 2), torch.zeros(4, 2)):
        estimate = narrow.denoiser(process)(z, t, torch.tensor([0, 1, 2, 0]), torch.full((4,), 14.0))
        assert estimate.isfinite().all() and estimate.dtype == torch.float64


@every_process
def test_at_the_data_the_estimate_is_the_input_and_at_the_noise_the_mean(process):
    x, labels = RING.sample(5, torch.Generator().manual_seed(0))
    at_data = RING.denoiser(process)(x, torch.zeros(5), labels, None)
    torch.testing.assert_close(at_data, x, rtol=0, atol=1e-4)
    if process is not STABLE_DIFFUSION:  # whose last time still holds some signal
        at_noise = RING.denoiser(process)(randn(5, 2), torch.ones(5), RING.null(labels), None)
        torch.testing.assert_close(at_noise, torch.zeros(5, 2).double(), rtol=0, atol=1e-3)


def test_guidance_in_closed_form_equals_two_branches():
    z, t, labels, w = randn(5, 2), torch.linspace(0.1, 0.9, 5), torch.tensor([0, 1, 2, 0, 1]), torch.linspace(0, 14, 5)
    denoiser = RING.denoiser(Cosine())
    torch.testing.assert_close(denoiser(z, t, labels, w), guided(denoiser, RING.null)(z, t, labels, w))


def test_guidance_pushes_towards_the_class_and_changes_nothing_where_there_is_one_class():
    process, z, t = Cosine(), randn(5, 2), torch.full((5,), 0.6)
    given = randn(300, 2), torch.ones(300), torch.zeros(300), torch.zeros(300).long(), torch.full((300,), 3.0)
    nearest = (RING.flow(*given, process, steps=64)[:, None] - RING.means).norm(dim=2).argmin(1)
    assert (RING.labels[nearest] == 0).double().mean() > 0.99
    gaussian = Mixture.gaussian(torch.tensor([1.0, -2.0]), 0.5).denoiser(process)
    one_class = gaussian(z, t, torch.zeros(5).long(), torch.full((5,), 7.0))
    torch.testing.assert_close(one_class, gaussian(z, t, torch.ones(5).long(), None))


def test_any_data_shape_is_the_flat_one_reshaped():
    mean = randn(3 * 5 * 7)
    denoiser = Mixture.gaussian(mean, 0.5).denoiser(Cosine())
    z, t, labels = randn(2, 3, 5, 7), torch.tensor([0.2, 0.8]), torch.tensor([0, 1])
    torch.testing.assert_close(denoiser(z, t, labels, None), denoiser(z.flatten(1), t, labels, None).reshape(2, 3, 5, 7))


@every_process
def test_flow_of_one_gaussian_is_the_closed_form(process):
    mean, z, labels = randn(3 * 5 * 7, seed=1).reshape(3, 5, 7), randn(2, 3, 5, 7), torch.zeros(2).long()
    mixture = Mixture.gaussian(mean, 0.5)
    for start, end in ((1.0, 0.0), (0.0, 1.0), (0.7, 0.3)):
        t, s = torch.full((2,), start), torch.full((2,), end)
        expected = flow_of_a_gaussian(z, t, s, mean, 0.5, process)
        torch.testing.assert_close(mixture.flow(z, t, s, labels, None, process, steps=64), expected, rtol=0, atol=1e-6)


def test_flow_error_is_as_stated_and_falls_with_the_fourth_power():
    z, labels, w = randn(60, 2), torch.arange(60) % 3, torch.linspace(0, 3, 60)
    ends = torch.ones(60), torch.zeros(60)
    truth = RING.flow(z, *ends, labels, w, Cosine(), steps=512)
    coarse, fine = ((RING.flow(z, *ends, labels, w, Cosine(), steps=n) - truth).norm(dim=1).max() for n in (128, 256))
    assert fine < 2e-7 and 10 < coarse / fine < 25


def test_flow_comes_back():
    z, labels, w, t, s = randn(6, 2), torch.arange(6) % 3, torch.linspace(0, 3, 6), torch.ones(6), torch.linspace(0, 0.9, 6)
    there = RING.flow(z, t, s, labels, w, RectifiedFlow())
    torch.testing.assert_close(RING.flow(there, s, t, labels, w, RectifiedFlow()), z, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"means": torch.zeros(3)}, "shaped"),
        ({"stds": torch.ones(2)}, "shaped"),
        ({"stds": torch.zeros(3)}, "stds"),
        ({"weights": torch.tensor([1.0, -1.0, 1.0])}, "weights"),
        ({"labels": torch.tensor([0, 2, 2])}, "labels"),
        ({"labels": torch.arange(3).float()}, "labels"),
    ],
)
def test_a_mixture_that_does_not_fit_together_is_refused(changed, message):
    fitting = {"means": torch.zeros(3, 2), "stds": torch.ones(3), "weights": torch.ones(3), "labels": torch.arange(3)}
    with pytest.raises(InputError, match=message) as error:
        Mixture(**fitting | changed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("z", torch.zeros(3, 5)), ("t", torch.ones(2)), ("w", torch.ones(1)), ("w", 1.5)]
    + [("condition", value) for value in (torch.zeros(2).long(), torch.full((3,), 4), torch.full((3,), -1), torch.zeros(3), None)],
)
def test_inputs_that_do_not_fit_the_mixture_are_refused(name, value):
    fitting = {"z": torch.zeros(3, 2), "t": torch.ones(3), "condition": torch.zeros(3).long(), "w": None}
    with pytest.raises(InputError) as error:
        RING.denoiser(Cosine())(**fitting | {name: value})
    assert "\n" not in str(error.value)


def test_a_ring_needs_a_component_for_each_class():
    with pytest.raises(InputError, match="2 components"):
        Mixture.ring(components=2, classes=3)
