"""What the playground draws, without its page: models, bounds, the code that draws an answer again, and wrong input in one line."""

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

import fewstep
import pipelines
from command_line import command, refused
from fewstep.playground import tasks
from fewstep.playground.about import cards_of, facts_of, quality_of
from fewstep.playground.html import divided, figures, shown
from fewstep.playground.models import COUNT, LONGEST, Models, Opened, check_together, checked, open_models, scales_by_step
from fewstep.playground.pictures import enlarged
from fewstep.playground.record import command_of, python_of, sentence, write_pictures
from tiny import counted, tiny_student, tiny_teacher

SETTINGS = {"steps": 4, "guidance_scale": 2.5}
SEEDED = {"seed": 7} | SETTINGS


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


def drawn_again(answer, tmp_path, monkeypatch, capsys):
    """Run the code and the command of an answer's downloads, beside their files: both draw its pictures."""
    files = write_pictures(tmp_path, answer)
    assert [name.rsplit("/", 1)[1] for name in files][: len(answer.inputs) + 1] == [*answer.inputs, "00000.png"]
    drawn = [Image.open(name) for name in files[len(answer.inputs) :]]
    monkeypatch.chdir(tmp_path)
    found, code, line = {}, python_of(answer.record), command_of(answer.record)
    assert len(code.splitlines()) == 3
    assert drawn[0].text == {"fewstep": json.dumps(answer.record), "python": code, "command": line}
    exec(code, found)
    assert same(found["images"], drawn)
    if answer.record["task"] in ("sweep", "strip"):
        assert line.startswith("for s in 1 " if answer.record["task"] == "sweep" else "for s in 7 8 ")
        return
    shutil.rmtree(tmp_path / "pictures", ignore_errors=True)
    command(capsys, *shlex.split(line)[1:], "--device", "cpu")
    assert same([Image.open(path) for path in sorted((tmp_path / "pictures").glob("0*.png"))], drawn)


def test_a_run_gives_every_student_its_teacher_and_its_encoder(run, models):
    assert (list(models.by_steps), models.scales) == ([2, 4], (1.0, 5.0))
    assert (models.teacher.path, models.encoder.path) == (str(run / "teacher"), str(run / "encoder-0002"))


def test_a_model_folder_gives_its_own_steps_and_needs_a_teacher_named(run):
    alone = open_models(str(run / "steps-0002"))
    assert (list(alone.by_steps), alone.samplers) == ([2], ("deterministic",))
    assert alone.teacher is None and alone.encoder is None
    named = open_models(str(run / "steps-0002"), teacher=str(run / "teacher"))
    assert named.teacher.path == named.encoder.path == str(run / "teacher")
    teacher = open_models(str(run / "teacher"))  # which takes any steps, and encodes for itself
    assert (teacher.teacher, teacher.encoder.path) == (None, str(run / "teacher")) and len(teacher.by_steps) > 1


@pytest.mark.parametrize("name", [None, "digits-student"])
def test_without_a_model_the_page_opens_the_bundled_students_as_a_run(tmp_path, monkeypatch, capsys, name):
    opened = open_models(name)
    assert (opened.name, list(opened.by_steps), opened.classes) == ("digits-student", [1, 2, 4], tuple("0123456789"))
    assert (opened.teacher.path, opened.encoder.path) == ("digits", "digits")
    drawn_again(tasks.generate(opened, ["3"], count=2, **SEEDED), tmp_path, monkeypatch, capsys)


def test_bundled_students_are_opened_by_name_where_no_folder_of_that_name_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [fewstep.open_model("digits-student", steps=n).info.steps for n in (1, 4)] == [1, 4]
    assert fewstep.open_model("digits").info.kind == "teacher"
    tiny_teacher().save(tmp_path / "digits-student")
    assert fewstep.open_model("digits-student").info.kind == "teacher"


def test_models_that_do_not_belong_together_are_refused(run, models, texts):
    teacher = models.teacher.model
    with pytest.raises(fewstep.InputError, match="is an encoder"):
        open_models(str(run / "encoder-0002"))
    with pytest.raises(fewstep.InputError, match="--inpainter"):
        open_models(str(texts / "nine"))
    for facts in ({"size": 16}, {"condition": "text"}):
        other = Opened("other", replace(teacher, info=teacher.info.model_copy(update=facts)))
        with pytest.raises(fewstep.InputError, match="teacher other works on"):
            check_together(Models("mine", models.by_steps, other))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("steps", value) for value in (3, 0, None, "4", float("nan"), [4], 10**400)),
        *(("guidance_scale", value) for value in (5.1, float("nan"), None, "2", -1e308)),
        *(("seed", value) for value in (-1, -1.5, 0.5, None, 2**31, 1e308, float("inf"), float("nan"), True, "7")),
        *(("count", value) for value in (0, COUNT + 1, None, 1.5, -1e308)),
        ("sampler", "euler"),
        *(("labels", value) for value in (["x" * (LONGEST + 1)], ["cat"], [7])),
    ],
)
def test_a_choice_of_another_type_or_outside_its_bounds_is_a_short_sentence_at_once(models, name, value):
    choices = {"labels": ["3"], "count": 1} | SEEDED | {name: value}
    with pytest.raises(fewstep.InputError) as error:
        tasks.generate(models, **choices)
    assert "\n" not in sentence(error.value) and len(sentence(error.value)) < 400


def test_labels_are_taken_in_turn_and_none_is_all(models):
    assert checked(models, ["3", " "], 4, 1.0, 0, count=2)[0] == ["3", "3"]
    assert checked(models, [], 4, 1.0, 0, count=12)[0] == [*"0123456789", "0", "1"]


def test_the_teacher_draws_from_the_same_noise(models):
    both = tasks.with_teacher(models, tasks.generate(models, ["3"], count=2, **SEEDED))
    own = models.teacher.model.sample(["3", "3"], steps=64, guidance_scale=2.5, seed=7)
    assert same(both.groups[1].images, own)
    assert "4 evaluations" in both.groups[0].captions[0] and "128 evaluations" in both.groups[1].captions[0]


def test_a_sweep_covers_the_range_from_one_noise(models):
    swept = tasks.sweep(models, ["3"], 4, 7)
    assert (swept.record["guidance_scale"][0], swept.record["guidance_scale"][-1]) == (1.0, 5.0)
    assert same(swept.groups[0].images[:1], tasks.generate(models, ["3"], 4, 1.0, 7, 1).groups[0].images)


def test_the_teacher_takes_the_scale_of_the_students_step_that_its_own_lies_in(models):
    both = tasks.with_teacher(models, tasks.generate(models, ["3"], 4, [1.0, 5.0, 1.0, 2.0], 7, 1))
    scales = [1.0] * 16 + [5.0] * 16 + [1.0] * 16 + [2.0] * 16
    assert same(both.groups[1].images, models.teacher.model.sample(["3"], steps=64, guidance_scale=scales, seed=7))


def test_a_strip_shows_a_class_from_several_seeds_and_the_teachers_under_each(models):
    both = tasks.with_teacher(models, tasks.strip(models, ["3", "8"], 4, 2.0, 2**31 - 2))
    seeds = [2**31 - 2, 2**31 - 1, 0, 1, 2, 3, 4, 5]
    assert [caption.split(" · ")[0] for caption in both.groups[1].captions] == [f"seed {seed}" for seed in seeds]
    for group, model, steps in zip(both.groups, (models.by_steps[4].model, models.teacher.model), (4, 64), strict=True):
        assert same(group.images[1:3], [model.sample(["3"], steps=steps, guidance_scale=2.0, seed=seed)[0] for seed in seeds[1:3]])


def test_a_preview_is_the_first_picture_in_the_fewest_steps(models):
    [image] = tasks.preview(models, ["3", "8"], 2.5, 7).groups[0].images
    assert same([image], models.by_steps[2].model.sample(["3"], guidance_scale=2.5, seed=7))


@pytest.mark.parametrize(("text", "scales"), [("1/2.5/ 3", [1, 2.5, 3]), ("", None), (" ", None), (None, None)])
def test_scales_for_each_step_are_read(text, scales):
    assert scales_by_step(text) == scales


def test_what_is_shown_of_an_answer_is_smooth_or_divided_on_request(models):
    answer = tasks.with_teacher(models, tasks.generate(models, ["3"], count=2, **SEEDED))
    assert shown(answer).count("<section") == 2 and "range" not in shown(answer)
    divided_pairs = shown(answer, divider=True)
    assert divided_pairs.count('aria-label="Divider between student and teacher"') == 2 and divided_pairs.count("<figure") == 2
    assert "sharp" in divided_pairs and "sharp" not in shown(answer, smooth=True, divider=True)
    assert shown(ALL["edit"](models)).count("Divider between before and after") == 1


ALL = {
    "sample": lambda models, **more: tasks.generate(models, ["3", "8"], count=5, **SEEDED | more),
    "by step": lambda models, **more: tasks.generate(models, ["3"], 4, [1.0, 2.25, 5.0, 2.0], 7, 2, **more),
    "sweep": lambda models, **more: tasks.sweep(models, ["3"], 4, 7, **more),
    "strip": lambda models, **more: tasks.strip(models, ["3", "8"], **SEEDED | more),
    "edit": lambda models, **more: tasks.edit(models, enlarged(picture()), "8", 0.5, **SEEDED | more),
    "inpaint": lambda models, **more: tasks.inpaint(models, picture(), "left half", "8", **SEEDED | more),
    "translate": lambda models, **more: tasks.translate(models, picture(), "3", "8", **SETTINGS | more),
}


@pytest.mark.parametrize("task", ALL)
def test_the_code_and_the_command_draw_the_same_pictures_again(tmp_path, monkeypatch, capsys, models, task):
    drawn_again(ALL[task](models), tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("task", ["sample", "edit", "inpaint"])
def test_a_model_of_any_steps_leaves_a_choice_of_sampler(tmp_path, monkeypatch, capsys, run, task):
    opened = open_models(str(run / "teacher"))
    answer, usual = (ALL[task](opened, sampler=sampler) for sampler in ("stochastic", "deterministic"))
    assert not same(answer.groups[0].images[-1:], usual.groups[0].images[-1:])
    drawn_again(answer, tmp_path, monkeypatch, capsys)


def test_prompts_are_drawn_and_edited(tmp_path, monkeypatch, capsys, texts):
    opened = open_models(str(texts / "text"))
    assert opened.classes == ()
    drawn_again(tasks.generate(opened, ["a cat"], count=2, **SEEDED), tmp_path, monkeypatch, capsys)
    drawn_again(tasks.edit(opened, picture(0, 20).convert("RGB"), "it's", 0.5, **SEEDED), tmp_path, monkeypatch, capsys)
    assert "is cut to 8" in tasks.sweep(opened, ["a large grey cat"], 4, 0).notes[0]
    with pytest.raises(fewstep.InputError, match="no prompt"):
        tasks.generate(opened, [" "], count=2, **SEEDED)


def test_the_inpainter_fills_in_place_of_the_model(tmp_path, monkeypatch, capsys, run, texts):
    opened = open_models(str(run), inpainter=str(texts / "nine"))
    assert opened.classes and not opened.for_inpainting.classes and "`nine`" in facts_of(opened)
    answer = tasks.inpaint(opened, picture(0, 20), "left half", "a cat", **SEEDED)
    before, _, after = (np.asarray(one) for one in answer.groups[0].images)
    assert (after[:, 10:] == before[:, 10:]).all(), "beyond the mask's edge, which fades over a latent of 2 pixels"
    assert (after[:, :8] != before[:, :8]).any()
    drawn_again(answer, tmp_path, monkeypatch, capsys)


def test_progress_counts_every_step_and_can_end_the_work(models):
    steps = {task: [] for task in ALL}
    for task, draw in ALL.items():
        draw(models, progress=lambda *step, task=task: steps[task].append(step))
    assert {task: taken[-1] for task, taken in steps.items()} == {
        "sample": (4, 4), "by step": (4, 4), "sweep": (28, 28), "strip": (32, 32), "edit": (2, 2), "inpaint": (4, 4), "translate": (6, 6),
    }  # fmt: skip
    teacher, calls = counted(models.teacher.model)

    def stop(taken, steps):
        if (taken, steps) == (3, 64):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tasks.with_teacher(replace(models, teacher=replace(models.teacher, model=teacher)), ALL["sample"](models), stop)
    assert len(calls) == 3


def test_a_missing_picture_and_a_missing_encoder_are_sentences(run, models):
    alone = open_models(str(run / "steps-0004"))
    with pytest.raises(fewstep.InputError, match="no picture"):
        tasks.edit(models, None, "8", 0.5, **SEEDED)
    with pytest.raises(fewstep.InputError, match="--encoder"):
        ALL["translate"](alone)
    with pytest.raises(fewstep.InputError, match="--teacher"):
        tasks.with_teacher(alone, ALL["sample"](models))


def test_captions_cannot_write_html():
    page = figures([tasks.Group("<b>", [picture()], ['<script>"1" · 2 ms'])])
    assert "<script" not in page and 'alt="&lt;script&gt;&quot;1&quot;"' in page
    assert 'class="sharp"' in page and "sharp" not in figures([tasks.Group("large", [picture(0, 200)], ["one"])])
    assert divided(picture(), picture(1)).count("<img") == 2


def test_about_names_models_what_was_measured_and_their_cards(run, models):
    text, cards = facts_of(models), cards_of(models)
    assert all(f"`{name}`" in text for name in ("mine", "mine/teacher", "mine/encoder-0002"))
    assert str(run) not in text + quality_of(models) + "".join(cards.values()), "names alone"
    assert "fewstep evaluate" in quality_of(models) and "| 1 | 0.2966 | 0.996 |" in quality_of(open_models("digits"))
    assert sorted(cards) == sorted(f"mine/{name}" for name in ("steps-0002", "steps-0004", "teacher", "encoder-0002"))
    assert all(card.startswith("#### ") and "pipeline_tag" not in card for card in cards.values())


def test_every_error_is_a_short_sentence():
    assert sentence(fewstep.InputError("steps is 3; give 4")) == "Steps is 3; give 4."
    assert len(sentence(fewstep.InputError("x" * 400_000))) < 400
    assert "fewer" in sentence(torch.OutOfMemoryError("CUDA out of memory"))
    assert "KeyError" in sentence(KeyError("x"))


def test_wrong_input_is_refused_before_a_page_is_made(tmp_path, monkeypatch, capsys):
    pytest.importorskip("gradio", reason="gradio is not installed (pip install 'fewstep[playground]')")
    assert "is not a folder" in refused(capsys, "playground", tmp_path / "none")
    assert "--host" in refused(capsys, "playground", "--host", "203.0.113.7")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "--port" in refused(capsys, "playground", "--port", taken.getsockname()[1])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gradio" else find_spec(name))
    assert "pip install 'fewstep[playground]'" in refused(capsys, "playground")
