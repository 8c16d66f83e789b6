"""Measures against known answers: distances of Gaussians, a classifier on real digits, the shipped samples of the bundled teacher."""

import pytest
import torch

from fewstep import open_model
from fewstep.data.loading import open_data
from fewstep.errors import InputError
from fewstep.evaluation.features import train_classifier
from fewstep.evaluation.judge import Judge, Statistics, frechet_distance, rms
from fewstep.evaluation.teacher_samples import fixed_noise, key_of, load_references, recall, references_file, save_references
from fewstep.models.metadata import bundled


def gaussian(mean, variances):
    return Statistics(torch.tensor(mean, dtype=torch.float64), torch.diag(torch.tensor(variances, dtype=torch.float64)))


def test_frechet_distance_of_gaussians_with_a_known_one():
    one, other = gaussian([0.0, 0.0, 1.0], [1.0, 4.0, 9.0]), gaussian([3.0, 4.0, 1.0], [4.0, 4.0, 0.0])
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(one, other) == pytest.approx(25 + 1 + 0 + 9)  # |m|^2 + (1-2)^2 + 0 + (3-0)^2
    assert frechet_distance(other, one) == pytest.approx(35)


def test_frechet_distance_does_not_depend_on_the_axes():
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    one, other = gaussian([1.0, 0.0, 2.0], [1.0, 2.0, 3.0]), gaussian([0.0, 5.0, 1.0], [2.0, 0.5, 1.0])
    turned = [Statistics(turn @ s.mean, turn @ s.covariance @ turn.T) for s in (one, other)]
    assert frechet_distance(*turned) == pytest.approx(frechet_distance(one, other))


def test_statistics_are_those_of_the_features():
    features = torch.randn(5000, 2, dtype=torch.float64) @ torch.tensor([[2.0, 0.0], [1.0, 1.0]], dtype=torch.float64) + 3
    found = Statistics.of(features)
    torch.testing.assert_close(found.mean, torch.full((2,), 3.0, dtype=torch.float64), atol=0.2, rtol=0)
    torch.testing.assert_close(found.covariance, torch.tensor([[5.0, 1.0], [1.0, 1.0]], dtype=torch.float64), atol=0.4, rtol=0)


def test_rms_is_in_the_units_of_the_samples():
    assert rms(torch.full((2, 1, 3, 3), 0.5), torch.zeros(2, 1, 3, 3)) == pytest.approx(0.5)


def test_a_classifier_of_digits_knows_digits_and_noise_is_far_from_them():
    digits = open_data(name="digits")
    images = digits.images().float() / 127.5 - 1
    classifier = train_classifier(images, digits.labels, 10, epochs=4)
    assert classifier.test_accuracy > 0.9
    judge = Judge.of_data(classifier, images)
    halves = [Statistics.of(classifier.features(images[i::2])) for i in (0, 1)]
    noise = Statistics.of(classifier.features(torch.randn(images.shape)))
    assert frechet_distance(noise, judge.data) > 10 * frechet_distance(*halves)


def test_shipped_samples_belong_to_the_bundled_teacher():
    teacher, folder = open_model("digits"), bundled("digits-teacher")
    references = load_references(references_file(), folder)
    noise, labels = fixed_noise(teacher, 1000)
    assert {key_of(n, s) for n in (64, 256) for s in (1.0, 2.0, 3.0, 5.0)} == set(references)
    samples = recall(teacher, references, noise, labels, 64, 2.0, pace=0.001)
    assert samples.samples.shape == noise.shape
    assert samples.evaluations == 128
    assert samples.seconds == pytest.approx(128)  # 1,000 images of 128 evaluations of a millisecond


def test_samples_of_other_weights_are_refused(tmp_path, teacher_folder):
    save_references(tmp_path / "r.safetensors", bundled("digits-teacher"), {"steps-0064/scale-1": torch.zeros(3, 1, 8, 8)})
    with pytest.raises(InputError, match="belongs to other weights"):
        load_references(tmp_path / "r.safetensors", teacher_folder)
    assert load_references(tmp_path / "none.safetensors", teacher_folder) == {}
    noise, labels = fixed_noise(open_model("digits"), 3)
    wrong = load_references(tmp_path / "r.safetensors", bundled("digits-teacher"))
    with pytest.raises(RuntimeError, match="differ from this machine's"):
        recall(open_model("digits"), wrong, noise, labels, 64, 1.0, pace=0.001)
