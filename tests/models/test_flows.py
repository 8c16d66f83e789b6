"""What is peculiar to the flow transformers Flux, Qwen-Image and Wan."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import fewstep
import flow_pipelines
from alone import samples_alone, untrained
from fewstep.cli.sample_files import write_samples
from fewstep.method.process import process_of, time_grid
from fewstep.method.samplers import deterministic
from fewstep.models.families.flow_latents import pack, unpack
from fewstep.training.run_folder import check_match

SIZE = {"height": 16, "width": 16}


BUILD = {"flux": flow_pipelines.flux_pipeline, "qwen_image": flow_pipelines.qwen_pipeline, "wan": flow_pipelines.wan_pipeline}


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """name -> (teacher, student of 2 steps, its folder)."""
    root, made = tmp_path_factory.mktemp("flows"), {}
    for name, build in BUILD.items():
        teacher, student = untrained(build(root / name))
        made[name] = teacher, student, student.save(root / f"{name}-student")
    return made


@pytest.mark.parametrize("name", BUILD)
def test_what_is_known_of_teacher_and_student(students, name):
    teacher, student, folder = students[name]
    for model in (teacher, student, fewstep.open_model(folder)):
        info = model.info
        assert (info.prediction, info.condition, info.family) == ("flow", "text", name)
        assert info.shape == ((4, 3, 4, 6) if name == "wan" else (4, 8, 8))
        assert (info.size, info.image_size) == ((6, 12) if name == "wan" else (8, 16))
    process, times = process_of(student.info.process), time_grid(2)
    tokens = {"flux": (0.5, 1.15, 4096), "qwen_image": (0.5, 0.9, 8192)}.get(name)
    if tokens:
        low, high, most = tokens
        assert math.isclose(process.shift, math.exp(low + (high - low) * (16 - 256) / (most - 256)))
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    scheduler.set_timesteps(**({"num_inference_steps": 2} if name == "wan" else {"sigmas": [1.0, 0.5]}))
    torch.testing.assert_close(scheduler.sigmas.double(), process.at(times, times)[1], atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["FluxImg2ImgPipeline", "FluxInpaintPipeline"])
def test_a_student_of_flux_runs_in_the_pipelines_that_begin_with_a_picture(students, tmp_path, pipeline):
    _, student, folder = students["flux"]
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    tensors = {"image": picture} | ({"mask_image": torch.ones(1, 1, 16, 16)} if "Inpaint" in pipeline else {})  # all is painted
    arguments = {"prompt": ["a cat"], "num_inference_steps": 2, "guidance_scale": 2.5, "strength": 0.5} | SIZE
    (stock,) = samples_alone(tmp_path, [({"folder": folder, "pipeline": pipeline, "arguments": arguments, "seed": 7}, tensors)])
    generator, process = torch.Generator().manual_seed(7), student.denoiser.process
    with torch.no_grad():
        drawn = student.family.parts("vae").vae.encode(2 * picture - 1).latent_dist.sample(generator)
    kept, noise = (drawn - 0.1) * 0.4, torch.randn(1, 4, 8, 8, generator=generator)
    alpha, sigma = process.at(torch.tensor([0.5]), kept)
    condition = student.condition(prompts="a cat")
    with torch.no_grad():
        ours = deterministic(student.denoiser, alpha * kept + sigma * noise, 2, condition, torch.tensor([1.5]), process, start=1)
    assert (ours - unpack(stock, kept)).abs().max() < 1e-4


def test_flux_is_told_the_guidance_scale_in_the_networks_dtype(students):
    _, student, *_ = students["flux"]
    network, seen = student.family.student_of(students["flux"][0].denoiser.network).to(torch.bfloat16), []
    network.time_text_embed.time_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model = replace(student, denoiser=replace(student.denoiser, network=network))
    model.sample_tensor(model.example(1), guidance_scale=3.51)
    stock = torch.tensor([3.51]).to(torch.bfloat16) * 1000  # as the stock network has it
    assert seen[1].dtype == torch.bfloat16 and torch.equal(seen[1], stock)


def test_patches_and_back():
    import diffusers

    z = torch.arange(2 * 4 * 6 * 8).reshape(2, 4, 6, 8)
    assert torch.equal(pack(z), diffusers.FluxPipeline._pack_latents(z, 2, 4, 6, 8))  # noqa: SLF001 - the stock pipeline's own packing is what ours is compared with
    assert torch.equal(unpack(pack(z), z), z)


def test_latents_that_are_not_square_are_those_of_the_stock_pipeline(tmp_path):
    for name in ("flux", "qwen_image"):
        teacher = fewstep.open_model(BUILD[name](tmp_path / name, [8, 12]))
        assert (teacher.info.shape, teacher.info.image_size) == ((4, 8, 12), 24)
        teacher.save(tmp_path / f"{name}-saved")  # which compares with the stock pipeline


def test_a_wan_that_tells_each_token_its_time_is_one_too(students, tmp_path):
    folder = shutil.copytree(students["wan"][0].family.folder, tmp_path / "wan")  # as Wan 2.2 5B is
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"expand_timesteps": True}))
    saved = fewstep.open_model(folder).save(tmp_path / "saved")  # which compares with the stock pipeline
    assert json.loads((saved / "model_index.json").read_text())["expand_timesteps"]


@pytest.mark.parametrize("name", BUILD)
def test_latents_become_pictures_and_pictures_latents(students, name):
    family, info = students[name][0].family, students[name][0].info
    vae = family.parts("vae").vae
    x = torch.rand(2, 3, *((5, 8, 12) if name == "wan" else (16, 16))) * 2 - 1
    z = family.to_latents(x)
    assert z.shape == (2, *info.shape)
    with torch.no_grad():
        if name == "flux":
            expected = vae.decode(z / 0.4 + 0.1).sample
        else:
            mean, deviation = (torch.tensor(v).reshape(1, 4, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
            video = z if name == "wan" else z[:, :, None]
            expected = vae.decode(video * deviation + mean).sample
            expected = expected if name == "wan" else expected[:, :, 0]
    torch.testing.assert_close(family.to_images(z), expected)
    if name == "wan":
        with pytest.raises(fewstep.InputError, match="makes videos"):
            family.to_latents(x[:, :, 0])


def test_videos_are_written_as_moving_pictures(students, tmp_path):
    from PIL import Image

    student = students["wan"][1]
    choices = {"steps": 2, "guidance_scale": 2.0}
    write_samples(tmp_path / "out", student, student.condition(prompts=["a cat", "dog"]), {}, choices, 2, raw=False)
    with Image.open(tmp_path / "out" / "00001.png") as video, Image.open(tmp_path / "out" / "grid.png") as grid:
        assert (video.n_frames, video.size) == (5, (12, 8))
        assert grid.size == (5 * 24 + 4, 2 * 16 + 1)
    flat = SimpleNamespace(batch=lambda start, count: (torch.zeros(count, 4, 4, 6), student.example(count)))
    with pytest.raises(fewstep.InputError, match="shape"):
        check_match(student, flat)


def test_the_usual_sizes_are_those_of_the_stock_pipelines(students, tmp_path):
    for name, shape in (("flux", (4, 128, 128)), ("qwen_image", (4, 128, 128)), ("wan", (4, 41, 240, 416))):
        copy = shutil.copytree(students[name][0].family.folder, tmp_path / name)
        file = copy / "transformer" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": None}))
        assert fewstep.open_model(copy).info.shape == shape
