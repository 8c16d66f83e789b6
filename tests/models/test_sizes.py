"""Pictures of another height and width: what the stock pipeline of the folder draws at that size, and what is refused."""

import math

import pytest
import torch

import pipelines
import transformer_pipelines
import unet_pipelines
from alone import untrained
from command_line import command, refused
from conftest import TINY
from family_cases import CASES
from fewstep import InputError, open_model
from fewstep.models.sizes import at_size
from fewstep.models.verify import difference_of
from fewstep.training.distill import next_student, student_of
from fewstep.training.recipe import load_recipe
from tiny import awake, tiny_student


@pytest.mark.parametrize("make", [pipelines.text_pipeline, unet_pipelines.xl_pipeline])
def test_a_student_draws_at_another_size_what_its_stock_pipeline_draws(tmp_path, make):
    student = next_student(awake(student_of(load_recipe(None, TINY), open_model(make(tmp_path / "teacher")))), 2)
    folder = student.save(tmp_path / "student")
    opened = at_size(open_model(folder), 24, 32)
    assert (opened.info.shape[1:], opened.info.picture_shape[1:]) == ((12, 16), (24, 32))
    assert difference_of(opened, folder) < 1e-5
    (image,) = opened.sample(prompts=["a cat"], steps=2, guidance_scale=2.0)
    assert (image.width, image.height) == (32, 24)


ANY_SIZE = {name: case.build for name, case in CASES.items() if name.startswith("Stable Diffusion 3")}
ANY_SIZE |= {name: CASES[name].build for name in (
    "PixArt", "Flux", "Qwen-Image", "Chroma", "Z-Image", "Sana", "Lumina 2", "AuraFlow", "LongCat-Image", "FLUX.2 klein", "Krea 2", "HunyuanDiT",
)}  # fmt: skip
ANY_SIZE["PixArt of 1024 pixels"] = lambda folder: transformer_pipelines.pixart_pipeline(folder, "Alpha", size=128, patch=32)
OWN_SIZE = ("Stable Diffusion inpainting", "DeepFloyd IF", "Kandinsky 2.2 decoder", "DiT", "Wan", "CogVideoX")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in CASES and CASES[name].slow)) for name in ANY_SIZE]
)
def test_a_transformer_draws_at_another_size_what_its_stock_pipeline_draws(tmp_path, name):
    folder = awake(untrained(ANY_SIZE[name](tmp_path / "teacher"))[1]).save(tmp_path / "student")
    own = open_model(folder)
    _, height, width = own.info.picture_shape
    step = math.lcm(8, own.family.any_size().step * height // own.info.shape[-2])  # stock pipelines take multiples of 8 alone
    opened = at_size(own, height + step, width - step if width > step else width + 2 * step)
    assert opened.info.picture_shape[1] != opened.info.picture_shape[2]
    assert difference_of(opened, folder) < 1e-5


@pytest.mark.parametrize("name", OWN_SIZE)
def test_a_network_that_knows_its_own_size_alone_says_so(tmp_path, name):
    model = open_model(CASES[name].build(tmp_path / "teacher"))
    with pytest.raises(InputError, match="alone"):
        at_size(model, 64, 32)


@pytest.mark.parametrize("name", ["Stable Diffusion 3", "AuraFlow", "Lumina 2", "Z-Image"])
def test_places_end_where_the_network_does(tmp_path, name):
    model = open_model(CASES[name].build(tmp_path / "teacher"))
    largest = model.family.any_size().largest * model.info.picture_shape[1] // model.info.shape[-1]
    assert at_size(model, largest, 16).info.picture_shape[1:] == (largest, 16)
    with pytest.raises(InputError, match=f"height.*{largest + 16}.*{largest}"):
        at_size(model, largest + 16, 16)


def test_sdxl_is_told_the_size_that_is_drawn(tmp_path):
    teacher = open_model(unet_pipelines.xl_pipeline(tmp_path / "teacher"))
    assert teacher.condition(prompts=["a"])["sizes"].tolist() == [[16, 16, 0, 0, 16, 16]]
    assert at_size(teacher, 24).condition(prompts=["a"])["sizes"].tolist() == [[24, 16, 0, 0, 24, 16]]


def test_a_network_of_pixels_draws_any_size_and_its_own_without_one():
    model = tiny_student(2)
    assert at_size(model) is model and at_size(model, 8, 8) is model
    samples = at_size(model, 6, 10).sample_tensor(torch.tensor([3, 1]), steps=2, guidance_scale=2.0)
    assert samples.samples.shape == (2, 1, 6, 10)


def test_a_size_that_cannot_be_is_refused(tmp_path):
    model = open_model(pipelines.text_pipeline(tmp_path / "teacher"))
    for sides, parts in (
        ((25, None), ("height 25", "multiple of 2", "24")),
        ((None, 0), ("width", "0")),
        ((20000, 16), ("height", "20000")),
    ):
        with pytest.raises(InputError) as caught:
            at_size(model, *sides)
        assert all(part in str(caught.value) for part in parts)


def test_the_command_draws_at_a_size(tmp_path, capsys, teacher_folder):
    out = ["--out", tmp_path / "out", "--steps", "1", "--class-label", "3"]
    command(capsys, "sample", teacher_folder, *out, "--height", "6", "--width", "10")
    from PIL import Image

    with Image.open(tmp_path / "out" / "00000.png") as image:
        assert image.size == (10, 6)
    message = refused(capsys, "sample", teacher_folder, "--out", tmp_path / "other", "--height", "20000")
    assert "height" in message and not (tmp_path / "other").exists()
