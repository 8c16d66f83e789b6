"""What is peculiar to Stable Diffusion, its inpainting, and class-conditional latents."""

import json

import diffusers
import pytest
import torch

import fewstep
import pipelines
from alone import untrained
from command_line import command, refused
from fewstep.data.encoding import encoded
from fewstep.method.conditioning import each
from fewstep.training.recipe import load_recipe
from tiny import CHANGES, InMemory

PROMPTS = ["a cat", "dog"]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    root, nine = tmp_path_factory.mktemp("families"), pipelines.unet(in_channels=9)
    folders = {
        "latents": pipelines.class_pipeline(root / "latents", latent=True),
        "text-eps": pipelines.text_pipeline(root / "text"),
        "inpainting": pipelines.text_pipeline(root / "nine", network=nine, pipeline="StableDiffusionInpaintPipeline"),
    }
    return {name: fewstep.open_model(folder) for name, folder in folders.items()}


def test_what_is_known_of_a_teacher(teachers, tmp_path):
    for name, teacher in teachers.items():
        info = teacher.info
        assert (info.size, info.channels, info.image_size, info.prediction) == (8, 4, 16, "eps")
        assert (info.condition, info.classes) == (("class", ("0", "1", "2")) if name == "latents" else ("text", ()))
    assert fewstep.open_model(pipelines.text_pipeline(tmp_path / "v", "v_prediction")).info.prediction == "v"


def test_latents_become_pictures_and_pictures_latents(teachers):
    family = teachers["text-eps"].family
    z = family.to_latents(torch.rand(2, 3, 16, 16) * 2 - 1)
    vae = family.parts("vae").vae
    assert z.shape == (2, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(family.to_images(z), vae.decode(z / vae.config.scaling_factor).sample)
    family.free()
    assert family.to_latents(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 8, 8)  # loaded again


def test_the_null_condition_is_the_empty_prompt_and_leaves_the_mask(teachers):
    teacher = teachers["inpainting"]
    condition = teacher.example(3)
    null = teacher.denoiser.null_condition(condition)
    with torch.no_grad():
        empty = teacher.family.parts("text_encoder", "tokenizer").encode_prompt("", "cpu", 1, False)[0]
    torch.testing.assert_close(null["text"], empty.expand(3, -1, -1))
    assert torch.equal(null["mask"], condition["mask"]) and torch.equal(null["masked"], condition["masked"])
    assert each(len, null) == {"text": 3, "mask": 3, "masked": 3}


def test_inpainting_takes_pictures(teachers):
    from PIL import Image

    teacher = teachers["inpainting"]
    image, mask = Image.new("RGB", (20, 20), "red"), Image.new("L", (20, 20), 255)
    condition = teacher.condition(prompts=PROMPTS, image=image, mask=mask)
    assert {name: tuple(v.shape) for name, v in condition.items()} == {
        "text": (2, 8, 12),
        "mask": (2, 1, 8, 8),
        "masked": (2, 4, 8, 8),
    }
    assert condition["mask"].eq(1).all()
    assert len(teacher.sample(prompts=PROMPTS, image=image, mask=mask, steps=2, guidance_scale=2.0)) == 2


def test_a_student_without_terminal_signal(teachers, tmp_path):
    teacher = teachers["text-eps"]
    changes = CHANGES | {"student.rescale_zero_terminal_snr": True, "stage_two.ladder": [4]}
    student = fewstep.distill(teacher, InMemory(teacher), out=tmp_path / "run", changes=changes, device="cpu", quiet=True)
    scheduler = json.loads((tmp_path / "run" / "stage-one" / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["trained_betas"][-1] == 1  # and the save has agreed with stock diffusers
    own, process = teacher.denoiser.process, student.denoiser.process
    t = torch.tensor([0.1, 0.4, 0.7]).double()
    (alpha, sigma), same = process.at(t, t), own.time_of(*process.at(t, t))
    for ours, theirs in zip((alpha, sigma), own.at(same, same), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert own.time_of(*process.at(torch.ones(1), torch.ones(1))) == 1
    with pytest.raises(fewstep.InputError, match=r"student\.prediction = 'v' or 'x'"):
        fewstep.distill(
            teacher, InMemory(teacher), out=tmp_path / "eps", changes=changes | {"student.prediction": "same"}, quiet=True
        )


def test_the_command_samples_prompts(teachers, tmp_path, capsys):
    folder = untrained(teachers["text-eps"].family.folder)[1].save(tmp_path / "student")
    words = ["sample", folder, "--prompt", "a cat", "--prompt", "dog", "--guidance-scale", "2", "--device", "cpu"]
    command(capsys, *words, "--out", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert (record["prompts"], record["evaluations"], record["steps"]) == (["a cat", "dog"], 2, 2)
    assert (tmp_path / "out" / "00001.png").is_file()
    assert "negative prompt" in refused(capsys, *words, "--negative-prompt", "b", "--out", tmp_path / "other")


@pytest.mark.parametrize("name", ["latents", "text-eps"])
def test_pictures_with_classes_become_latents_and_prompts(teachers, tmp_path, name):
    teacher = teachers[name]
    pixels = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = fewstep.Data(pixels, torch.arange(9) % 3, ("cat", "dog", "owl"))
    examples = encoded(data, teacher)
    (x, labels), (z, condition) = data.batch(2, 4), examples.batch(2, 4)
    torch.testing.assert_close(z, teacher.family.to_latents(x))
    if name == "latents":
        assert torch.equal(condition, labels)
    else:
        said = teacher.condition(prompts=[data.classes[i] for i in labels])
        torch.testing.assert_close(condition, said)
    student = fewstep.distill(
        teacher, data, out=tmp_path / "run", changes=CHANGES | {"stage_two.ladder": [4]}, device="cpu", quiet=True
    )
    assert student.info.image_size == 16
    if name == "text-eps":
        with pytest.raises(fewstep.InputError, match="not enough"):
            encoded(data, teachers["inpainting"])


def test_a_foreign_teacher_is_shown_and_its_distillation_planned(teachers):
    from fewstep.training.cost_estimate import plan
    from fewstep.training.describe import describe

    teacher = teachers["inpainting"]
    facts = describe(str(teacher.family.folder))
    assert (facts["kind"], facts["family"], facts["condition"]) == ("teacher", "stable_diffusion_inpainting", "text")
    planned = plan(load_recipe(None, CHANGES), teacher, probe=False)
    assert planned["parameters"] == facts["parameters"] + 8 * 256


def test_a_teacher_stored_in_half_precision_has_students_that_stock_pipelines_run(tmp_path):
    pipelines.text_pipeline(tmp_path / "whole")
    half = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "whole", dtype=torch.float16)
    half.save_pretrained(tmp_path / "half")
    untrained(tmp_path / "half")[1].save(tmp_path / "student")
    assert fewstep.open_model(tmp_path / "student").info.stock["agrees"]
    for dtype in (
        torch.float16,
        torch.float32,
    ):  # as of the teacher's folder, one is named: transformers opens each part as it is stored
        stock = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "student", dtype=dtype)
        assert {stock.unet.dtype, stock.text_encoder.dtype, stock.vae.dtype} == {dtype}
