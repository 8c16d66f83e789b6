"""`student.start`: a run that begins with the students of an earlier one, as after a change of the teacher."""

import pytest
import torch
from safetensors.torch import load_file

import fewstep
from fewstep import InputError
from tiny import tiny_teacher

SMALL = {
    "stage_one.updates": 2, "stage_two.ladder": [4, 2], "stage_two.updates": 2, "stage_two.last_updates": 2, "train.batch_size": 4,
    "data.name": "digits", "stage_one.learning_rate": 1e-9, "stage_two.learning_rate": 1e-9, "train.ema": 0.0,
}  # fmt: skip


def distilled(out, teacher, **changes):
    return fewstep.distill(
        teacher, out=out, changes=SMALL | {k.replace("__", "."): v for k, v in changes.items()}, device="cpu", quiet=True
    )


def weights(folder):
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def apart(one, other):
    return max(float((one[key] - other[key]).abs().max()) for key in one)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Two teachers, the second with other weights, and a run of the first that has learnt something."""
    torch.set_num_threads(1)
    root, first = tmp_path_factory.mktemp("start"), tiny_teacher()
    first.save(root / "first")
    with torch.no_grad():
        for p in first.denoiser.network.parameters():
            p.mul_(1.1)
    first.save(root / "second")
    distilled(root / "old", root / "first", stage_one__learning_rate=1e-2, stage_two__learning_rate=1e-2)
    return root


def test_each_stage_begins_with_the_same_stage_of_the_earlier_run(teachers, tmp_path):
    """The learning rates are next to nothing, so what a stage ends with is what it began with."""
    distilled(tmp_path / "new", teachers / "second", student__start=str(teachers / "old"))
    distilled(tmp_path / "plain", teachers / "second")
    for stage in ("stage-one", "steps-0002"):
        old, new, plain = (weights(run / stage) for run in (teachers / "old", tmp_path / "new", tmp_path / "plain"))
        assert apart(new, old) < 1e-5 < 1e-3 < apart(plain, old)


def test_a_stage_that_the_earlier_run_does_not_have_begins_as_ever(teachers, tmp_path):
    distilled(tmp_path / "new", teachers / "second", student__start=str(teachers / "old"), stage_two__ladder=[4, 2, 1])
    one, two = (weights(tmp_path / "new" / stage) for stage in ("steps-0001", "steps-0002"))
    assert apart(one, two) < 1e-5


def test_what_cannot_begin_a_run_is_refused(teachers, tmp_path):
    for start, changes, message in (
        (teachers / "first", {}, "no run with a finished stage one"),
        (tmp_path / "none", {}, "no run"),
        (teachers / "old", {"student__prediction": "x"}, "prediction"),
        (teachers / "old", {"student__lora": {"rank": 2}}, "student.lora"),
    ):
        with pytest.raises(InputError, match=message):
            distilled(tmp_path / "out", teachers / "first", student__start=str(start), **changes)
    with pytest.raises(InputError, match=r"student\.start"):
        fewstep.teach(
            "digits", tmp_path / "taught", changes={"teach.start": str(teachers / "old" / "steps-0002"), "data.name": "digits"}
        )
