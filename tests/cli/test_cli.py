"""The commands as a user types them: what they write, their exit codes, and one line for every wrong input."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from command_line import command, refused
from conftest import TINY, run_command

SETTINGS = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]


def test_teach_distill_sample_show(tmp_path, capsys):
    """The whole way of a user with images of one's own, at a tiny size."""
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs", "owls"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "images" / name / f"{i}.png")
    (tmp_path / "images" / "cats" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "mine.toml").write_text(f'[data]\npath = "{tmp_path / "images"}"\nsize = 8\n')
    _, err = command(capsys, "teach", tmp_path / "mine.toml", "--out", tmp_path / "teacher", *SETTINGS, "--device", "cpu")
    line = f"data {tmp_path / 'images'}: 12 examples of 3 classes (cats, dogs, owls); left out: 1 of 13 pictures"
    assert [text[: len(line)] for text in err.splitlines() if text.startswith("data ")] == [line] and "broken.png" in err
    teacher = tmp_path / "teacher" / "teacher"
    out, err = command(capsys, "distill", "--teacher", teacher, "--data", tmp_path / "images", "--steps", "2", "--guidance-scale", "1,3", "--out", tmp_path / "run", *SETTINGS, "--set", "stage_two.ladder=[4,2]", "--device", "cpu")  # fmt: skip
    assert [line.rsplit("/", 1)[1] for line in out.splitlines()] == ["stage-one", "steps-0002"]
    assert err.count(line) == 1
    assert command(capsys, "show", tmp_path / "images")[0].startswith(line)
    out, _ = command(capsys, "sample", tmp_path / "run", "--steps", "2", "--class-label", "owls", "--class-label", "0", "--num-images", "3", "--guidance-scale", "2.5", "--raw", "--seed", "4", "--out", tmp_path / "pictures", "--device", "cpu")  # fmt: skip
    assert "3 images, 2 evaluations" in out
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["00000.png", "00001.png", "00002.png", "grid.png", "samples.json", "samples.safetensors"]  # fmt: skip
    record = json.loads((tmp_path / "pictures" / "samples.json").read_text())
    assert {k: record[k] for k in ("steps", "guidance_scale", "seed", "class_labels", "evaluations", "sampler")} == {
        "steps": 2, "guidance_scale": 2.5, "seed": 4, "class_labels": [2, 0, 2], "evaluations": 2, "sampler": "deterministic",
    }  # fmt: skip
    raw = load_file(tmp_path / "pictures" / "samples.safetensors")
    assert raw["samples"].shape == raw["noise"].shape == (3, 3, 8, 8)
    shown = np.asarray(Image.open(tmp_path / "pictures" / "00001.png"))
    np.testing.assert_array_equal(shown, ((raw["samples"][1].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    shown = {
        tmp_path / "run": "run",
        "digits-student": "run",
        teacher: "model",
        tmp_path / "mine.toml": "recipe",
        tmp_path / "images": "data",
    }
    for path, what in shown.items():
        facts = json.loads(command(capsys, "show", path, "--json")[0])
        assert facts["what"] == what
        assert command(capsys, "show", path)[0].startswith(what)
    for message, *words in (
        ("outside the range 1 to 3", "--guidance-scale", "4"),
        ("no student for 4 steps", "--steps", "4"),
        ("class 'cow' is not known", "--class-label", "cow"),
    ):
        assert message in refused(capsys, "sample", tmp_path / "run", *words, "--out", tmp_path / "more")
    assert "holds something already" in refused(capsys, "sample", tmp_path / "run", "--out", tmp_path / "pictures")
    assert not (tmp_path / "more").exists()


def test_dry_run_tells_the_cost_and_writes_nothing(tmp_path, capsys, teacher_folder):
    out, _ = command(capsys, "distill", "--teacher", teacher_folder, "--out", tmp_path / "run", *SETTINGS, "--dry-run")
    assert all(word in out for word in ("[stage_one]", "stage-one", "steps-0002", "steps-0001", "evaluations"))
    assert not (tmp_path / "run").exists()
    out, _ = command(capsys, "teach", "digits", "--out", tmp_path / "run", "--dry-run")
    assert "teacher" in out


def test_what_distill_refuses(tmp_path, capsys, teacher_folder):
    def distill(*words):
        return refused(capsys, "distill", "--out", tmp_path / "run", *words)

    assert "no teacher is given" in distill("--data", tmp_path)
    assert "is not a folder" in distill("--teacher", tmp_path / "nothing", "--set", "data.name=digits")
    assert "neither a file nor a shipped recipe" in distill("digitz")
    assert "10 does not divide 64" in distill("digits", "--set", "stage_two.ladder=[64,10]")
    assert "did you mean" in distill("digits", "--set", "stage_two.lader=[64]")
    assert "2 numbers" in distill("digits", "--guidance-scale", "3")
    assert "section.key=value" in distill("digits", "--set", "nothing")
    (tmp_path / "one" / "cats").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "one" / "cats" / "a.png")
    assert "one class" in distill("--teacher", teacher_folder, "--data", tmp_path / "one")
    (tmp_path / "empty").mkdir()
    assert "empty" in distill("--teacher", teacher_folder, "--data", tmp_path / "empty")
    assert not (tmp_path / "run").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("dear")
    message = refused(capsys, "distill", "--teacher", teacher_folder, "--set", "data.name=digits", "--out", tmp_path / "full")
    assert "holds something else" in message
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_data_that_does_not_fit_the_teacher(tmp_path, capsys, teacher_folder):
    np.savez(tmp_path / "two.npz", images=np.zeros((6, 8, 8, 1), np.uint8), labels=np.array([0, 1, 0, 1, 0, 1]))
    message = refused(capsys, "distill", "--teacher", teacher_folder, "--data", tmp_path / "two.npz", "--out", tmp_path / "run")
    assert "number of classes is 2, the model's 10" in message
    data = ("--set", "data.name=digits", "--set", "data.size=16")
    message = refused(capsys, "distill", "--teacher", teacher_folder, *data, "--out", tmp_path / "run")
    assert "size is 16, the teacher's 8" in message


def test_wrong_words_are_one_line(capsys):
    assert "No such option" in refused(capsys, "sample", "--bogus")
    assert "--out" in refused(capsys, "sample", "digits")
    assert "device" in refused(capsys, "sample", "digits", "--out", "x", "--device", "teapot")


@pytest.mark.parametrize(
    "name",
    ["quickstart", "new", "teach", "distill", "sample", "edit", "inpaint", "translate", "evaluate", "compare", "show", "bench"],
)
def test_help_has_an_example(capsys, name):
    out, _ = command(capsys, name, "--help")
    assert all(word in out for word in ("Example", "--device", "--seed"))


def test_help_and_import_are_light():
    """torch and diffusers are imported when used, not for `--help`: seconds on a cold machine."""
    code = "import sys, fewstep, fewstep.cli; heavy = {'torch', 'diffusers', 'numpy', 'pydantic_core', 'datasets'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True)
    out, _ = run_command("--help")
    assert "quickstart" in out


def test_ctrl_c_within_a_command_is_said_and_exits_with_130(capsys, monkeypatch):
    from fewstep.training import describe as show

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(show, "describe", interrupted)
    assert command(capsys, "show", "digits", expect=130)[1].endswith("interrupted\n")


def test_seeds_and_devices_out_of_bounds(capsys, tmp_path):
    assert "seed" in refused(capsys, "sample", "digits", "--seed", str(2**64), "--out", tmp_path / "out")
    assert "device 'banana'" in refused(capsys, "distill", "digits", "--device", "banana", "--out", tmp_path / "run")
    assert "teacher.path is mine" in refused(capsys, "quickstart", "--set", "teacher.path=mine", "--out", tmp_path / "quick")


def test_a_rung_copied_aside_and_a_log_cut_short_disturb_nothing(capsys, tmp_path):
    from fewstep.models.metadata import bundled

    run = tmp_path / "run"
    shutil.copytree(bundled("digits-student"), run)
    shutil.copytree(run / "steps-0002", run / "steps-0002-old")
    (run / "log.jsonl").write_text('{"stage": "stage-one", "update": 1}\n{"stage": "sta')
    assert json.loads(command(capsys, "show", run, "--json")[0])["last_logged"]["update"] == 1
    command(capsys, "sample", run, "--steps", "2", "--num-images", "1", "--device", "cpu", "--out", tmp_path / "out")
