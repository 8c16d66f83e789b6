"""What is peculiar to Stable Diffusion XL: pooled text, sizes, and what it is guided away from."""

import json

import pytest
import torch

import fewstep
import unet_pipelines
from alone import untrained


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """(teacher, student of 2 steps)."""
    return untrained(unet_pipelines.xl_pipeline(tmp_path_factory.mktemp("sdxl") / "teacher"))


def test_every_part_of_the_condition_counts(students):
    student = students[1]
    condition = student.example(2)
    plain = student.sample_tensor(condition).samples
    for name in ("text", "pooled", "sizes"):
        assert not torch.allclose(student.sample_tensor(condition | {name: condition[name] + 1}).samples, plain), name


def test_what_the_saved_scheduler_says(students, tmp_path):
    said = json.loads((students[1].save(tmp_path / "student") / "scheduler" / "scheduler_config.json").read_text())
    wanted = {
        "_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "timestep_spacing": "trailing", "set_alpha_to_one": True,
        "clip_sample": False, "steps_offset": 1, "thresholding": False, "rescale_betas_zero_snr": False, "num_train_timesteps": 1000,
    }  # fmt: skip
    assert {name: said[name] for name in wanted} == wanted


def test_sizes_and_prompts(students):
    student = students[1]
    condition = student.condition(prompts=["a", "b"], crops_coords_top_left=(3, 4), target_size=(8, 9))
    assert condition["sizes"].tolist() == [[16, 16, 3, 4, 8, 9]] * 2
    assert {name: tuple(v.shape) for name, v in condition.items()} == {"text": (2, 8, 20), "pooled": (2, 10), "sizes": (2, 6)}
    with pytest.warns(UserWarning, match=r"cut to 8; not read: 'g h i'"):
        student.condition(prompts=["a b c d e f g h i"])
    assert len(student.sample(prompts=["a", "b"], num_images=3, guidance_scale=2.0)) == 3


@pytest.mark.parametrize("zeros", [True, False])
def test_the_null_condition_is_what_the_stock_pipeline_guides_away_from(tmp_path, zeros):
    import diffusers

    folder = unet_pipelines.xl_pipeline(tmp_path / "teacher", force_zeros_for_empty_prompt=zeros)
    teacher = fewstep.open_model(folder)
    null = teacher.denoiser.null_condition(teacher.example(2))
    assert null["text"].eq(0).all() == null["pooled"].eq(0).all() == zeros
    assert torch.equal(null["sizes"], teacher.example(2)["sizes"])
    stock = diffusers.StableDiffusionXLPipeline.from_pretrained(folder)
    stock.scheduler = diffusers.DDIMScheduler.from_config(
        stock.scheduler.config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    stock.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8)
    theirs = stock("a cat", latents=noise, num_inference_steps=4, guidance_scale=3.0, output_type="latent").images
    ours = teacher.sample_tensor(teacher.condition(prompts="a cat"), steps=4, guidance_scale=3.0, noise=noise).samples
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
