"""The grid of Stable Diffusion 3's students: the stock pipeline visits the sigmas that the student was trained at, and no other."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

import fewstep
import transformer_pipelines as tiny
from fewstep.method.process import RectifiedFlow, time_grid
from fewstep.models.families.flow_grid import same_grid, scheduler_for


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 6.0, 12.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 8, 16, 64])
def test_a_stock_scheduler_visits_our_sigmas_by_the_number_of_steps_alone(shift, steps):
    scheduler = scheduler_for(RectifiedFlow(shift), steps)
    again = FlowMatchEulerDiscreteScheduler.from_config(json.loads(json.dumps(dict(scheduler.config))))
    again.set_timesteps(steps)
    t = time_grid(steps)
    wanted = shift * t / (1 + (shift - 1) * t)
    torch.testing.assert_close(again.sigmas.double(), wanted, atol=2e-6, rtol=0)
    torch.testing.assert_close(again.timesteps, again.sigmas[:-1] * 1000)


def test_the_teachers_own_scheduler_wastes_its_last_step():
    own, mended = FlowMatchEulerDiscreteScheduler(shift=3.0), scheduler_for(RectifiedFlow(3.0), 4)
    for scheduler, sigmas in ((own, [1, 0.8577, 0.6022, 0.0089]), (mended, [1, 0.9, 0.75, 0.5])):
        scheduler.set_timesteps(4)
        torch.testing.assert_close(scheduler.sigmas[:-1], torch.tensor(sigmas), atol=1e-4, rtol=0)
    assert not same_grid(mended, RectifiedFlow(3.0), 8)


def test_where_no_stock_scheduler_has_the_grid():
    assert scheduler_for(RectifiedFlow(3.0), 1000) is not None
    assert scheduler_for(RectifiedFlow(30.0), 1000) is None


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.set_num_threads(1)
    return fewstep.open_model(tiny.sd3_pipeline(tmp_path_factory.mktemp("sd3") / "pipeline"))


@pytest.mark.parametrize("steps", [1, 3, 4, 8])
def test_the_folder_of_a_student_runs_in_the_stock_pipeline_with_its_steps_alone(teacher, tmp_path, steps):
    baked = {"kind": "student", "baked": True, "steps": steps, "guidance_scale": (2.0, 2.0)}
    student = replace(teacher, info=teacher.info.model_copy(update=baked))
    pipeline = StableDiffusion3Pipeline.from_pretrained(student.save(tmp_path / "student"))
    condition, noise = student.condition(prompts=["a cat"]), torch.randn(1, 4, 8, 8)
    seen = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _, given, named: seen.append(float(named["timestep"][0])), with_kwargs=True
    )
    stock = pipeline("a cat", num_inference_steps=steps, guidance_scale=1.0, latents=noise, output_type="latent").images
    ours = student.sample_tensor(condition, noise=noise).samples
    assert (ours - stock).abs().max() < 1e-4
    wanted = [3 * t / (1 + 2 * t) for t in time_grid(steps)[:-1].tolist()]
    assert seen == pytest.approx([1000 * sigma for sigma in wanted], abs=2e-3)


def test_a_folder_for_any_number_of_steps_takes_sigmas(teacher, tmp_path):
    pipeline = StableDiffusion3Pipeline.from_pretrained(teacher.save(tmp_path / "again"))
    assert (pipeline.scheduler.config.shift, pipeline.scheduler.config.shift_terminal) == (3.0, None)
    noise, settings = torch.randn(1, 4, 8, 8), {"guidance_scale": 3.0, "output_type": "latent"}
    stock = pipeline("a cat", latents=noise, num_inference_steps=3, sigmas=time_grid(3)[:-1].tolist(), **settings).images
    ours = teacher.sample_tensor(teacher.condition(prompts="a cat"), steps=3, guidance_scale=3.0, noise=noise).samples
    assert (ours - stock).abs().max() < 1e-4


def test_a_shift_that_depends_on_the_size_of_the_image(tmp_path):
    dynamic = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    teacher = fewstep.open_model(tiny.sd3_pipeline(tmp_path / "pipeline", **dynamic))
    assert teacher.denoiser.process.shift == pytest.approx(2.71828 ** (0.5 + 0.65 * (16 - 256) / (4096 - 256)), abs=1e-4)
