"""`fewstep new`: asked or told, it writes a recipe that distill takes; what is wrong is said at once and writes nothing."""

import io
import json
import tomllib
from pathlib import Path

import pytest

from command_line import command, refused
from fewstep.errors import InputError
from fewstep.models.metadata import bundled
from fewstep.models.shapes import open_shapes
from fewstep.training.memory_estimate import needed
from fewstep.training.new_recipe import SHARE, chosen, open_teacher, usual
from fewstep.training.recipe import load_recipe

CONFIGS = Path(__file__).parents[1] / "configs"
ASKED = {"stage_one.updates": 3, "stage_two.updates": 3, "stage_two.last_updates": 3, "train.batch_size": 4}
SETTINGS = [word for key, value in ASKED.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture
def answering(monkeypatch, capsys, tmp_path):
    """A function that runs `fewstep new` with lines on stdin, in a folder of its own; (stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(lines, *words, expect=0):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return command(capsys, "new", *words, *SETTINGS, expect=expect)

    return run


def test_asked_it_says_what_each_answer_is_asks_again_and_writes_what_distill_takes(answering, capsys, tmp_path, teacher_folder):
    (tmp_path / "there.toml").write_text("mine")
    answers = [tmp_path / "none", teacher_folder, "", "nothing", "digits", "teapot", "cpu", "there.toml", "mine.toml"]
    out, err = answering(answers)
    told = (
        "is not a folder",
        "10 classes, pictures of 8x8",
        "check data.path",
        "1,797 examples of 10 classes",
        "'teapot'",
        "there already",
    )
    places = [err.index(one) for one in told]
    assert places == sorted(places)
    assert out.strip() == (tmp_path / "mine.toml").read_text().strip()
    recipe = load_recipe(tmp_path / "mine.toml")
    assert (recipe.teacher.path, recipe.data.name, recipe.stage_one.updates) == (str(teacher_folder), "digits", 3)
    predicted = [line for line in out.splitlines() if line.startswith("#   in all")]
    planned, _ = command(capsys, "distill", "mine.toml", "--out", "run", "--device", "cpu", "--dry-run")
    assert (
        predicted[0].split("evaluations")[0].removeprefix("#").split() == planned.splitlines()[-1].split("evaluations")[0].split()
    )
    assert (tmp_path / "there.toml").read_text() == "mine" and not (tmp_path / "run").exists()


def test_told_everything_it_asks_nothing_and_paths_are_seen_from_the_recipe(answering, capsys, tmp_path, teacher_folder):
    (tmp_path / "digits.npz").write_bytes(bundled("digits.npz").read_bytes())
    words = (
        "--teacher",
        teacher_folder,
        "--data",
        "digits.npz",
        "--device",
        "cuda",
        "--memory",
        "8",
        "--out",
        "recipes/mine.toml",
        "--yes",
    )
    answering([], *words, "--set", "train.ema=0.9")
    text = (tmp_path / "recipes" / "mine.toml").read_text()
    assert tomllib.loads(text)["data"]["path"] == "../digits.npz"
    recipe = load_recipe("recipes/mine.toml")
    assert Path(recipe.data.path).samefile("digits.npz") and recipe.train.ema == 0.9
    assert json.loads(command(capsys, "show", "recipes/mine.toml", "--json")[0])["cost"]["stages"]
    assert "--device cuda" in text and "not measured" in text


def test_what_cannot_be_used_is_one_line_and_writes_nothing(answering, monkeypatch, capsys, tmp_path, teacher_folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a cat\n")
    (tmp_path / "pair" / "cats").mkdir(parents=True)
    (tmp_path / "there.toml").write_text("mine")

    def told(*words, teacher=teacher_folder, data="digits", device="cpu", out="new.toml"):
        named = {"--teacher": teacher, "--data": data, "--device": device, "--out": out}
        return refused(
            capsys, "new", *(w for key, value in named.items() if value is not None for w in (key, value)), *words, "--yes"
        )

    assert "is a student or an encoder already" in told(teacher="digits-student")
    assert "takes classes" in told(data="prompts.txt")
    assert "pair" in told(data="pair")
    assert "device 'teapot'" in told(device="teapot")
    assert "there.toml is there already" in told(out="there.toml")
    assert "--data" in told(data=None)
    assert "did you mean" in told("--set", "stage_two.lader=[4,2]")
    assert "memory" in told("--memory", "nan", device="cuda")
    assert "the input ended" in answering([teacher_folder], expect=2)[1]

    class Interrupted(io.StringIO):
        def readline(self):
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Interrupted())
    assert command(capsys, "new", expect=130)[1].endswith("interrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pair", "prompts.txt", "there.toml"]


def test_what_fits_is_chosen_by_memory(teacher_folder):
    keys = {"teacher.path": str(teacher_folder), "data.name": "digits"}
    teacher, _ = open_teacher(str(teacher_folder), {})

    def for_room(room, **changes):
        picked = chosen(
            teacher, keys, {key.replace("__", "."): value for key, value in changes.items()}, "cuda", int(room / SHARE) + 1
        )
        return {key: choice.value for key, choice in picked.items()}

    cost, parts, _ = needed(load_recipe(None, keys | {"train.batch_size": 1}), teacher, "cuda")
    fixed, one = parts["total"] - cost["activations"], cost["activations"]
    assert for_room(fixed + 200 * one)["train.batch_size"] == 128
    found = for_room(fixed + 9 * one)
    assert (found["train.batch_size"], found["train.gradient_accumulation"]) == (8, 16) and "student.lora" not in found
    assert for_room(fixed + 2 * one)["train.gradient_checkpointing"] is True
    assert for_room(fixed + 200 * one, student__lora={"rank": 2})["student.lora"] == {"rank": 2}
    with pytest.raises(InputError, match=r"take a larger device"):
        for_room(fixed / 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gb", "ways"),
    [
        (80, set()),
        (8, {"student.lora", "train.gradient_checkpointing"}),
        (5.2, {"student.lora", "train.gradient_checkpointing", "teacher.dtype"}),
    ],
)
def test_a_published_model_is_trained_in_the_way_that_fits(gb, ways):
    picked = chosen(open_shapes(CONFIGS / "sd15"), {"teacher.path": "sd15"}, {}, "cuda", int(gb * 1e9))
    assert {key for key in ("student.lora", "train.gradient_checkpointing", "teacher.dtype") if key in picked} == ways
    assert picked["stage_two.learning_rate"].value == (1e-4 if ways else 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first", "scales"), [("sd15", 200, [3.0, 15.0]), ("sana", 64, [1.0, 8.0]), ("dit", 200, [1.0, 5.0])]
)
def test_ladder_and_scales_follow_from_the_kind_of_model(name, first, scales):
    picked = usual(open_shapes(CONFIGS / name), "cuda")
    assert (picked["stage_two.ladder"].value[0], picked["student.guidance_scale"].value) == (first, scales)
