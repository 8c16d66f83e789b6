"""Every file of a model folder flipped, cut short, emptied or removed is detected and named; files have the user's permissions."""

import os
import shutil
import stat

import pytest

import fewstep
from conftest import run_command
from fewstep.errors import InputError
from fewstep.files import UMASK
from fewstep.models.file_hashes import HASHES, MAY_CHANGE
from tiny import tiny_teacher


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "flipped": flip,
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "emptied": lambda file: file.write_bytes(b""),
    "removed": lambda file: file.unlink(),
}


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(tmp_path, damage):
    tiny_teacher().save(tmp_path / "model")
    checked = [path.relative_to(tmp_path / "model") for path in files_of(tmp_path / "model")]
    checked = [name for name in checked if name.name not in (*MAY_CHANGE, HASHES)]
    assert any(name.suffix == ".safetensors" for name in checked)
    for number, name in enumerate(checked):
        copy = tmp_path / str(number)
        shutil.copytree(tmp_path / "model", copy)
        DAMAGES[damage](copy / name)
        with pytest.raises(InputError, match=str(name)) as error:
            fewstep.open_model(copy)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_without_verification_or_hashes_a_changed_weight_is_opened(tmp_path):
    folder = tiny_teacher().save(tmp_path / "model")
    flip(folder / "unet" / "diffusion_pytorch_model.safetensors")
    fewstep.open_model(folder, verify=False)
    words = ("sample", folder, "--steps", 2, "--device", "cpu")
    _, errors = run_command(*words, "--out", tmp_path / "a", expect=2)
    assert "diffusion_pytorch_model.safetensors" in errors
    run_command("--no-verify", *words, "--out", tmp_path / "b")
    (folder / HASHES).unlink()
    fewstep.open_model(folder)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_files_have_the_permissions_of_the_users_umask(tmp_path):
    folder = tiny_teacher().save(tmp_path / "model")
    assert {stat.S_IMODE(path.stat().st_mode) for path in files_of(folder)} == {0o666 & ~UMASK}
