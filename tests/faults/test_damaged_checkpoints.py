"""Two checkpoints are kept: where the newest is damaged it is named, and the run goes on from the one before to the same bits."""

import pytest
import torch
from safetensors.torch import load_file

import fewstep
from conftest import TINY
from fewstep.errors import InputError
from fewstep.training.checkpoint import Checkpoint, load_newest, save_newest
from fewstep.training.trainer import Interrupted, Trainer


def flipped(file):
    """Flip a bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncated(file):
    file.write_bytes(file.read_bytes()[:-1])


def emptied(file):
    file.write_bytes(b"")


DAMAGES = [flipped, truncated, emptied]


def checkpoint(update):
    return Checkpoint({"network/weight": torch.full((2, 3), float(update))}, {"stage": "x", "update": update})


def test_the_last_two_checkpoints_are_kept(tmp_path):
    for update in (1, 2, 3):
        save_newest(tmp_path, checkpoint(update))
    assert load_newest(tmp_path).values["update"] == 3
    (tmp_path / "state.safetensors").unlink()  # as a process leaves them that is killed between the two renames
    assert load_newest(tmp_path).values["update"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-before.safetensors"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, damage):
    save_newest(tmp_path, checkpoint(1))
    save_newest(tmp_path, checkpoint(2))
    damage(tmp_path / "state.safetensors")
    reports = []
    assert load_newest(tmp_path, reports.append).values["update"] == 1
    assert len(reports) == 1
    assert str(tmp_path / "state.safetensors") in reports[0]
    damage(tmp_path / "state-before.safetensors")
    with pytest.raises(InputError, match=r"state\.safetensors"):
        load_newest(tmp_path)


def test_a_run_whose_newest_checkpoint_is_damaged_ends_in_the_same_bits(tmp_path, monkeypatch, capsys):
    changes = TINY | {"data.name": "digits", "teach.updates": 12, "train.log_every": 1}

    def teach(name):
        fewstep.teach("digits", tmp_path / name, changes=changes, device="cpu", quiet=True)
        return load_file(tmp_path / name / "teacher" / "unet" / "diffusion_pytorch_model.safetensors")

    whole = teach("whole")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_asked_to_stop", lambda self, state: state.update == 8)
        with pytest.raises(Interrupted):
            teach("cut")
    for damage in DAMAGES:
        damage(tmp_path / "cut" / "checkpoint" / "state.safetensors")
    cut = teach("cut")
    assert "state.safetensors is damaged" in capsys.readouterr().err
    for key, value in whole.items():
        assert torch.equal(value, cut[key]), key
