"""edit, inpaint and translate as a user types them: what they write, and one line for every wrong input."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fewstep
from command_line import command, refused
from tiny import tiny_student


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A student of 4 steps, an encoder of 2, and pictures."""
    folder = tmp_path_factory.mktemp("edit")
    tiny_student(4).save(folder / "student")
    tiny_student(2, kind="encoder").save(folder / "encoder")
    rng = np.random.default_rng(0)
    for name in ("three", "eight"):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{name}.png")
    Image.new("RGB", (40, 20), "white").save(folder / "wide.jpg")
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 8, 16, 16))
    mask.save(folder / "mask.png")
    Image.new("L", (8, 8)).save(folder / "black.png")
    (folder / "text.png").write_text("dear diary")
    return folder


def record_of(out):
    return json.loads((out / "samples.json").read_text())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_edit_writes_every_picture_and_a_labelled_grid(tmp_path, capsys, files):
    words = ["edit", files / "student", "--image", files / "three.png", "--image", files / "wide.jpg", "--class-label", "8"]
    asked = [
        "--strength",
        "0.5",
        "--strength",
        "3/4",
        "--guidance-scale",
        "1",
        "--guidance-scale",
        "2",
        "--seed",
        "0",
        "--seed",
        "7",
    ]
    out, err = command(capsys, *words, *asked, "--out", tmp_path / "out", "--device", "cpu")
    assert "16 images, 2 to 3 evaluations of the network each" in out
    assert "16/16 images" in err
    assert names(tmp_path / "out") == [*(f"{i:05d}.png" for i in range(16)), "grid.png", "samples.json"]
    record = record_of(tmp_path / "out")
    assert (record["steps"], record["sampler"]) == (4, "deterministic")
    assert record["results"][5] == {
        "file": "00005.png", "image": "three.png", "class": "8", "strength": 0.5, "guidance_scale": 2.0, "seed": 7, "evaluations": 2,
    }  # fmt: skip
    asked = {tuple(r[k] for k in ("image", "strength", "guidance_scale", "seed")) for r in record["results"]}
    assert len(asked) == 16
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.width > 5 * 64 and grid.height > 4 * 64  # an input and 4 columns; 2 pictures from 2 seeds
    student, images = fewstep.open_model(files / "student"), [files / "three.png", files / "wide.jpg"]
    again = student.edit(images, ["8"], strength=0.5, guidance_scale=2.0, seed=7)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "00005.png")), np.asarray(again[0]))


def test_a_strength_off_the_grid_is_rounded_and_said(tmp_path, capsys, files):
    words = ["edit", files / "student", "--image", files / "three.png", "--class-label", "8", "--out", tmp_path / "out"]
    out, err = command(capsys, *words, "--strength", "0.6", "--strength", "0.5")
    assert err.count("strength 0.6 is rounded to 2/4 = 0.5, on the grid of 4 steps") == 1
    assert out.startswith("1 image, 2 evaluations")
    assert record_of(tmp_path / "out")["results"][0]["strength"] == 0.5


def test_inpaint_returns_what_is_known(tmp_path, capsys, files):
    words = ["inpaint", files / "student", "--image", files / "three.png", "--mask", files / "mask.png", "--class-label", "3"]
    out, _ = command(capsys, *words, "--class-label", "8", "--seed", "1", "--resample", "1", "--out", tmp_path / "out")
    assert out.startswith("2 images, 7 evaluations")
    before = np.asarray(Image.open(files / "three.png"))
    for name in ("00000.png", "00001.png"):
        after = np.asarray(Image.open(tmp_path / "out" / name))
        np.testing.assert_array_equal(after[:4], before[:4])
        assert (after[4:] != before[4:]).any()
    assert record_of(tmp_path / "out")["resample"] == 1
    words[5] = files / "black.png"
    out, err = command(capsys, *words, "--feather", "1.5", "--out", tmp_path / "black")
    assert "black all over" in err
    assert "0 evaluations" in out
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "black" / "00000.png")), before)


def test_translate_and_the_pictures_in_between(tmp_path, capsys, files):
    words = ["translate", files / "student", "--encoder", files / "encoder"]
    asked = [
        "--image",
        files / "three.png",
        "--from",
        "3",
        "--to",
        "8",
        "--to",
        "5",
        "--guidance-scale",
        "1",
        "--guidance-scale",
        "4",
    ]
    out, _ = command(capsys, *words, *asked, "--out", tmp_path / "styled")
    assert out.startswith("4 images, 6 evaluations")
    assert len(names(tmp_path / "styled")) == 6
    asked = ["--between", files / "three.png", files / "eight.png", "--from", "3", "--from", "8", "--frames", "5"]
    out, _ = command(capsys, *words, *asked, "--out", tmp_path / "between")
    assert out.startswith("5 images, 4 evaluations")
    assert record_of(tmp_path / "between")["to"] == ["3", "3", "3", "8", "8"]
    out, _ = command(
        capsys, "translate", "digits", "--image", files / "three.png", "--from", "3", "--to", "8",
        "--steps", "2", "--encoder-steps", "3", "--guidance-scale", "2", "--out", tmp_path / "teacher",
    )  # fmt: skip
    assert out.startswith("1 image, 7 evaluations")  # 3 without guidance, 2 x 2 with


def test_two_models_of_two_sets_of_classes_each_know_their_own(tmp_path, capsys, files):
    clothes = tuple(f"coat {i}" for i in range(10))
    other = tiny_student(4)
    replace(other, info=other.info.model_copy(update={"classes": clothes})).save(tmp_path / "clothes")
    words = [
        "translate",
        tmp_path / "clothes",
        "--encoder",
        files / "encoder",
        "--image",
        files / "three.png",
        "--out",
        tmp_path / "out",
    ]
    assert "--from: class 'coat 1' is not known" in refused(capsys, *words, "--from", "coat 1", "--to", "coat 2")
    assert "--to: class 'eight' is not known" in refused(capsys, *words, "--from", "3", "--to", "eight")
    assert not (tmp_path / "out").exists()
    out, _ = command(capsys, *words, "--from", "3", "--to", "coat 2", "--to", "coat 7")
    assert out.startswith("2 images, 6 evaluations")
    assert [r["class"] for r in record_of(tmp_path / "out")["results"]] == ["coat 2", "coat 7"]


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000)])
@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_pictures_of_odd_sizes_are_edited_and_filled_in(tmp_path, capsys, files, size, mode):
    picture = tmp_path / ("odd.jpg" if mode == "CMYK" else "odd.png")
    Image.new(mode, size).save(picture)
    Image.new("L", size, 255).save(tmp_path / "white.png")
    words = [files / "student", "--image", picture, "--class-label", "8"]
    assert command(capsys, "edit", *words, "--strength", "0.5", "--out", tmp_path / "edited")[0].startswith(
        "1 image, 2 evaluations"
    )
    command(capsys, "inpaint", *words, "--mask", tmp_path / "white.png", "--out", tmp_path / "filled")
    with Image.open(tmp_path / "filled" / "00000.png") as filled:
        assert (filled.size, filled.mode) == ((8, 8), "L")


def test_wrong_input_is_one_line_and_writes_nothing(tmp_path, capsys, files):
    out, one = ["--out", tmp_path / "out"], ["--image", files / "three.png"]
    edit = ["edit", files / "student", *out, "--class-label", "8"]
    fill = ["inpaint", files / "student", *out, *one, "--class-label", "8"]
    style = ["translate", files / "student", "--encoder", files / "encoder", *out]
    for words, message in (
        ([*edit, *one, "--strength", "0.2"], "strength is 0.2; with 4 steps it can be 1/4 to 1"),
        ([*edit, *one, "--strength", "nan"], "strength is nan"),
        ([*edit, *one, "--strength", "0"], "strength is 0.0; with 4 steps it can be 1/4 to 1"),
        ([*edit, *one, "--strength", "1.5"], "strength is 1.5"),
        ([*edit, *one, "--strength", "1/0"], "--strength 1/0: a number is needed"),
        ([*edit, *one, "--strength", "much"], "--strength much: a number is needed"),
        ([*edit, "--image", files / "text.png", "--strength", "1"], "cannot identify image file"),
        ([*edit, "--image", files / "none.png", "--strength", "1"], "No such file"),
        ([*edit, *one, "--strength", "1", "--class-label", "cow"], "--class-label: class 'cow' is not known"),
        (["edit", files / "student", *out, *one, "--strength", "1"], "no class is given; name what to draw with --class-label"),
        ([*edit, *one, "--strength", "1", "--guidance-scale", "2", "--guidance-scale", "50"], "50 is outside the range 1 to 5"),
        ([*edit, *one, "--strength", "1", "--sampler", "stochastic"], "trained for the deterministic one"),
        ([*fill, "--mask", files / "wide.jpg"], "give a mask of the picture's proportions"),
        ([*fill, "--mask", files / "text.png"], "text.png"),
        ([*fill, "--mask", files / "mask.png", "--feather", "-1"], "--feather"),
        ([*style, *one, "--from", "3"], "--to L"),
        ([*style, "--from", "3", "--to", "8"], "give --image F"),
        ([*style, *one, "--from", "3", "--to", "cow"], "--to: class 'cow' is not known"),
        ([*style, *one, "--from", "cow", "--to", "3"], "--from: class 'cow' is not known"),
        ([*style, *one, "--from", "3", "--from", "4", "--to", "3"], "3, 4: one is needed here"),
        ([*style, *one, "--from", "3", "--to", "8", "--encoder-steps", "3"], "trained for 2"),
        (["translate", files / "student", *out, *one, "--from", "3", "--to", "8"], "the encoder is a student"),
    ):
        assert message in refused(capsys, *words)
        assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    assert "holds something already" in refused(
        capsys, "edit", "digits", *one, "--class-label", "8", "--strength", "1", "--out", tmp_path / "full"
    )


@pytest.mark.parametrize("name", ["edit", "inpaint", "translate"])
def test_help_has_an_example(capsys, name):
    out, _ = command(capsys, name, "--help")
    for word in ("Example", "--device", "--seed"):
        assert word in out


@pytest.mark.parametrize("page", ["editing", "inpainting", "style-transfer"])
def test_what_the_pages_show_runs(tmp_path, monkeypatch, capsys, page):
    """Every command and every block of Python, in the order of the page; those of a run that takes minutes are left out."""
    text = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    commands = 0
    for language, block in re.findall(r"^```(sh|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(block, {})
            continue
        for line in block.splitlines():
            if "runs/" not in line:
                command(capsys, *shlex.split(line)[1:])
                commands += 1
    assert commands >= 1
