"""Stable Diffusion: the folder of its students in the stock pipelines that begin with a picture, in a process without fewstep."""

import pytest
import torch

import pipelines
from alone import distilled, halfway, samples_alone

GUIDED = {"prompt": ["a cat"], "num_inference_steps": 2, "strength": 0.5}
CASES = [("StableDiffusionImg2ImgPipeline", 0), ("StableDiffusionInpaintPipeline", 0), ("StableDiffusionImg2ImgPipeline", 1)]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """(student of 2 steps, its folder, the folder with the scale 2.5 baked in)."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("pictures")
    return distilled(pipelines.text_pipeline(root / "pipeline"), root)[1:]


def test_image_to_image_and_inpainting_start_where_we_start(student, tmp_path):
    model, *folders = student
    kept, mask = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.ones(1, 1, 16, 16)
    jobs = []
    for pipeline, baked in CASES:
        tensors = {"image": kept}
        if "Inpaint" in pipeline:  # all is painted: every latent counts; the pipeline wants masked latents, and does not use them
            tensors |= {"mask_image": mask, "masked_image_latents": torch.zeros_like(kept)}
        arguments = GUIDED | {"guidance_scale": 1.0 if baked else 2.5}
        jobs.append(({"folder": folders[baked], "pipeline": pipeline, "arguments": arguments, "seed": 7}, tensors))
    ours = halfway(model, kept, model.condition(prompts=["a cat"]), 7, torch.tensor([1.5]))
    other = halfway(model, kept, model.condition(prompts=["a cat"]), 7, torch.tensor([0.5]))
    for stock in samples_alone(tmp_path, jobs):
        assert (ours - stock).abs().max() < 1e-4
        assert (other - stock).abs().max() > 1e-3
