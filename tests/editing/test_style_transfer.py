"""Style transfer: the way to noise and back, which models belong together, and the pictures between two pictures."""

from dataclasses import replace

import pytest
import torch

from fewstep.api import public
from fewstep.editing.style_transfer import interpolate, open_encoder, translate, turn
from fewstep.errors import InputError
from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.process import Cosine
from tiny import LABELS, X, counted, exact_teacher, tiny_student, tiny_teacher


def three_classes():
    """Pictures 3x3 of three classes, two kinds of each."""
    means = 0.8 * torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    return Mixture(means, torch.full((6,), 0.3), torch.ones(6), torch.arange(6) % 3)


def test_there_and_back_under_one_condition_is_the_input():
    """The teacher in closed form: the distance falls as steps are added, and is below 0.03 a pixel at 2 x 256."""
    mixture = three_classes()
    model = exact_teacher(mixture, 3)
    x, labels = mixture.sample(50, torch.Generator().manual_seed(1))
    x, away = x.reshape(50, 1, 3, 3).float(), []
    for steps in (16, 64, 256):
        back = translate(model, model, x, labels, labels, steps=steps, encoder_steps=steps)
        away.append(float((back.samples - x).square().mean().sqrt()))
        assert back.evaluations == 2 * steps
    assert away[0] > 2 * away[1] > 4 * away[2]
    assert away[2] < 0.03


def test_another_condition_gives_that_class_and_keeps_the_code():
    mixture = three_classes()
    model = exact_teacher(mixture, 3)
    x, labels = mixture.sample(60, torch.Generator().manual_seed(1))
    drawn = translate(model, model, x.reshape(-1, 1, 3, 3).float(), labels, (labels + 1) % 3, steps=64)
    near = torch.cdist(drawn.samples.flatten(1).double(), mixture.means).argmin(1) % 3
    assert float((near == (labels + 1) % 3).float().mean()) > 0.95
    same = translate(model, model, x.reshape(-1, 1, 3, 3).float(), labels, labels, steps=64)
    assert drawn.noise.equal(same.noise)  # the code does not know what it will become
    assert abs(float(drawn.noise.std()) - 1) < 0.1


@pytest.mark.parametrize(("scale", "branches"), [(1.0, 1), (3.0, 2)])
def test_evaluations_are_counted(scale, branches):
    (decoder, decoding), (encoder, encoding) = counted(tiny_teacher()), counted(tiny_student(4, kind="encoder"))
    drawn = translate(decoder, encoder, X, LABELS, LABELS, steps=8, guidance_scale=scale)
    assert encoding == [3] * 4
    assert sum(decoding) == 3 * 8 * branches
    assert drawn.evaluations == 4 + 8 * branches
    decoder, decoding = counted(tiny_student(2))
    assert translate(decoder, encoder, X, LABELS, LABELS, guidance_scale=scale).evaluations == 4 + 2
    assert decoding == [3] * 2


def test_the_encoder_is_asked_without_guidance_and_the_decoder_with_it():
    weights = []

    def heard(model):
        def call(network, z, time, condition, w):
            weights.append(float(w[0]))
            return model.denoiser.call(network, z, time, condition, w)

        return replace(model, denoiser=replace(model.denoiser, call=call))

    translate(heard(tiny_student(2)), heard(tiny_student(4, kind="encoder")), X, LABELS, LABELS, guidance_scale=2.5)
    assert weights == [0.0] * 4 + [1.5] * 2


def test_batches_change_nothing():
    seen, models = [], (tiny_student(2), tiny_student(4, kind="encoder"))
    whole = translate(*models, X, LABELS, LABELS + 1)
    parts = translate(*models, X, LABELS, LABELS + 1, batch_size=2, progress=seen.append)
    torch.testing.assert_close(parts.samples, whole.samples)
    assert seen == [2, 3]


def test_what_translation_refuses():
    decoder, encoder, teacher = tiny_student(2), tiny_student(4, kind="encoder"), tiny_teacher()
    wide, large = (replace(teacher, info=teacher.info.model_copy(update=facts)) for facts in ({"channels": 3}, {"size": 16}))
    other = replace(teacher, denoiser=replace(teacher.denoiser, process=Cosine((10.0, -10.0))))
    for pair, message, choices in (
        ((decoder, wide), "channels 1 and 3", {}),
        ((decoder, large), r"pixels a side \(8, 8\) and \(16, 16\)", {}),
        ((decoder, other), "noise processes", {}),
        ((encoder, encoder), "this is an encoder", {}),
        ((decoder, decoder), "the encoder is a student of 2 steps", {}),
        ((tiny_student(2, "stochastic"), encoder), "trained for the stochastic one", {}),
        ((decoder, encoder), "encoder steps is 8, but this encoder was trained for 4", {"encoder_steps": 8}),
        ((decoder, encoder), "steps is 8, but this student was trained for 2", {"steps": 8}),
        ((decoder, encoder), "outside the range 1 to 5", {"guidance_scale": 9.0}),
        ((decoder, encoder), "outside the range 1 to 5", {"encoder_guidance_scale": 0.5}),
        ((decoder, encoder), "3 images and 2 conditions", {"from_condition": LABELS[:2]}),
        ((decoder, encoder), "3 images and 2 conditions", {"to_condition": LABELS[:2]}),
    ):
        with pytest.raises(InputError, match=message):
            translate(*pair, X, **{"from_condition": LABELS, "to_condition": LABELS} | choices)


def test_frames_begin_and_end_where_translation_puts_the_two_pictures():
    decoder, encoder = tiny_student(2), tiny_student(4, kind="encoder")
    ends = translate(decoder, encoder, X[:2], LABELS[:2], LABELS[:2])
    to = LABELS[[0, 0, 0, 1, 1]]
    frames = interpolate(decoder, encoder, X[:2], LABELS[:2], to, frames=5)
    assert frames.samples.shape == (5, 1, 8, 8)
    torch.testing.assert_close(frames.samples[[0, 4]], ends.samples, rtol=0, atol=1e-4)
    for images, count in ((X, 5), (X[:1], 5), (X[:2], 1)):
        with pytest.raises(InputError, match="give 2 images and 2 frames or more"):
            interpolate(decoder, encoder, images, LABELS[: len(images)], to[:count], frames=count)


def test_turning_keeps_the_length_and_divides_the_angle_evenly():
    generator = torch.Generator().manual_seed(0)
    first, last = (v / v.norm() for v in torch.randn(2, 3, 5, 7, generator=generator))
    path = [turn(first, last, share) for share in (0, 0.25, 0.5, 0.75, 1)]
    torch.testing.assert_close(path[0], first)
    torch.testing.assert_close(path[-1], last)
    assert all(float(v.norm()) == pytest.approx(1, abs=1e-5) for v in path)
    cosines = [float((a * b).sum()) for a, b in zip(path, path[1:], strict=False)]
    assert cosines == pytest.approx([cosines[0]] * 4, abs=1e-5)
    torch.testing.assert_close(turn(first, first, 0.3), first)
    assert bool(turn(first, -first, 0.5).isfinite().all())


def test_the_encoder_of_a_run(tmp_path, teacher_folder):
    (tmp_path / "recipe.toml").touch()
    with pytest.raises(InputError, match="has no encoder"):
        open_encoder(tmp_path)
    for steps in (1, 2):
        tiny_student(steps, kind="encoder").save(tmp_path / f"encoder-{steps:04d}")
    assert [open_encoder(tmp_path, steps=steps).info.steps for steps in (None, 1, 2)] == [1, 1, 2]
    assert open_encoder(teacher_folder).info.kind == "teacher"
    with pytest.raises(InputError, match="no encoder of 8 steps; it has 1, 2"):
        open_encoder(tmp_path, steps=8)
    images = public(tiny_student(2)).translate(X, [3], [8], open_encoder(tmp_path), guidance_scale=2.0)
    assert [image.size for image in images] == [(8, 8)] * 3
