"""What is peculiar to DeepFloyd IF: its small pictures, and the pipelines that begin with one."""

import pytest
import torch
from PIL import Image

import fewstep
import unet_pipelines
from alone import halfway, samples_alone, untrained

SMALL = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(4)) * 2 - 1
ARGUMENTS = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "pt"}
NAMES = ["base", "larger"]


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("deepfloyd")
    folders = {name: unet_pipelines.if_pipeline(root / f"{name}-pipeline", larger=name == "larger") for name in NAMES}
    return {name: untrained(folder) for name, folder in folders.items()}


@pytest.mark.slow
def test_the_same_folder_runs_in_the_pipelines_that_begin_with_a_picture(students, tmp_path):
    folder = students["base"][1].bake(2.5).save(tmp_path / "baked")
    baked, kept = fewstep.open_model(folder), torch.rand(1, 3, 8, 8) * 2 - 1
    arguments, painted = ARGUMENTS | {"prompt": ["a cat"], "strength": 0.5}, {"mask_image": torch.ones(1, 1, 8, 8)}  # all of it
    jobs = [
        ({"folder": folder, "pipeline": kind, "arguments": arguments, "seed": 7}, {"image": kept} | more)
        for kind, more in (("IFImg2ImgPipeline", {}), ("IFInpaintingPipeline", painted))
    ]
    ours = halfway(baked, kept, baked.condition(prompts="a cat"), 7)
    for stock in samples_alone(tmp_path, jobs):
        assert (ours - stock).abs().max() < 1e-4


def test_the_teacher_s_guided_sample_is_the_stock_pipeline_s(students):
    import diffusers

    teacher = students["base"][0]
    stock = diffusers.IFPipeline.from_pretrained(teacher.family.folder, use_safetensors=True)
    stock.scheduler = teacher.family.scheduler(teacher.denoiser.process, teacher.denoiser.predicts)
    stock.set_progress_bar_config(disable=True)
    arguments = ARGUMENTS | {"guidance_scale": 3.0, "num_inference_steps": 4, "generator": torch.Generator().manual_seed(7)}
    theirs = stock("a cat", negative_prompt="dog", **arguments).images
    condition, noise = teacher.condition(prompts="a cat"), torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    ours = teacher.with_negative_prompt("dog").sample_tensor(condition, steps=4, guidance_scale=3.0, noise=noise).samples
    torch.testing.assert_close(ours, theirs, atol=1e-3 * float(theirs.abs().max()), rtol=0)


def test_prompts_and_small_pictures(students):
    student = students["larger"][1]
    picture = Image.new("RGB", (5, 4), "red")
    condition = student.condition(prompts=["a", "b"], image=picture, noise_level=0)
    assert {name: tuple(v.shape) for name, v in condition.items()} == {"text": (2, 77, 12), "low": (2, 3, 8, 8), "level": (2,)}
    assert len(student.sample(prompts=["a", "b"], image=[picture, picture], guidance_scale=2.0)) == 2
    null = student.denoiser.null_condition(condition)
    assert torch.equal(null["low"], condition["low"]) and not torch.equal(null["text"], condition["text"])
    for extra, message in (
        ({}, "needs image="),
        ({"image": picture, "noise_level": 1000}, "noise_level is 1000.*0 to 999"),
        ({"image": [picture] * 3}, "3 images for 2 prompts"),
        ({"image": picture, "mask": picture}, "takes no mask"),
    ):
        with pytest.raises(fewstep.InputError, match=message):
            student.condition(prompts=["a", "b"], **extra)
    with pytest.warns(UserWarning, match="81 tokens is cut to 77; not read: 'a a a a'"):
        students["base"][1].condition(prompts=[" ".join("a" * 80)])


def test_pictures_with_classes_teach_the_base(students, tmp_path):
    from fewstep.data.encoding import encoded

    teacher = students["base"][0]
    pixels = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = fewstep.Data(pixels, torch.arange(9) % 3, ("cat", "dog", "owl"))
    (x, labels), (z, condition) = data.batch(2, 4), encoded(data, teacher).batch(2, 4)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(condition, teacher.condition(prompts=[data.classes[i] for i in labels]))
    with pytest.raises(fewstep.InputError, match="not enough"):
        encoded(data, students["larger"][0])
