"""Editing: exactly i of N steps from t = i/N, the same in stock diffusers, and strengths that the grid does not have."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import DDIMScheduler

import fewstep
from fewstep.data.images import read_images
from fewstep.editing.inpainting import inpaint
from fewstep.editing.sdedit import edit, start_of
from fewstep.errors import InputError
from fewstep.method.guidance import embed_w
from fewstep.method.process import add_noise
from fewstep.models.sampling import to_images
from tiny import LABELS, X, counted, tiny_student, tiny_teacher


@pytest.mark.parametrize("sampler", ["deterministic", "stochastic"])
@pytest.mark.parametrize("start", [1, 2, 3, 4])
def test_a_strength_of_i_in_n_takes_i_evaluations_of_a_student_and_twice_that_of_a_guided_teacher(sampler, start):
    model, calls = counted(tiny_student(4, sampler))
    drawn = edit(model, X, LABELS, strength=start / 4, guidance_scale=2.0)
    assert calls == [3] * start
    assert (drawn.evaluations, drawn.steps, drawn.sampler) == (start, 4, sampler)
    for scale, branches in ((1.0, 1), (3.0, 2)):
        model, calls = counted(tiny_teacher())
        drawn = edit(model, X, LABELS, strength=start / 4, steps=4, guidance_scale=scale, sampler=sampler)
        assert sum(calls) == 3 * start * branches == 3 * drawn.evaluations


def stock_edit(folder, x, noise, steps, start, labels, w=None):
    """Image-to-image as diffusers' pipelines do it: the stock scheduler's add_noise, then its last `start` timesteps."""
    network = fewstep.open_model(folder).denoiser.network
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps[steps - start :]
    z = scheduler.add_noise(x, noise, timesteps[:1].repeat(len(x)))
    for timestep in timesteps:
        embedded = None if w is None else embed_w(w, 256)
        with torch.no_grad():
            output = network(z, timestep, None, class_labels=labels, timestep_cond=embedded, return_dict=False)[0]
        z = scheduler.step(output, timestep, z, return_dict=False)[0]
    return z


@pytest.mark.parametrize("start", [1, 2, 3, 4])
def test_stock_diffusers_edits_the_same_folder_to_the_same_pictures(tmp_path, teacher_folder, start):
    noise = torch.randn(3, 1, 8, 8)
    ours = edit(fewstep.open_model(teacher_folder), X, LABELS, strength=start / 4, steps=4, noise=noise)
    torch.testing.assert_close(ours.samples, stock_edit(teacher_folder, X, noise, 4, start, LABELS), rtol=0, atol=1e-4)
    folder = tiny_student(4).save(tmp_path / "student")
    ours = edit(fewstep.open_model(folder), X, LABELS, strength=start / 4, guidance_scale=2.5, noise=noise)
    stock = stock_edit(folder, X, noise, 4, start, LABELS, torch.full((3,), 1.5))
    torch.testing.assert_close(ours.samples, stock, rtol=0, atol=1e-4)


def test_strength_one_starts_from_noise_as_the_process_mixes_it():
    model, noise = tiny_student(2), torch.randn(3, 1, 8, 8)
    z = add_noise(X, noise, torch.ones(3), model.denoiser.process)
    assert edit(model, X, LABELS, strength=1, noise=noise).samples.equal(model.sample_tensor(LABELS, noise=z).samples)


def test_the_weaker_the_nearer_to_the_input_and_a_strong_edit_makes_eights_of_threes():
    data, model = fewstep.open_data(name="digits"), fewstep.open_model("digits")
    x = data.images().float() / 127.5 - 1
    threes, eights = (x[data.labels == label][:40] for label in (3, 8))
    labels = torch.full((20,), 8)
    edited = (edit(model, threes[:20], labels, strength=s, steps=16, guidance_scale=2.0) for s in (0.125, 0.375, 0.625, 1.0))
    far = [float((drawn.samples - threes[:20]).norm()) for drawn in edited]
    assert far == sorted(far) and far[0] < far[-1] / 3
    drawn = edit(model, threes[:20], labels, strength=0.75, steps=16, guidance_scale=3.0).samples
    nearer = (drawn - eights.mean(0)).flatten(1).norm(dim=1) < (drawn - threes.mean(0)).flatten(1).norm(dim=1)
    assert int(nearer.sum()) >= 18


def filled(resample):
    """Inpainting of the right five columns, with as many repetitions."""
    return lambda model, x, labels, **choices: inpaint(
        model, x, torch.arange(8).expand(len(x), 1, 8, 8) > 2, labels, resample=resample, **choices
    )


@pytest.mark.parametrize("sampler", ["deterministic", "stochastic"])
@pytest.mark.parametrize("change", [partial(edit, strength=0.75), filled(0), filled(1)])
def test_a_picture_is_a_function_of_seed_and_place_whatever_the_batch_size(sampler, change):
    model, x, labels, seen = tiny_student(4, sampler), X.repeat(2, 1, 1, 1), LABELS.repeat(2), []
    whole, again, other = (change(model, x, labels, seed=seed).samples for seed in (0, 0, 1))
    assert whole.equal(again) and not whole.equal(other)
    for size in (1, 3, 5):
        parts = change(model, x, labels, batch_size=size, progress=seen.append).samples
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
    assert seen == [1, 2, 3, 4, 5, 6, 3, 6, 5, 6]


@pytest.mark.parametrize(
    ("strength", "steps", "start", "notes"),
    [
        *((i / n, n, i, 0) for i, n in ((1, 4), (1, 2), (1, 1), (4, 4), (1, 3), (2, 3))),
        *((0.3, 4, 1, 1), (0.6, 4, 2, 1), (0.625, 4, 3, 1), (0.9, 4, 4, 1), (0.7, 2, 1, 1)),
    ],
)
def test_a_strength_off_the_grid_is_rounded_with_a_note(strength, steps, start, notes):
    said = []
    assert start_of(strength, steps, said.append) == start
    assert [f"{strength:g} is rounded to {start}/{steps}" in line for line in said] == [True] * notes


@pytest.mark.parametrize("strength", [0, 0.0, -1, 0.24, 1.01, 2, float("nan"), float("inf"), -float("inf"), None, "0.5"])
def test_strengths_outside_the_grid_are_refused(strength):
    with pytest.raises(InputError, match="with 4 steps it can be 1/4 to 1, in parts of 1/4"):
        start_of(strength, 4, pytest.fail)
    with pytest.raises(InputError, match="with 1 step it can be 1"):
        start_of(0.5, 1, pytest.fail)


def test_what_an_edit_refuses():
    model = tiny_student(4)
    encoder = replace(model, info=model.info.model_copy(update={"kind": "encoder"}))
    for message, model_, labels, choices in (
        (r"noise has shape \(2, 1, 8, 8\)", model, LABELS, {"noise": torch.randn(2, 1, 8, 8)}),
        ("trained for 4", model, LABELS, {"steps": 2}),
        ("outside the range", model, LABELS, {"guidance_scale": 99.0}),
        ("deterministic one", model, LABELS, {"sampler": "stochastic"}),
        ("3 images and 2 conditions", model, LABELS[:2], {}),
        ("this is an encoder", encoder, LABELS, {}),
    ):
        with pytest.raises(InputError, match=message):
            edit(model_, X, labels, strength=0.5, **choices)


def test_from_python_with_files_and_pictures(tmp_path):
    model, images = tiny_student(4), to_images(X)
    images[0].save(tmp_path / "a.png")
    found = model.edit([tmp_path / "a.png", str(tmp_path / "a.png"), images[0]], [3], strength=0.5, noise=torch.zeros(3, 1, 8, 8))
    assert [image.size for image in found] == [(8, 8)] * 3
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
    x = read_images(images[0], model.info).pixels
    assert model.edit(x, "3", strength=0.5, noise=torch.zeros(1, 1, 8, 8))[0].tobytes() == found[0].tobytes()
