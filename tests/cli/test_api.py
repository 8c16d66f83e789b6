"""The library from Python: the public names, and a network of one's own distilled without a family."""

import pytest
import torch
from torch import nn

import fewstep
from conftest import TINY


class Own(nn.Module):
    """A small network that takes its time, its label and its weight in its own way."""

    def __init__(self, starts_at_zero=True):
        super().__init__()
        self.label, self.body = nn.Embedding(11, 16), nn.Linear(64 + 16 + 1, 64)
        self.weight = nn.Linear(1, 64, bias=False)
        if starts_at_zero:
            nn.init.zeros_(self.weight.weight)

    def forward(self, z, time, condition, w=None):
        inputs = torch.cat([z.flatten(1), self.label(condition), time[:, None] / 1024], 1)
        out = self.body(inputs)
        return (out if w is None else out + self.weight(w[:, None].to(out))).view_as(z)


CHANGES = {k: v for k, v in TINY.items() if not k.startswith("network")}


def test_public_names_exist():
    for name in fewstep.__all__:
        assert getattr(fewstep, name).__doc__
    with pytest.raises(AttributeError):
        fewstep.nothing  # noqa: B018 - the access is the test


def test_the_calls_of_the_design(tmp_path, teacher_folder):
    teacher, digits, changes = (
        fewstep.open_model(teacher_folder),
        fewstep.open_data(name="digits"),
        CHANGES | {"stage_two.ladder": [4, 2]},
    )
    options = {"out": tmp_path / "mine", "changes": changes, "device": "cpu", "quiet": True}
    student = fewstep.distill(teacher, data=digits, steps=2, guidance_scale=(1, 3), **options)
    assert (student.info.kind, student.info.steps, student.info.guidance_scale) == ("student", 2, (1.0, 3.0))
    images = student.sample(class_labels=[3, 5], steps=2, guidance_scale=2.5, seed=0)
    assert [image.size for image in images] == [(8, 8), (8, 8)]
    again = fewstep.open_model(student.save(tmp_path / "my-student")).sample(class_labels=[3, 5], guidance_scale=2.5, seed=0)
    assert [i.tobytes() for i in images] == [i.tobytes() for i in again]
    with pytest.raises(fewstep.InputError, match="student or an encoder already"):
        fewstep.distill(student, data=digits, out=tmp_path / "twice", changes=CHANGES, quiet=True)


def test_a_network_of_ones_own(tmp_path):
    torch.manual_seed(0)
    teacher = fewstep.Denoiser(Own(), prediction="v", process=fewstep.Cosine(), null=10)
    digits = fewstep.open_data(name="digits")
    student = fewstep.distill(
        teacher, data=digits, out=tmp_path / "run", changes=CHANGES | {"data.name": "digits"}, device="cpu", quiet=True
    )
    assert student.info.steps == 1
    opened = fewstep.open_model(tmp_path / "run", network=Own())
    noise, labels = torch.randn(2, 1, 8, 8), torch.tensor([1, 2])
    ours, again = (m.sample_tensor(labels, guidance_scale=2.0, noise=noise).samples for m in (student, opened))
    torch.testing.assert_close(ours, again)
    with pytest.raises(fewstep.InputError, match="network="):
        fewstep.open_model(tmp_path / "run")


def test_an_own_network_whose_weight_input_is_not_zero_is_refused(tmp_path):
    teacher = fewstep.Denoiser(Own(starts_at_zero=False), null=10)
    with pytest.raises(fewstep.InputError, match="must start at zero"):
        fewstep.distill(teacher, data=fewstep.open_data(name="digits"), out=tmp_path / "run", changes=CHANGES, quiet=True)


def test_an_encoder_is_distilled_by_the_same_stage(tmp_path, teacher_folder):
    changes = CHANGES | {"data.name": "digits", "stage_two.ladder": [4], "encoder.ladder": [4, 2], "encoder.updates": 3}
    fewstep.distill(str(teacher_folder), out=tmp_path / "run", changes=changes, device="cpu", quiet=True)
    assert {file.parent.name for file in (tmp_path / "run").glob("*/fewstep.json")} == {"stage-one", "encoder-0002"}
    encoder = fewstep.open_model(tmp_path / "run" / "encoder-0002")
    assert (encoder.info.kind, encoder.info.steps) == ("encoder", 2)
    with pytest.raises(fewstep.InputError, match="this is an encoder"):
        encoder.sample([1])
