"""What the playground draws and says, without its page: bounds, the code that draws an answer again, masks, and wrong input in one line."""

import json
import shlex
import shutil
import socket
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import command, refused

import fewstep
import pipelines
from fewstep.cli.playground import FIRST_PORT, free_port
from fewstep.models import metadata as folders
from fewstep.playground import drawing as drawing
from fewstep.playground import models as playground_models
from fewstep.playground.about import cards_of, facts_of, quality_of
from fewstep.playground.drawing import Group
from fewstep.playground.html import divided, figures
from fewstep.playground.models import COUNT, LONGEST, Models, Opened, bounded, open_models
from fewstep.playground.pictures import enlarged, mask_of, natural, painted
from fewstep.playground.record import command_of, python_of, sentence, write_pictures
from tiny import counted, tiny_student, tiny_teacher

SETTINGS = {"steps": 4, "guidance_scale": 2.5}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder: students of 4 and 2 steps, a teacher, an encoder."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    for steps in (4, 2):
        tiny_student(steps).save(folder / f"steps-{steps:04d}")
    tiny_teacher().save(folder / "teacher")
    tiny_student(2, kind="encoder").save(folder / "encoder-0002")
    return folder


@pytest.fixture(scope="module")
def models(run):
    return open_models(str(run))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A teacher of text, and an inpainter of 9 channels."""
    folder = tmp_path_factory.mktemp("texts")
    pipelines.text_pipeline(folder / "text", "v_prediction")
    pipelines.text_pipeline(folder / "nine", network=pipelines.unet(in_channels=9), pipeline="StableDiffusionInpaintPipeline")
    return folder


def picture(seed=0, size=8):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8))


def same(images, others):
    return [image.tobytes() for image in images] == [image.tobytes() for image in others]


def answers(models):
    """One answer of every kind."""
    return {
        "sample": drawing.generate(models, ["3", "8"], seed=7, count=5, **SETTINGS),
        "sweep": drawing.sweep(models, ["3"], 4, 7),
        "edit": drawing.redraw(models, enlarged(picture()), ["8"], 0.5, seed=7, **SETTINGS),
        "inpaint": drawing.fill(models, picture(), "left half", ["8"], seed=7, **SETTINGS),
        "translate": drawing.restyle(models, picture(), "3", "8", **SETTINGS),
    }


def test_a_run_gives_every_rung_its_teacher_and_its_encoder(run, models):
    assert list(models.by_steps) == [2, 4]
    assert models.scales == (1.0, 5.0)
    assert (models.teacher.path, models.encoder.path) == (str(run / "teacher"), str(run / "encoder-0002"))


def test_a_model_folder_gives_its_own_steps_and_needs_a_teacher_named(run):
    alone = open_models(str(run / "steps-0002"))
    assert (list(alone.by_steps), alone.samplers) == ([2], ("deterministic",))
    assert alone.teacher is None and alone.encoder is None
    named = open_models(str(run / "steps-0002"), teacher=str(run / "teacher"))
    assert named.teacher.path == named.encoder.path == str(run / "teacher")


def test_without_a_model_the_page_opens_what_is_bundled():
    opened = open_models()
    assert opened.name == ("digits-student" if folders.bundled("digits-student").is_dir() else "digits")
    assert opened.words == tuple("0123456789")
    assert drawing.generate(opened, [], max(opened.by_steps), 1.0, 0, 2).groups[0].images[0].size == (8, 8)
    assert opened.encoder is not None


@pytest.fixture
def shelf(tmp_path, monkeypatch, run):
    """What is bundled: a tiny teacher and its students."""
    for steps in (2, 4):
        shutil.copytree(run / f"steps-{steps:04d}", tmp_path / "shelf" / "digits-student" / f"steps-{steps:04d}")
    shutil.copytree(run / "teacher", tmp_path / "shelf" / "digits-teacher")
    for module in (folders, playground_models):
        monkeypatch.setattr(module, "bundled", lambda name: tmp_path / "shelf" / name)


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize("name", [None, "digits-student"])
def test_bundled_students_are_a_run_with_a_name(tmp_path, monkeypatch, capsys, name):
    opened = open_models(name)
    assert (opened.name, list(opened.by_steps)) == ("digits-student", [2, 4])
    assert (opened.teacher.path, opened.encoder.path) == ("digits", "digits")
    answer = drawing.generate(opened, ["3"], seed=7, count=2, **SETTINGS)
    assert "open_model('digits-student', steps=4)" in python_of(answer.record)
    drawn_again(answer, tmp_path, monkeypatch, capsys)


@pytest.mark.usefixtures("shelf")
def test_bundled_students_are_opened_by_name_where_no_folder_of_that_name_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [fewstep.open_model("digits-student", steps=n).info.steps for n in (2, 4)] == [2, 4]
    assert fewstep.open_model("digits").info.kind == "teacher"
    tiny_teacher().save(tmp_path / "digits-student")
    assert fewstep.open_model("digits-student").info.kind == "teacher"


def test_a_teacher_alone_encodes_for_itself_and_takes_any_steps(run):
    opened = open_models(str(run / "teacher"))
    assert opened.teacher is None
    assert opened.encoder.path == str(run / "teacher")
    assert len(opened.by_steps) > 1


def test_what_does_not_belong_together_is_refused(run, models):
    with pytest.raises(fewstep.InputError, match="is an encoder"):
        open_models(str(run / "encoder-0002"))
    large = replace(models.teacher.model, info=models.teacher.model.info.model_copy(update={"size": 16}))
    from fewstep.playground.models import _checked

    with pytest.raises(fewstep.InputError, match="works on"):
        _checked(Models("mine", models.by_steps, Opened("large", large)))


@pytest.mark.parametrize(
    ("words", "steps", "scale", "seed", "count", "said"),
    [
        (["3"], 3, 2.0, 0, 1, "steps is 3"),
        (["3"], 4, 5.1, 0, 1, "1 to 5"),
        (["3"], 4, float("nan"), 0, 1, "guidance scale is nan"),
        (["3"], 4, None, 0, 1, "guidance scale is None"),
        (["3"], 4, 2.0, -1, 1, "seed is -1"),
        (["3"], 4, 2.0, None, 1, "seed is None"),
        (["3"], 4, 2.0, 2**40, 1, "seed is"),
        (["3"], 4, 2.0, 0, COUNT + 1, f"1 to {COUNT}"),
        (["3"], 4, 2.0, 0, 0, "0 images"),
        (["x" * (LONGEST + 1)], 4, 2.0, 0, 1, "characters"),
        (["cat"], 4, 2.0, 0, 1, "class 'cat' is not known"),
    ],
)
def test_a_choice_outside_its_bounds_is_a_sentence(models, words, steps, scale, seed, count, said):
    with pytest.raises(fewstep.InputError, match=said) as error:
        drawing.generate(models, words, steps, scale, seed, count)
    assert "\n" not in sentence(error.value)


def test_words_are_taken_in_turn_and_none_is_all(models):
    assert bounded(models, ["3", " "], 4, 1.0, 0, 2) == ["3", "3"]
    assert bounded(models, [], 4, 1.0, 0, 12) == [*"0123456789", "0", "1"]


def test_the_teacher_draws_from_the_same_noise(models):
    answer = drawing.generate(models, ["3"], seed=7, count=2, **SETTINGS)
    both = drawing.beside(models, answer)
    own = models.teacher.model.sample(["3", "3"], steps=64, guidance_scale=2.5, seed=7)
    assert [len(group.images) for group in both.groups] == [2, 2]
    assert same(both.groups[1].images, own)
    assert "128 evaluations" in both.groups[1].captions[0]
    assert "4 evaluations" in both.groups[0].captions[0]


def test_a_sweep_covers_the_range_from_one_noise(models):
    swept = drawing.sweep(models, ["3"], 4, 7)
    assert (swept.record["guidance_scale"][0], swept.record["guidance_scale"][-1]) == (1.0, 5.0)
    first = drawing.generate(models, ["3"], 4, 1.0, 7, 1)
    assert same(swept.groups[0].images[:1], first.groups[0].images)


def drawn_again(answer, tmp_path, monkeypatch, capsys):
    """Run the code and the command of an answer, beside the files of its downloads: both draw its pictures."""
    files = write_pictures(tmp_path, answer)
    drawn = [Image.open(name) for name in files if name.rsplit("/", 1)[1] not in answer.inputs]
    monkeypatch.chdir(tmp_path)
    found = {}
    code = python_of(answer.record)
    assert len(code.splitlines()) == 3
    exec(code, found)
    assert same(found["images"], drawn)
    line = command_of(answer.record)
    if answer.record["task"] == "sweep":
        assert line.startswith("for s in 1 ")
        return
    command(capsys, *shlex.split(line)[1:], "--device", "cpu")
    written = [Image.open(path) for path in sorted((tmp_path / "pictures").glob("0*.png"))]
    assert same(written, drawn)


@pytest.mark.parametrize("task", ["sample", "sweep", "edit", "inpaint", "translate"])
def test_the_code_and_the_command_draw_the_same_pictures_again(tmp_path, monkeypatch, capsys, models, task):
    drawn_again(answers(models)[task], tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("task", ["sample", "edit", "inpaint"])
def test_a_model_of_any_steps_leaves_a_choice_of_sampler(tmp_path, monkeypatch, capsys, run, task):
    opened = open_models(str(run / "teacher"))
    assert opened.samplers == ("deterministic", "stochastic")
    choices = {"seed": 7, "sampler": "stochastic"} | SETTINGS
    draw = {
        "sample": lambda **other: drawing.generate(opened, ["3"], count=2, **other),
        "edit": lambda **other: drawing.redraw(opened, picture(), ["8"], 0.75, **other),
        "inpaint": lambda **other: drawing.fill(opened, picture(), "top half", ["8"], **other),
    }[task]
    answer = draw(**choices)
    assert not same(answer.groups[0].images[-1:], draw(**choices | {"sampler": "deterministic"}).groups[0].images[-1:])
    drawn_again(answer, tmp_path, monkeypatch, capsys)
    with pytest.raises(fewstep.InputError, match="sampler is euler"):
        draw(**choices | {"sampler": "euler"})


def test_prompts_are_drawn_and_edited(tmp_path, monkeypatch, capsys, texts):
    opened = open_models(str(texts / "text"))
    assert opened.words == ()
    drawn_again(drawing.generate(opened, ["a cat"], seed=1, count=2, **SETTINGS), tmp_path / "", monkeypatch, capsys)
    answer = drawing.redraw(opened, picture(0, 20).convert("RGB"), ["it's"], 0.5, seed=1, **SETTINGS)
    shutil.rmtree(tmp_path / "pictures")
    drawn_again(answer, tmp_path, monkeypatch, capsys)
    assert "is cut to 8" in drawing.sweep(opened, ["a large grey cat"], 4, 0).notes[0]
    with pytest.raises(fewstep.InputError, match="no prompt"):
        drawing.generate(opened, [" "], seed=1, count=2, **SETTINGS)


def test_the_inpainter_fills_in_place_of_the_model(tmp_path, monkeypatch, capsys, run, texts):
    opened = open_models(str(run), inpainter=str(texts / "nine"))
    assert opened.words and not opened.filling.words
    answer = drawing.fill(opened, picture(0, 20), "left half", ["a cat"], seed=1, **SETTINGS)
    before, _, after = (np.asarray(one) for one in answer.groups[0].images)
    assert (after[:, 10:] == before[:, 10:]).all(), "beyond the mask's edge, which fades over a latent of 2 pixels"
    assert (after[:, :8] != before[:, :8]).any()
    assert "fewstep inpaint " + str(texts / "nine") in command_of(answer.record)
    drawn_again(answer, tmp_path, monkeypatch, capsys)
    assert str(texts / "nine") in facts_of(opened)
    with pytest.raises(fewstep.InputError, match="--inpainter"):
        open_models(str(texts / "nine"))


def test_every_step_is_told_and_can_be_the_last(models):
    teacher, calls = counted(models.teacher.model)
    watched = replace(models, teacher=replace(models.teacher, model=teacher))
    told = []

    def progress(*step):
        told.append(step)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawing.beside(watched, answers(models)["sample"], progress)
    assert told == [(1, 64), (2, 64), (3, 64)]
    assert len(calls) == 3
    told = [[], [], [], []]
    drawing.generate(models, ["3"], seed=0, count=3, progress=lambda *step: told[0].append(step), **SETTINGS)
    drawing.sweep(models, ["3"], 2, 0, progress=lambda *step: told[1].append(step))
    drawing.redraw(models, picture(), ["3"], 0.5, seed=0, progress=lambda *step: told[2].append(step), **SETTINGS)
    drawing.restyle(models, picture(), "3", "8", progress=lambda *step: told[3].append(step), **SETTINGS)
    assert [steps[-1] for steps in told] == [(4, 4), (14, 14), (2, 2), (6, 6)]


def test_downloads_carry_their_settings(tmp_path, models):
    answer = answers(models)["edit"]
    names = [name.rsplit("/", 1)[1] for name in write_pictures(tmp_path, answer)]
    assert names == ["input.png", "00000.png"]
    with Image.open(tmp_path / "00000.png") as image:
        assert image.size == (8, 8)
        assert json.loads(image.text["fewstep"]) == answer.record
        assert image.text["command"] == command_of(answer.record)


@pytest.mark.parametrize(("mode", "size"), [("L", 5), ("RGB", 8), ("RGBA", 7)])
def test_what_is_enlarged_to_be_seen_comes_back_as_it_was(mode, size):
    image = picture(1, size).convert(mode)
    assert enlarged(image).width >= 256
    assert natural(enlarged(image), size).tobytes() == image.tobytes()
    assert natural(picture(2, 16), 8).size == (16, 16)  # not an enlargement: the library resizes it


def test_what_is_not_painted_comes_back_to_the_bit(models):
    layer = Image.new("RGBA", (256, 256))
    layer.paste((255, 0, 0, 255), (0, 0, 70, 256))  # two columns of 32, and a sixth of the third
    image, mask = painted({"background": enlarged(picture()).convert("RGB"), "layers": [layer], "composite": None})
    answer = drawing.fill(models, image, mask, ["8"], seed=0, **SETTINGS)
    before, shown, after = (np.asarray(one) for one in answer.groups[0].images)
    assert (shown[:, :2] == 255).all() and not shown[:, 2:].any()
    assert (before == np.asarray(picture())).all()
    assert (after[:, 2:] == before[:, 2:]).all()
    assert (after[:, :2] != before[:, :2]).any()


def test_a_small_dab_fills_what_it_touches_and_nothing_painted_is_refused():
    dab = Image.new("L", (256, 256))
    dab.paste(255, (100, 40, 103, 43))
    assert mask_of(dab, 8).nonzero().tolist() == [[0, 0, 1, 3]]
    for nothing in (None, Image.new("L", (256, 256))):
        with pytest.raises(fewstep.InputError, match="nothing is painted"):
            mask_of(nothing, 8)
    assert painted(None) == painted({"background": None, "layers": []}) == (None, None)
    halves = [mask_of(name, 8) for name in ("top half", "bottom half")]
    assert (halves[0] ^ halves[1]).all()


def test_a_missing_picture_and_a_missing_encoder_are_sentences(run, models):
    with pytest.raises(fewstep.InputError, match="no picture"):
        drawing.redraw(models, None, ["8"], 0.5, seed=0, **SETTINGS)
    alone = open_models(str(run / "steps-0004"))
    with pytest.raises(fewstep.InputError, match="--encoder"):
        drawing.restyle(alone, picture(), "3", "8", **SETTINGS)
    with pytest.raises(fewstep.InputError, match="--teacher"):
        drawing.beside(alone, answers(models)["sample"])


@pytest.mark.parametrize("asked", [0, 0.1, -0.1, 1.1, float("nan"), None, "1/2"])
def test_a_strength_off_the_range_is_refused(models, asked):
    with pytest.raises(fewstep.InputError, match="it can be 1/4 to 1"):
        drawing.redraw(models, picture(), ["8"], asked, seed=0, **SETTINGS)


def test_a_strength_off_the_grid_is_rounded_and_said(models):
    answer = drawing.redraw(models, picture(), ["8"], 0.6, seed=0, **SETTINGS)
    assert (answer.record["strength"], len(answer.notes)) == (0.5, 1)
    assert "rounded to 2/4" in answer.notes[0]


def test_captions_cannot_write_html():
    page = figures([Group("<b>", [picture()], ['<script>"1" · 2 ms'])])
    assert "<script" not in page
    assert 'alt="&lt;script&gt;&quot;1&quot;"' in page
    assert 'class="sharp"' in page
    assert "sharp" not in figures([Group("large", [picture(0, 200)], ["one"])])


def test_the_divider_moves_by_mouse_and_keys():
    page = divided(picture(), picture(1))
    assert page.count("<img") == 2 and 'type="range"' in page and "aria-label" in page


def test_about_names_models_what_was_measured_and_their_cards(run, models):
    text = facts_of(models)
    assert all(opened.path in text for opened in models.all)
    assert len(models.all) == 4 == text.count("0.0")
    assert "fewstep evaluate" in quality_of(models)
    teacher = open_models("digits")
    assert "| 1 | 0.2966 | 0.996 |" in quality_of(teacher)
    cards = cards_of(models)
    assert sorted(cards) == sorted(str(run / name) for name in ("steps-0002", "steps-0004", "teacher", "encoder-0002"))
    assert all(card.startswith("#### ") and "pipeline_tag" not in card for card in cards.values())
    assert not any("hf download" in card for card in cards.values()), "they are here"


def test_every_error_is_a_sentence():
    assert sentence(fewstep.InputError("steps is 3; give 4")) == "Steps is 3; give 4."
    assert "fewer" in sentence(torch.OutOfMemoryError("CUDA out of memory"))
    assert "KeyError" in sentence(KeyError("x"))


def test_a_port_in_use_is_one_line_or_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(fewstep.InputError, match="is in use"):
            free_port("127.0.0.1", taken.getsockname()[1])
    assert free_port("127.0.0.1", None) >= FIRST_PORT
    with pytest.raises(fewstep.InputError, match="not an address"):
        free_port("203.0.113.7", None)


def test_without_gradio_the_command_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gradio" else find_spec(name))
    assert "pip install 'fewstep[playground]'" in refused(capsys, "playground")


@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed (pip install 'fewstep[playground]')")
def test_wrong_input_is_refused_before_a_page_is_made(tmp_path, capsys):
    assert "is not a folder" in refused(capsys, "playground", tmp_path / "none")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "is in use" in refused(capsys, "playground", "--port", taken.getsockname()[1])


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1), (300, 10)])
def test_no_picture_is_enlarged_beyond_bounds(size):
    from fewstep.playground.pictures import LARGEST, enlarged

    shown = enlarged(Image.new("L", size))
    assert max(shown.size) <= max(LARGEST, *size)
    assert shown.width % size[0] == shown.height % size[1] == 0
