"""Inpainting: what is known comes back to the bit, the network sees it at each step's noise level, evaluations are counted."""

import math

import numpy as np
import pytest
import torch

from fewstep.editing.inpainting import Path, fill, following, inpaint, noising, soften
from fewstep.errors import InputError
from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.process import Cosine, add_noise
from tiny import LABELS, X, counted, exact_teacher, tiny_student, tiny_teacher

HALF = (torch.arange(8) >= 3)[:, None].repeat(3, 1, 1, 8)
KINDS = pytest.mark.parametrize("sampler", ["deterministic", "stochastic"])


@KINDS
@pytest.mark.parametrize("resample", [0, 2])
@pytest.mark.parametrize("feather", [0.0, 1.0])
def test_known_pixels_come_back_to_the_bit_after_decoding(sampler, resample, feather):
    values = torch.randint(0, 256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    images = values.float() / 127.5 - 1
    drawn = inpaint(tiny_student(4, sampler), images, HALF, LABELS, guidance_scale=2.0, resample=resample, feather=feather)
    shown = torch.from_numpy(np.stack([np.asarray(image) for image in drawn.images()]))
    rows = 3 - int(feather)  # what fades over is no longer known
    assert drawn.samples[:, :, :rows].equal(images[:, :, :rows])
    assert shown[:, :rows].equal(values[:, 0, :rows].byte())
    assert not shown[:, 3:].equal(values[:, 0, 3:].byte())


@KINDS
@pytest.mark.parametrize(("steps", "resample", "taken"), [(1, 0, 1), (4, 0, 4), (2, 1, 3), (4, 3, 13)])
def test_evaluations_are_counted(sampler, steps, resample, taken):
    model, calls = counted(tiny_student(steps, sampler))
    drawn = inpaint(model, X, HALF, LABELS, resample=resample)
    assert calls == [3] * taken
    assert drawn.evaluations == taken
    for scale, branches in ((1.0, 1), (3.0, 2)):
        model, calls = counted(tiny_teacher())
        drawn = inpaint(model, X, HALF, LABELS, steps=steps, guidance_scale=scale, sampler=sampler, resample=resample, batch_size=2)
        assert sum(calls) == 3 * taken * branches == 3 * drawn.evaluations


@pytest.mark.parametrize("resample", [0, 2])
@pytest.mark.parametrize("advance", [following, noising(torch.randn_like)])
def test_the_network_sees_what_is_known_at_the_noise_level_of_its_time(advance, resample):
    """With a known part of zeros what is left there is noise of standard deviation sigma; what is drawn is added to it."""
    seen, n = [], 400
    hole = (torch.arange(6) < 2).expand(n, 1, 6, 6)

    def estimate(z, t, condition, w):
        seen.append((float(t[0]), z))
        return torch.full_like(z, 5.0)

    noise = torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    path = Path(torch.zeros(n, 1, 6, 6), hole, noise, 4, Cosine())
    fill(estimate, path, None, None, advance, resample)
    assert [t for t, _ in seen] == [1.0] + [t for t in (0.75, 0.5, 0.25) for _ in range(resample + 1)]
    for t, z in seen:
        assert float(z[..., 2:].std()) == pytest.approx(math.sin(t * math.pi / 2), rel=0.05)
        assert abs(float(z[..., 2:].mean())) < 0.05
        if t < 1:
            assert float(z[..., :2].mean()) == pytest.approx(5 * math.cos(t * math.pi / 2), abs=0.1)


def test_without_resampling_the_known_part_keeps_its_noise():
    process, seen = Cosine(), []

    def estimate(z, t, condition, w):
        seen.append((t, z))
        return torch.zeros_like(z)

    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    fill(estimate, Path(X, HALF, noise, 4, process), None, None, following)
    assert len(seen) == 4
    for t, z in seen:
        torch.testing.assert_close(z[:, :, :3], add_noise(X.double(), noise, t, process)[:, :, :3])


@KINDS
def test_a_mask_that_is_white_all_over_is_generation(sampler):
    model = tiny_student(4, sampler)
    drawn = inpaint(model, X, torch.ones_like(HALF), LABELS, guidance_scale=2.0, seed=3)
    plain = model.sample_tensor(LABELS, guidance_scale=2.0, seed=3)
    assert drawn.samples.equal(plain.samples) and drawn.noise.equal(plain.noise) and drawn.evaluations == plain.evaluations


def test_a_mask_that_is_black_all_over_gives_the_input_with_a_note():
    (model, calls), said = counted(tiny_student(4)), []
    drawn = inpaint(model, X, torch.zeros_like(HALF), LABELS, say=said.append)
    assert drawn.samples.equal(X) and (drawn.evaluations, calls) == (0, [])
    assert [f"image {i} is black" in line for i, line in enumerate(said)] == [True] * 3
    one = HALF.clone()
    one[1] = False
    with pytest.warns(UserWarning, match="image 1 is black"):
        drawn = inpaint(model, X, one, LABELS, feather=2)
    assert drawn.samples[1].equal(X[1]) and not drawn.samples[0].equal(X[0])


@pytest.mark.parametrize(("resample", "right"), [(0, 0.8), (2, 0.95)])
def test_what_is_filled_in_fits_what_is_known(resample, right):
    """Two kinds of pictures, all bright and all dark, in one class: half of one tells the other half (by chance: 0.5)."""
    means = torch.stack([torch.full((36,), 0.7), torch.full((36,), -0.7)])
    both = Mixture(means, torch.tensor([0.1, 0.1]), torch.ones(2), torch.tensor([0, 0]))
    x, _ = both.sample(200, torch.Generator().manual_seed(0))
    x = x.reshape(200, 1, 6, 6).float()
    hole = (torch.arange(6) >= 3).expand(200, 1, 6, 6)
    drawn = inpaint(exact_teacher(both, 6), x, hole, torch.zeros(200, dtype=torch.int64), steps=16, resample=resample).samples
    assert float((drawn[..., 3:].mean((1, 2, 3)).sign() == x.mean((1, 2, 3)).sign()).float().mean()) >= right


def test_a_feather_fades_outwards_over_its_radius():
    mask = torch.zeros(2, 1, 9, 9, dtype=torch.bool)
    mask[0, 0, :, :3] = True
    soft = soften(mask, 3)
    torch.testing.assert_close(soft[0, 0, 4], torch.tensor([1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0]))
    assert not bool(soft[1].any())
    assert soften(mask, 0).equal(mask.float())


@pytest.mark.parametrize(
    ("message", "masks", "choices"),
    [
        (r"\(3, 8, 8\); \(3, 1, 8, 8\) is needed", HALF[:, 0], {}),
        *((f"feather is {value}", HALF, {"feather": value}) for value in (-1, float("nan"))),
        ("resample is -1", HALF, {"resample": -1}),
        (r"noise has shape \(1,\)", HALF, {"noise": torch.randn(1)}),
        ("trained for 4", HALF, {"steps": 2}),
        ("outside the range", HALF, {"guidance_scale": 0.0}),
    ],
)
def test_what_inpainting_refuses(message, masks, choices):
    with pytest.raises(InputError, match=message):
        inpaint(tiny_student(4), X, masks, LABELS, **choices)
    with pytest.raises(InputError, match="resample is 1; with 1 step"):
        inpaint(tiny_student(1), X, HALF, LABELS, resample=1)
