"""Buckets that a network cannot take, and what does not go with them: one line each."""

import pytest

import fewstep
import pipelines
import transformer_pipelines
from bucketed_pictures import BUCKETS, pictures, recipe_of
from command_line import refused
from family_cases import CASES
from fewstep.data.loading import open_data
from fewstep.errors import InputError
from fewstep.training.examples import prepared
from fewstep.training.recipe import load_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures") / "data")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return pipelines.text_pipeline(tmp_path_factory.mktemp("teacher") / "sd")


def refusal(teacher, **changes):
    recipe = load_recipe(None, {"data.path": "nowhere"} | {key.replace("__", "."): value for key, value in changes.items()})
    with pytest.raises(InputError) as caught:
        prepared(None, recipe, teacher)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"data__buckets": [[16, 16], [25, 12]]}, ("25x12", "25", "multiples of 2")),
        ({"data__buckets": [[16, 16], [24, 12], [12, 6]]}, ("24x12", "12x6", "same proportions")),
        ({"data__buckets": [[16, 16], [16, 16]]}, ("16x16", "same proportions")),
        ({"data__buckets": "auto", "data__bucket_step": 3}, ("bucket_step = 3", "multiples of 2")),
        ({"data__buckets": BUCKETS, "data__size": 16}, ("data.size",)),
        ({"data__buckets": BUCKETS, "data__path": None, "data__prompts": "prompts.txt"}, ("data.prompts", "pictures")),
        ({"data__buckets": BUCKETS, "paths__rung": 4, "stage_two__ladder": [8, 4]}, ("paths.rung",)),
        ({"data__buckets": BUCKETS, "stage_two__guided_inputs": 0.1}, ("guided_inputs",)),
        ({"data__buckets": BUCKETS, "data__streaming": True, "data__on_the_fly": True}, ("data.streaming", "data.on_the_fly")),
    ],
)
def test_what_does_not_go_with_buckets_is_one_line(teacher, changes, parts):
    said = refusal(fewstep.open_model(teacher), **changes)
    assert all(part in said for part in ("data.bucket", *parts))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("class-conditional, latents", ("class labels",)), ("Stable Diffusion inpainting", ("16x16 alone",)), ("DeepFloyd IF", ("8x8 alone",)),
        ("Wan", ("alone",)),
    ],
)  # fmt: skip
def test_a_network_that_takes_no_other_size_has_no_buckets(tmp_path, name, parts):
    said = refusal(fewstep.open_model(CASES[name].build(tmp_path / "teacher")), data__buckets=BUCKETS)
    assert all(part in said for part in ("data.buckets", *parts))


def test_places_that_end_are_the_largest_side(tmp_path):
    model = fewstep.open_model(transformer_pipelines.sd3_pipeline(tmp_path / "teacher"))
    assert "64x16" in refusal(model, data__buckets=[[16, 16], [64, 16]])


def test_data_that_are_open_and_a_new_teacher_have_no_buckets(teacher, data, capsys, tmp_path):
    opened = open_data(path=str(data), size=16, captions=True)
    with pytest.raises(InputError, match=r"data.buckets.*open already"):
        prepared(opened, recipe_of(data), fewstep.open_model(teacher))
    assert "data.buckets" in refused(capsys, "teach", "digits", "--set", "data.buckets=[[8, 8]]", "--out", tmp_path / "out")
    for value in ("[[16]]", "[]", "[[0, 16]]", "'square'"):
        said = refused(
            capsys, "distill", "--teacher", teacher, "--data", data, "--set", f"data.buckets={value}", "--out", tmp_path / "out"
        )
        assert "data.buckets" in said
