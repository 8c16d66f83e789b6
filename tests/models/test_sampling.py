"""Sampling: a picture is a function of seed, place and condition, and what cannot be sampled is refused."""

import pytest
import torch

from fewstep.errors import InputError
from fewstep.method.process import Cosine, DiscreteBetas, RectifiedFlow
from fewstep.models.denoiser import Denoiser
from fewstep.models.sampling import fresh_noise, sample_in_batches
from tiny import LABELS, tiny_student, tiny_teacher

CPU = torch.device("cpu")
FIVE = torch.tensor([3, 1, 4, 1, 5])


@pytest.mark.parametrize("sampler", ["deterministic", "stochastic"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_seeds_pictures_do_not_depend_on_the_batch_size(sampler, batch_size):
    model = tiny_student(4, sampler)
    whole, seen = model.sample_tensor(FIVE, seed=7, batch_size=5), []
    parts = model.sample_tensor(FIVE, seed=7, batch_size=batch_size, progress=seen.append)
    torch.testing.assert_close(parts.samples, whole.samples)
    assert seen[-1] == 5 and len(seen) == -(-5 // batch_size)


def test_fresh_noise_is_another_for_each_seed_image_and_step():
    like, fresh = torch.zeros(2, 3, 5, dtype=torch.float64), fresh_noise(0, range(4, 6))
    drawn = torch.cat([fresh(like), fresh(like), fresh_noise(1, range(4, 6))(like)])
    assert drawn.dtype == torch.float64 and len(drawn.flatten().unique()) == drawn.numel()
    torch.testing.assert_close(fresh_noise(0, range(5, 6))(like[:1]), drawn[1:2])
    many = fresh_noise(2, range(2000))(torch.zeros(2000, 7))
    assert abs(float(many.mean())) < 0.03 and float(many.std()) == pytest.approx(1, abs=0.02)


def test_the_noise_of_a_seed_is_drawn_for_all_images_at_once():
    noise = tiny_teacher().sample_tensor(LABELS, steps=1, seed=3, batch_size=2).noise
    assert noise.equal(torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3)))


NO_NUMBERS = [float("nan"), float("inf")]


@pytest.mark.parametrize(
    ("make", "name", "values", "message"),
    [
        (tiny_teacher, "steps", [0, -1, 2.5, 1025, "4"], "steps is {!r}.*1 to 1024"),
        (lambda: tiny_student(2), "steps", [0, 4], "steps is {!r}.* 2"),
        (tiny_teacher, "seed", [-1, 2**63, 1.5], "seed is {!r}"),
        (tiny_teacher, "batch_size", [0, -3, 1.5], "batch_size is {!r}"),
        (tiny_teacher, "sampler", [""], "sampler {!r}"),
        (tiny_teacher, "guidance_scale", [*NO_NUMBERS, "2"], "guidance_scale.* {!r}"),
        (tiny_teacher, "noise", [torch.full((3, 1, 8, 8), value) for value in NO_NUMBERS], "not finite"),
    ],
)
def test_a_choice_that_cannot_be_sampled_is_refused(make, name, values, message):
    model = make()
    for value in values:
        with pytest.raises(InputError, match=message.format(value)):
            model.sample_tensor(LABELS, **{name: value})


@pytest.mark.parametrize("value", [0, -2, 1.5])
def test_a_number_of_images_below_one_is_refused(value):
    with pytest.raises(InputError, match=f"num_images is {value}"):
        tiny_student(2).sample([3, 1], num_images=value)


def test_batches_split_inputs_and_every_part_of_a_condition_alike():
    condition, seen = {"text": torch.arange(10).reshape(5, 2), "pooled": torch.arange(5)}, []

    def draw(images, rows, x, y):
        assert rows["text"].tolist() == [[2 * i, 2 * i + 1] for i in images] and rows["pooled"].tolist() == list(images)
        seen.append(images)
        return (x + y).double()

    x, y = torch.arange(5.0), torch.arange(5.0) * 10
    results, seconds = sample_in_batches(draw, (x, y), condition, batch_size=3, device=CPU)
    assert results.equal(x + y) and results.dtype == torch.float32 and seconds > 0
    assert seen == [range(3), range(3, 5)]
    with pytest.raises(InputError, match="4 images and 5 conditions"):
        sample_in_batches(draw, (x[:4], y[:4]), condition, batch_size=3, device=CPU)


@pytest.mark.parametrize(
    ("process", "known", "refused"),
    [
        (Cosine(), ("v", "eps", "x"), ("flow",)),
        (DiscreteBetas((0.1, 0.2)), ("v", "eps", "x"), ("flow",)),
        (RectifiedFlow(), ("flow", "x"), ("v", "eps")),
    ],
)
def test_a_prediction_goes_with_the_process_or_is_refused(process, known, refused):
    for prediction in known:
        assert Denoiser(torch.nn.Linear(1, 1), prediction, process).predicts.name == prediction
    for prediction in refused:
        with pytest.raises(InputError, match=f"'{prediction}' .*{type(process).__name__}"):
            Denoiser(torch.nn.Linear(1, 1), prediction, process)
