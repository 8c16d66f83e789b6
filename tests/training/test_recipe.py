"""Settings: bounds, unknown keys, changes, files, and what may change between a run and its resumption."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep.errors import InputError
from fewstep.training.recipe import (
    Recipe,
    arguments,
    first_difference,
    ladder_to,
    load_recipe,
    parse_change,
    shipped_recipes,
    to_toml,
)


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_load_and_survive_being_written(tmp_path, name):
    recipe = load_recipe(name)
    (tmp_path / "again.toml").write_text(to_toml(recipe, tmp_path))
    assert first_difference(load_recipe(tmp_path / "again.toml"), recipe) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage_one.updatez": 5}, "unknown key 'stage_one.updatez'; did you mean 'updates'"),
        ({"stage_onne.updates": 5}, "did you mean 'stage_one'"),
        ({"stage_one.updates": -1}, "stage_one.updates is -1"),
        ({"stage_one.learning_rate": 0}, "stage_one.learning_rate is 0"),
        ({"stage_one.learning_rate": float("nan")}, "stage_one.learning_rate is nan"),
        ({"train.batch_size": 0}, "train.batch_size is 0"),
        ({"train.precision": "fp8"}, "train.precision is 'fp8'"),
        ({"student.guidance_scale": [5, 1]}, "upside down"),
        ({"student.guidance_scale": [1, 2, 3]}, "student.guidance_scale"),
        ({"stage_two.ladder": [64, 10]}, "10 does not divide 64"),
        ({"stage_two.ladder": [8, 8]}, "8 does not divide 8"),
        ({"stage_two.ladder": []}, "stage_two.ladder"),
        ({"data.channels": 2}, "data.channels is 2"),
        ({"updates": 3}, "a key is section.name"),
        ({"process.log_snr": [-5, 5]}, "does not fall"),
        ({"stage_one.times": "grid", "encoder.ladder": [8, 4]}, "encoder.ladder"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_it(change, message):
    with pytest.raises(InputError) as error:
        load_recipe(None, change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_no_recipe(tmp_path):
    (tmp_path / "bad.toml").write_text("stage_one = ")
    with pytest.raises(InputError, match="is not TOML"):
        load_recipe(tmp_path / "bad.toml")
    (tmp_path / "odd.toml").write_text("train = 5\n")
    with pytest.raises(InputError, match=r"\[train\] is 5"):
        load_recipe(tmp_path / "odd.toml", {"train.seed": 1})
    with pytest.raises(InputError, match="did you mean 'digits'"):
        load_recipe("digit")
    with pytest.raises(InputError, match="too long"):
        load_recipe("x" * 300)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=200", 200),
        ("a.b=[4, 2]", [4, 2]),
        ("a.b=0.5", 0.5),
        ("a.b=true", True),
        ("a.b=images/x", "images/x"),
        ('a.b="5"', "5"),
    ],
)
def test_changes_are_toml_values_or_plain_strings(text, value):
    assert parse_change(text) == ("a.b", value)
    with pytest.raises(InputError, match=r"section\.key=value"):
        parse_change("a.b")


def test_the_key_that_changed_is_named_unless_it_does_not_matter():
    old = Recipe()
    assert first_difference(old, load_recipe(None, {"train.checkpoint_every": 7, "evaluate.samples": 9})) is None
    assert first_difference(old, load_recipe(None, {"train.seed": 3})) == "train.seed was 0 and is 3"


@given(st.integers(1, 200))
def test_every_step_count_has_a_ladder(steps):
    from fewstep.method.stage_two import rungs

    ladder = ladder_to(steps, (64, 16, 8, 4, 2, 1))
    assert ladder[-1] == steps
    assert rungs(ladder)


def test_arguments_become_keys():
    assert arguments(None, "t", "d", 4, (1, 3)) == {
        "teacher.path": "t",
        "data.path": "d",
        "student.guidance_scale": [1, 3],
        "stage_two.ladder": [64, 16, 8, 4],
    }


def test_a_recipe_in_hand_is_changed_as_a_file_is():
    recipe = load_recipe("digits", {"train.seed": 3})
    changed = load_recipe(recipe, {"train.batch_size": 7})
    assert (changed.train.seed, changed.train.batch_size) == (3, 7)
    assert load_recipe(recipe) == recipe
    with pytest.raises(InputError, match=r"unknown key 'train\.sed'"):
        load_recipe(recipe, {"train.sed": 1})


def test_relative_paths_are_those_of_the_recipe_s_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("beside", "beside/model", "model", "only"):
        (tmp_path / folder).mkdir()
    file = tmp_path / "beside" / "mine.toml"
    file.write_text('[teach]\nstart = "model"\n[data]\nprompts = "lists/all.txt"\n[teacher]\npath = "nobody/on-the-hub"\n')
    recipe = load_recipe("beside/mine.toml")
    assert (recipe.teach.start, recipe.data.prompts) == ("beside/model", "beside/lists/all.txt")
    assert recipe.teacher.path == "nobody/on-the-hub"
    assert load_recipe(file).teach.start == str(tmp_path / "beside" / "model")
    assert load_recipe(file, {"teach.start": "model"}).teach.start == "model"
    file.write_text('[teach]\nstart = "only"\n')
    with pytest.raises(InputError, match=r"teach\.start = 'only' is in the working folder"):
        load_recipe(file)


def test_a_run_s_recipe_names_the_same_paths_from_its_folder(tmp_path, monkeypatch):
    for folder in ("pictures", "runs", "runs/mine"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    recipe, run = load_recipe(None, {"data.path": "pictures", "teacher.path": "digits"}), tmp_path / "runs" / "mine"
    (run / "recipe.toml").write_text(to_toml(recipe, run))
    monkeypatch.chdir(tmp_path / "runs")
    again = load_recipe("mine/recipe.toml")
    assert (again.data.path, again.teacher.path) == ("../pictures", "digits")
    assert first_difference(again, load_recipe(None, {"data.path": "../pictures", "teacher.path": "digits"})) is None
