"""Run folders: claimed when the first stage begins, not before; another recipe only where nothing has been trained."""

import pytest

import fewstep
from conftest import TINY
from fewstep.errors import InputError
from fewstep.training.recipe import load_recipe, write_recipe
from fewstep.training.run_folder import check_run


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"train.precision": "fp16"}, "fp16"),
        ({"student.lora.targets": ["nothing_of_it"]}, "nothing_of_it"),
        ({"student.rescale_zero_terminal_snr": True}, "rescale_zero_terminal_snr"),
    ],
)
def test_a_recipe_that_cannot_be_distilled_leaves_no_folder(tmp_path, recipe, wrong, named):
    with pytest.raises(InputError, match=named):
        fewstep.distill(recipe=recipe(), changes=wrong, out=tmp_path / "run", device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_network_that_cannot_be_taught_leaves_no_folder_and_its_corrected_recipe_is_run(tmp_path):
    changes = TINY | {"data.name": "digits", "teach.updates": 2}
    with pytest.raises(InputError, match="num_class_embeds"):
        fewstep.teach("digits", tmp_path / "run", changes=changes | {"network.num_class_embeds": 5}, device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()
    fewstep.teach("digits", tmp_path / "run", changes=changes, device="cpu", quiet=True)
    assert load_recipe(tmp_path / "run" / "recipe.toml").train.batch_size == 4


def test_the_recipe_may_change_until_something_is_trained(tmp_path, recipe):
    write_recipe(tmp_path / "run", recipe(train__seed=1))
    assert check_run(tmp_path / "run", recipe(train__seed=2)) == tmp_path / "run"
    for trained in ("checkpoint", "stage-one"):
        (tmp_path / "run" / trained).mkdir()
        (tmp_path / "run" / trained / "fewstep.json").touch()
        with pytest.raises(InputError, match=r"train\.seed was 1 and is 2"):
            check_run(tmp_path / "run", recipe(train__seed=2))
        (tmp_path / "run" / trained / "fewstep.json").unlink()
        (tmp_path / "run" / trained).rmdir()


def test_a_folder_of_something_else_is_no_run(tmp_path, recipe):
    (tmp_path / "cache").mkdir()
    assert check_run(tmp_path, recipe()) == tmp_path  # a cache that was cut short
    (tmp_path / "letter.txt").touch()
    with pytest.raises(InputError, match="something else"):
        check_run(tmp_path, recipe())


def test_a_run_goes_on_with_another_split_of_its_batch_which_its_recipe_then_has(tmp_path, recipe):
    fewstep.distill(recipe=recipe(), out=tmp_path, device="cpu", quiet=True)
    split = recipe(train__batch_size=2, train__gradient_accumulation=2)
    fewstep.distill(recipe=split, out=tmp_path, device="cpu", quiet=True)
    assert load_recipe(tmp_path / "recipe.toml") == split
