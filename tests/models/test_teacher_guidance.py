"""A teacher's rule of guidance reaches its samples, its students and their folders; a scale for each step reaches each step."""

from dataclasses import replace

import pytest
import torch

import fewstep
from conftest import TINY
from fewstep.errors import InputError
from fewstep.method.guidance_rules import Interval
from tiny import LABELS, tiny_student, tiny_teacher

NOISE = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def drawn(model, scale, **choices):
    return model.sample_tensor(LABELS, guidance_scale=scale, noise=NOISE, **({"steps": 4} | choices)).samples


def test_an_interval_that_no_step_is_in_is_no_guidance():
    teacher = tiny_teacher()
    assert not torch.allclose(drawn(teacher, 3.0), drawn(teacher, 1.0))
    torch.testing.assert_close(drawn(teacher.with_guidance(Interval(0.0, 0.1)), 3.0), drawn(teacher, 1.0))


@pytest.mark.slow
def test_a_rule_is_distilled_and_recorded(tmp_path):
    changes = TINY | {"data.name": "digits", "teacher.guidance.name": "interval", "teacher.guidance.high": 0.6, "train.seed": 1}
    teacher = tiny_teacher()
    student = fewstep.distill(teacher, out=tmp_path / "run", changes=changes, device="cpu", quiet=True)
    assert student.info.guidance == {"name": "interval", "low": 0.0, "high": 0.6}
    assert fewstep.open_model(tmp_path / "run").info.guidance == student.info.guidance
    same = fewstep.distill(
        teacher.with_guidance({"name": "interval", "high": 0.6}), out=tmp_path / "other", device="cpu", quiet=True,
        changes=TINY | {"data.name": "digits", "train.seed": 1},
    )  # fmt: skip
    torch.testing.assert_close(drawn(student, 2.0, steps=1), drawn(same, 2.0, steps=1), rtol=0, atol=0)
    plain = fewstep.distill(
        teacher, out=tmp_path / "plain", changes=TINY | {"data.name": "digits", "train.seed": 1}, device="cpu", quiet=True
    )
    assert not torch.allclose(drawn(plain, 2.0, steps=1), drawn(student, 2.0, steps=1), atol=1e-6)


def test_a_weak_model_guides_in_the_place_of_the_null_condition():
    teacher, weak = tiny_teacher(), tiny_teacher()
    with torch.no_grad():
        for p in weak.denoiser.network.parameters():
            p.mul_(0.9)
    assert not torch.allclose(drawn(teacher.with_guidance({}, weak), 3.0), drawn(teacher, 3.0))
    torch.testing.assert_close(drawn(teacher.with_guidance({}, teacher), 3.0), drawn(teacher, 1.0))  # no weaker: no difference


@pytest.mark.parametrize("changed", [{"size": 16}, {"classes": ("a", "b")}])
def test_a_weak_model_of_other_data_is_refused(changed):
    teacher = tiny_teacher()
    weak = replace(teacher, info=teacher.info.model_copy(update=changed))
    with pytest.raises(InputError, match="weak model"):
        teacher.with_guidance({}, weak)


def test_a_student_has_its_guidance_in_its_weights():
    with pytest.raises(InputError, match="student"):
        tiny_student(4).with_guidance({"name": "interval"})


@pytest.mark.parametrize("make", [lambda: tiny_student(4), tiny_teacher])
def test_one_scale_a_step(make):
    model = make()
    torch.testing.assert_close(drawn(model, [2.0, 2.0, 2.0, 2.0]), drawn(model, 2.0))
    torch.testing.assert_close(drawn(model, [1.0, 1.0, 1.0, 1.0]), drawn(model, 1.0))
    mixed = drawn(model, [1.0, 1.0, 1.0, 3.0])
    assert not torch.allclose(mixed, drawn(model, 1.0)) and not torch.allclose(mixed, drawn(model, 3.0))
    with pytest.raises(InputError, match="3 guidance scales for 4 steps"):
        drawn(model, [1.0, 2.0, 2.0])
