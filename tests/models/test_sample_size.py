"""The size in a network's config: height and width that differ are kept, or refused where the family has no such pictures."""

import json

import pytest
import torch
from PIL import Image

import fewstep
import pipelines
from family_cases import CASES
from fewstep.data.images import read_images, read_masks
from fewstep.errors import InputError
from fewstep.models.pretrained import save_model
from fewstep.training.examples import prepared
from fewstep.training.recipe import load_recipe

SIDES = [8, 12]
BUILDERS = {
    "pixels": lambda folder: pipelines.class_pipeline(folder, latent=False),
    "latents": lambda folder: pipelines.class_pipeline(folder, latent=True),
    "Stable Diffusion": pipelines.text_pipeline,
    "SDXL": lambda folder: CASES["SDXL"].build(folder),
}


def resized(folder, part, size):
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": size}))
    return folder


@pytest.mark.parametrize("name", ["pixels", "latents", "SDXL", pytest.param("Stable Diffusion", marks=pytest.mark.slow)])
def test_height_and_width_that_differ_are_sampled_saved_and_distilled_as_they_are(name, tmp_path):
    torch.set_num_threads(1)
    model = fewstep.open_model(resized(BUILDERS[name](tmp_path / "teacher"), "unet", SIDES))
    text, factor = model.info.condition == "text", 1 if name == "pixels" else 2
    assert model.info.shape == (4, *SIDES)
    assert model.info.picture_shape[1:] == (factor * SIDES[0], factor * SIDES[1])
    save_model(model, tmp_path / "saved")  # which samples from it by stock diffusers, and compares
    drawn = model.sample_tensor(model.labels_or_prompts(["a" if text else 1], 1), steps=2, guidance_scale=2.0)
    assert drawn.samples.shape == (1, 4, *SIDES) and drawn.pictures().shape[2:] == model.info.picture_shape[1:]
    if not text:
        return
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    tiny = {
        "stage_one.updates": 1,
        "stage_two.ladder": [2, 1],
        "stage_two.last_updates": 1,
        "train.batch_size": 2,
        "data.sampling_steps": 2,
    }
    changes = tiny | {"data.prompts": str(tmp_path / "prompts.txt"), "train.log_with": "none"}
    student = fewstep.distill(model, out=tmp_path / "run", changes=changes, device="cpu", quiet=True)
    assert student.info.shape == (4, *SIDES)
    plain = student.bake(2.0).save(tmp_path / "plain")
    assert fewstep.open_model(plain).info.shape == (4, *SIDES)


def test_pictures_of_such_a_model_are_cut_to_its_proportions_and_tensors_are_of_its_shape(tmp_path):
    model = fewstep.open_model(resized(pipelines.text_pipeline(tmp_path / "teacher"), "unet", SIDES))
    x = torch.zeros(1, 3, 16, 24)
    assert model.edit(x, ["a"], strength=0.5, steps=2, guidance_scale=2.0)[0].size == (24, 16)
    masks = torch.ones(1, 1, 16, 24)
    assert model.inpaint(x, masks, ["a"], steps=2, guidance_scale=2.0)[0].size == (24, 16)
    tall = Image.new("RGB", (48, 64))
    tall.paste((255, 255, 255), (0, 16, 48, 48))  # the central part of 3 to 2
    tall.paste((255, 0, 0), (0, 16, 24, 48))  # its left half
    pixels = read_images([tall, tall], model.info).pixels
    assert pixels.shape == (2, 3, 16, 24)
    expected = torch.ones(3, 16, 24)
    expected[1:, :, :12] = -1
    away = (pixels - expected).abs()[..., [*range(8), *range(16, 24)]]  # away from the edge in the middle
    assert float(away.max()) < 0.05
    hole = Image.new("L", (48, 64))
    hole.paste(255, (0, 16, 24, 48))
    found = read_masks(hole, read_images(tall, model.info))
    assert found.shape == (1, 1, 16, 24) and bool(found[..., :12].all()) and not bool(found[..., 12:].any())
    assert model.edit(tall, ["a"], strength=0.5, steps=2, guidance_scale=2.0)[0].size == (24, 16)
    with pytest.raises(InputError, match="this model takes"):
        model.edit(torch.zeros(1, 3, 24, 24), ["a"], strength=0.5, steps=2)


@pytest.mark.parametrize("on_the_fly", [False, True])
@pytest.mark.parametrize("name", ["Stable Diffusion", "latents"])
def test_such_a_model_is_distilled_on_files_of_pictures(name, on_the_fly, tmp_path):
    teacher = resized(BUILDERS[name](tmp_path / "teacher"), "unet", SIDES)
    model = fewstep.open_model(teacher)
    for k, label in enumerate(model.info.classes or ("a", "b")):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("RGB", (50, 30 + k), (80 * k, 0, 0)).save(tmp_path / "data" / label / "0.png")
    changes = {"data.path": str(tmp_path / "data"), "data.on_the_fly": on_the_fly}
    examples = prepared(None, load_recipe(None, changes), model)
    examples = examples.written(tmp_path / "cache", load_recipe(None, changes), "cpu", True) if not on_the_fly else examples
    assert examples.batch(0, 2)[0].shape == (2, *model.info.shape)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Stable Diffusion 3", "transformer"), ("DiT", "transformer"), ("PixArt", "transformer"), ("DeepFloyd IF", "unet"),
        ("DeepFloyd IF, super-resolution", "unet"), ("Kandinsky 2.2 decoder", "unet"), ("SDXL", "unet"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [SIDES, None, [8], 0, "8"])
def test_a_size_that_a_family_cannot_have_is_one_line(tmp_path, name, part, size):
    folder = resized(CASES[name].build(tmp_path / "teacher"), part, size)
    if name == "SDXL" and size == SIDES:
        assert fewstep.open_model(folder).info.shape == (4, *SIDES)
        return
    with pytest.raises(InputError, match=r"config.json: sample_size is .*; ") as error:
        fewstep.open_model(folder)
    assert "\n" not in str(error.value)
