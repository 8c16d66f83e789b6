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

STYLE = "translate {student} --encoder {encoder}"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths by name: a student of 4 steps, the same with scale 2.5 baked in, an encoder of 2, and pictures."""
    folder = tmp_path_factory.mktemp("edit")
    tiny_student(4).save(folder / "student")
    tiny_student(4).bake(2.5).save(folder / "baked")
    tiny_student(2, kind="encoder").save(folder / "encoder")
    for i, name in enumerate(("three", "eight")):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{name}.png")
    Image.new("RGB", (40, 20), "white").save(folder / "wide.jpg")
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 8, 16, 16))
    mask.save(folder / "mask.png")
    Image.new("L", (8, 8)).save(folder / "black.png")
    (folder / "text.png").write_text("dear diary")
    return {path.stem: path for path in folder.iterdir()} | {"none": folder / "none.png"}


@pytest.fixture
def run(capsys, files, tmp_path):
    """A function that runs a command with the names of files in braces into tmp_path/OUT: (stdout, stderr, the record)."""

    def run(line, out="out"):
        printed = command(capsys, *shlex.split(line.format(**files)), "--out", tmp_path / out, "--device", "cpu")
        return *printed, json.loads((tmp_path / out / "samples.json").read_text())

    return run


def pixels(path):
    return np.asarray(Image.open(path))


def test_edit_writes_every_picture_and_a_labelled_grid(tmp_path, files, run):
    choices = "--strength 0.6 --strength 3/4 --strength 0.5 --guidance-scale 1 --guidance-scale 2 --seed 0 --seed 7"
    out, err, record = run("edit {student} --image {three} --image {wide} --class-label 8 " + choices)
    assert "16 images, 2 to 3 evaluations of the network each" in out and "16/16 images" in err
    assert err.count("rounded to 2/4") == 1
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [*(f"{i:05d}.png" for i in range(16)), "grid.png", "samples.json"]
    assert (record["steps"], record["sampler"]) == (4, "deterministic")
    assert record["results"][5] == {
        "file": "00005.png", "image": "three.png", "class": "8", "strength": 0.5, "guidance_scale": 2.0, "seed": 7, "evaluations": 2,
    }  # fmt: skip
    assert len({tuple(r[k] for k in ("image", "strength", "guidance_scale", "seed")) for r in record["results"]}) == 16
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.width > 5 * 64 and grid.height > 4 * 64  # an input and 4 columns; 2 pictures from 2 seeds
    images = [files["three"], files["wide"]]
    again = fewstep.open_model(files["student"]).edit(images, ["8"], strength=0.5, guidance_scale=2.0, seed=7)
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "00005.png"), np.asarray(again[0]))


def test_inpaint_returns_what_is_known(tmp_path, files, run):
    line = "inpaint {student} --image {three} --class-label 3 "
    out, _, record = run(line + "--mask {mask} --class-label 8 --seed 1 --resample 1")
    assert out.startswith("2 images, 7 evaluations") and record["resample"] == 1
    before = pixels(files["three"])
    for name in ("00000.png", "00001.png"):
        after = pixels(tmp_path / "out" / name)
        np.testing.assert_array_equal(after[:4], before[:4])
        assert (after[4:] != before[4:]).any()
    out, err, _ = run(line + "--mask {black} --feather 1.5", "black")
    assert "black all over" in err and "0 evaluations" in out
    np.testing.assert_array_equal(pixels(tmp_path / "black" / "00000.png"), before)


def test_translate_and_the_pictures_in_between(files, run):
    out, _, record = run(STYLE + " --image {three} --from 3 --to 8 --to 5 --guidance-scale 1 --guidance-scale 4")
    assert out.startswith("4 images, 6 evaluations") and len(record["results"]) == 4
    out, _, record = run(f"{STYLE} --between '{files['three']}' '{files['eight']}' --from 3 --from 8 --frames 5", "between")
    assert out.startswith("5 images, 4 evaluations") and record["to"] == ["3", "3", "3", "8", "8"]
    teacher = "translate digits --image {three} --from 3 --to 8 --steps 2 --encoder-steps 3 --guidance-scale 2"
    assert run(teacher, "teacher")[0].startswith("1 image, 7 evaluations")  # 3 without guidance, 2 x 2 with


@pytest.mark.parametrize(
    "line",
    [
        "edit {0} --image {three} --class-label 8 --strength 0.5",
        "inpaint {0} --image {three} --mask {mask} --class-label 8",
        "translate {0} --encoder {encoder} --image {three} --from 3 --to 8",
        "sample {0} --class-label 8",
    ],
)
def test_without_a_guidance_scale_it_is_the_one_baked_in(tmp_path, files, run, line):
    for name, model, more in (("baked", files["baked"], ""), ("given", files["student"], " --guidance-scale 2.5")):
        _, _, record = run(line.replace("{0}", str(model)) + more, name)
        assert record.get("results", [record])[0]["guidance_scale"] == 2.5
    baked, given = (pixels(tmp_path / name / "00000.png").astype(int) for name in ("baked", "given"))
    assert abs(baked - given).max() <= 1


def test_two_models_of_two_sets_of_classes_each_know_their_own(tmp_path, capsys, files, run):
    other = tiny_student(4)
    clothes = other.info.model_copy(update={"classes": tuple(f"coat {i}" for i in range(10))})
    replace(other, info=clothes).save(tmp_path / "clothes")
    line = f"translate '{tmp_path / 'clothes'}' --encoder {{encoder}} --image {{three}} "
    for choice, message in (
        ("--from 'coat 1' --to 'coat 2'", "--from: class 'coat 1'"),
        ("--from 3 --to eight", "--to: class 'eight'"),
    ):
        assert message in refused(capsys, *shlex.split((line + choice).format(**files)), "--out", tmp_path / "out")
    out, _, record = run(line + "--from 3 --to 'coat 2' --to 'coat 7'")
    assert out.startswith("2 images, 6 evaluations")
    assert [r["class"] for r in record["results"]] == ["coat 2", "coat 7"]


EDIT = "edit {student} --class-label 8 --image {three} "
FILL = "inpaint {student} --class-label 8 --image {three} --mask "


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (EDIT + "--strength 0.2", "strength is 0.2; with 4 steps it can be 1/4 to 1"),
        (EDIT + "--strength 1/0", "--strength 1/0"),
        (EDIT + "--strength much", "--strength much"),
        (EDIT + "--strength 1 --image {text}", "text.png"),
        (EDIT + "--strength 1 --image {none}", "none.png"),
        (EDIT + "--strength 1 --class-label cow", "--class-label: class 'cow'"),
        ("edit {student} --image {three} --strength 1", "--class-label"),
        (EDIT + "--strength 1 --guidance-scale 2 --guidance-scale 50", "50 is outside the range 1 to 5"),
        (EDIT + "--strength 1 --sampler stochastic", "deterministic"),
        (FILL + "{wide}", "proportions"),
        (FILL + "{text}", "text.png"),
        (FILL + "{mask} --feather -1", "--feather"),
        (STYLE + " --image {three} --from 3", "--to L"),
        (STYLE + " --from 3 --to 8", "--image F"),
        (STYLE + " --image {three} --from 3 --to cow", "--to: class 'cow'"),
        (STYLE + " --image {three} --from cow --to 3", "--from: class 'cow'"),
        (STYLE + " --image {three} --from 3 --from 4 --to 3", "3, 4: one is needed"),
        (STYLE + " --image {three} --from 3 --to 8 --encoder-steps 3", "trained for 2"),
        ("translate {student} --image {three} --from 3 --to 8", "the encoder is a student"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(tmp_path, capsys, files, line, message):
    assert message in refused(capsys, *shlex.split(line.format(**files)), "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path, capsys, files):
    (tmp_path / "thesis.txt").touch()
    assert "holds something" in refused(capsys, *shlex.split((EDIT + "--strength 1").format(**files)), "--out", tmp_path)


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
