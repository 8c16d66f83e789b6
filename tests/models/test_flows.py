"""Flux, Qwen-Image and Wan: flow transformers, distilled by both stages and run by diffusers in a process without fewstep."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import fewstep
import flow_pipelines
from alone import samples_alone
from fewstep.cli.sample_files import write_samples
from fewstep.method.process import process_of, time_grid
from fewstep.method.samplers import deterministic
from fewstep.models.families.flow_latents import pack, unpack
from fewstep.training.distill import student_of
from fewstep.training.recipe import load_recipe
from fewstep.training.run_folder import check_match
from tiny import CHANGES, InMemory, counted

BUILD = {
    "flux": flow_pipelines.flux_pipeline, "qwen_image": flow_pipelines.qwen_pipeline, "wan": flow_pipelines.wan_pipeline,
}  # fmt: skip
PIPELINES = {"flux": "FluxPipeline", "qwen_image": "QwenImagePipeline", "wan": "WanPipeline"}
KINDS = [("flux", "conditioned"), ("flux", "baked"), ("qwen_image", "baked"), ("wan", "baked")]
SIZE = {"height": 16, "width": 16}

PROMPTS = ["a cat", "dog"]


def awake(name, model):
    """The same student, its input for w doing something."""
    network = model.denoiser.network
    layer = network.time_text_embed.guidance_embedder.linear_2 if name == "flux" else network.w_embedding
    torch.nn.init.normal_(layer.weight, std=0.3, generator=torch.Generator().manual_seed(3))
    return model


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """name -> (teacher, student of 2 steps, its folder, the folder with the scale 2.5 baked in)."""
    torch.set_num_threads(1)
    made, root = {}, tmp_path_factory.mktemp("flows")
    for name, build in BUILD.items():
        teacher = fewstep.open_model(build(root / f"{name}-pipeline"))
        student = fewstep.distill(teacher, InMemory(teacher), out=root / name, changes=CHANGES, device="cpu", quiet=True)
        folder = awake(name, student).save(root / f"{name}-student")
        made[name] = teacher, student, folder, student.bake(2.5).save(root / f"{name}-baked")
    return made


@pytest.fixture(scope="module")
def samples(students, tmp_path_factory):
    """(name, kind) -> (our samples of a prompt, those of diffusers alone where it has a way)."""
    ours, jobs, noises = {}, [], {}
    for name, (_, student, *folders) in students.items():
        noises[name] = noise = torch.randn(1, *student.info.shape, generator=torch.Generator().manual_seed(7))
        for kind, folder in zip(("conditioned", "baked"), folders, strict=True):
            model = fewstep.open_model(folder)
            ours[name, kind] = model.sample_tensor(model.condition(prompts="a cat"), guidance_scale=2.5, noise=noise).samples
            if (name, kind) in KINDS:
                scale = {"guidance_scale": 2.5 if kind == "conditioned" else 1.0} if name != "qwen_image" else {}
                arguments = {"prompt": ["a cat"], "num_inference_steps": 2} | scale | (SIZE if name != "wan" else {})
                job = {"folder": folder, "pipeline": PIPELINES[name], "arguments": arguments}
                jobs.append((job, {"noise": noise if name == "wan" else pack(noise)}))
    alone = dict(zip(KINDS, samples_alone(tmp_path_factory.mktemp("jobs"), jobs), strict=True))
    unpacked = {key: stock if key[0] == "wan" else unpack(stock, noises[key[0]]) for key, stock in alone.items()}
    return {key: (x, unpacked.get(key)) for key, x in ours.items()}


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_the_stock_pipeline_alone_gives_our_samples(samples, name, kind):
    ours, stock = samples[name, kind]
    assert (ours - stock).abs().max() < 1e-4
    assert ours.std() > 0.1


@pytest.mark.parametrize("name", BUILD)
def test_a_baked_student_says_what_the_conditioned_one_says(students, samples, name):
    torch.testing.assert_close(samples[name, "baked"][0], samples[name, "conditioned"][0], atol=1e-5, rtol=0)
    teacher, student, folder, baked = students[name]
    one, other = (student.sample_tensor(student.example(2), guidance_scale=s).samples for s in (1.5, 2.5))
    assert not torch.allclose(one, other)
    plain = fewstep.open_model(baked).denoiser.network
    assert plain.state_dict().keys() == teacher.denoiser.network.state_dict().keys()
    assert (folder / "transformer").is_dir() == (name == "flux")  # no stock pipeline runs a student without w


@pytest.mark.parametrize("name", BUILD)
def test_before_its_first_update_a_student_is_the_conditional_teacher(students, name):
    teacher = students[name][0]
    student, condition = student_of(load_recipe(None, CHANGES), teacher), teacher.example(3)
    z, t = torch.randn(3, *teacher.info.shape), torch.tensor([0.2, 0.6, 1.0])
    with torch.no_grad():
        for w in (0.0, 3.7, 20.0):
            assert torch.equal(student.denoiser(z, t, condition, torch.full((3,), w)), teacher.denoiser(z, t, condition))
    learns = [p for n, p in student.denoiser.network.named_parameters() if "guidance_embedder.linear_2" in n or "w_embedding" in n]
    student.denoiser(z, t, condition, torch.full((3,), 2.0)).square().mean().backward()
    assert learns and all(p.grad.abs().sum() > 0 for p in learns)
    with pytest.raises(fewstep.InputError, match="it is a student"):
        student.family.student_of(student.denoiser.network)


@pytest.mark.parametrize("name", BUILD)
def test_what_is_known_of_teacher_and_student(students, name):
    teacher, student, folder, _ = students[name]
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
    scheduler = model.family.pipeline_class().from_pretrained(folder if name == "flux" else students[name][3]).scheduler
    scheduler.set_timesteps(**({"num_inference_steps": 2} if name == "wan" else {"sigmas": [1.0, 0.5]}))
    torch.testing.assert_close(scheduler.sigmas.double(), process.at(times, times)[1], atol=1e-6, rtol=0)
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".ckpt")]


@pytest.mark.parametrize("name", BUILD)
def test_a_step_is_one_evaluation_of_a_student_and_two_halves_of_one_of_a_teacher(students, name):
    teacher, student, *_ = students[name]
    for model, scale, rows in ((student, 2.0, [3, 3]), (teacher, 2.0, [6, 6]), (teacher, 1.0, [3, 3])):
        watched, calls = counted(model)
        drawn = watched.sample_tensor(model.example(3), steps=2, guidance_scale=scale)
        assert calls == rows
        assert drawn.evaluations == sum(rows) / 3
    images = drawn.images()
    assert [video[0].size for video in images] == [(12, 8)] * 3 if name == "wan" else [x.size for x in images] == [(16, 16)] * 3


@pytest.mark.parametrize("pipeline", ["FluxImg2ImgPipeline", "FluxInpaintPipeline"])
def test_a_student_of_flux_runs_in_the_pipelines_that_begin_with_a_picture(students, tmp_path, pipeline):
    _, student, folder, _ = students["flux"]
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
    assert torch.equal(pack(z), diffusers.FluxPipeline._pack_latents(z, 2, 4, 6, 8))
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


@pytest.mark.parametrize("name", BUILD)
def test_prompts(students, name):
    teacher, student, *_ = students[name]
    null = teacher.denoiser.null_condition(teacher.condition(prompts=PROMPTS))
    assert {key: len(value) for key, value in null.items()} == dict.fromkeys(teacher.example(1), 2)
    options = {"steps": 2, "guidance_scale": 4.0}
    one, other = (
        teacher.with_negative_prompt(p).sample_tensor(teacher.condition(prompts="a"), **options).samples for p in (None, "zebra")
    )
    assert not torch.allclose(one, other)
    with pytest.warns(UserWarning, match="is cut to 512"):
        assert student.condition(prompts="ab " * 400)["text"].shape[1] == 512
    for given, message in (({"image": 1}, "takes no image"), ({"negative_prompt": "b"}, "negative prompt")):
        with pytest.raises(fewstep.InputError, match=message):
            student.sample(prompts="a", **given)


def test_videos_are_written_as_moving_pictures(students, tmp_path):
    from PIL import Image

    student = students["wan"][1]
    choices = {"steps": 2, "guidance_scale": 2.0}
    write_samples(tmp_path / "out", student, student.condition(prompts=PROMPTS), {}, choices, 2, raw=False)
    with Image.open(tmp_path / "out" / "00001.png") as video, Image.open(tmp_path / "out" / "grid.png") as grid:
        assert (video.n_frames, video.size) == (5, (12, 8))
        assert grid.size == (5 * 24 + 4, 2 * 16 + 1)
    flat = SimpleNamespace(batch=lambda start, count: (torch.zeros(count, 4, 4, 6), student.example(count)))
    with pytest.raises(fewstep.InputError, match="shape"):
        check_match(student, flat)


def keys(part, **values):
    def change(folder):
        file = folder / part / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def second_network(folder):
    (folder / "transformer_2").mkdir()
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"transformer_2": ["diffusers", "WanTransformer3DModel"]}))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("flux", keys("transformer", guidance_embeds=True), r"guidance-distilled already.*true_cfg_scale"),
        ("flux", keys("text_encoder_2", d_model=16), "16, the network takes 12"),
        ("flux", keys("vae", latent_channels=16), "64, the network takes 16"),
        ("flux", keys("transformer", sample_size=7), r"sample_size 7 makes no patches; 2 multiples of \[2, 2\]"),
        ("qwen_image", keys("transformer", guidance_embeds=True), "guidance-distilled already"),
        ("qwen_image", keys("transformer", zero_cond_t=True), "zero_cond_t"),
        ("qwen_image", keys("text_encoder", text_config={"hidden_size": 8}), "8, the network takes 16"),
        ("wan", second_network, "second network"),
        ("wan", keys("transformer", in_channels=12), "begins from a picture"),
        ("wan", keys("text_encoder", d_model=16), "16, the network takes 12"),
        ("wan", keys("transformer", sample_size=[3, 4]), "3 multiples"),
    ],
)
def test_what_is_no_teacher_is_refused_in_one_line(students, tmp_path, name, damage, message):
    copy = shutil.copytree(students[name][0].family.folder, tmp_path / "copy")
    damage(copy)
    with pytest.raises(fewstep.InputError, match=message) as error:
        fewstep.open_model(copy)
    assert "\n" not in str(error.value)


def test_the_usual_sizes_are_those_of_the_stock_pipelines(students, tmp_path):
    for name, shape in (("flux", (4, 128, 128)), ("qwen_image", (4, 128, 128)), ("wan", (4, 41, 240, 416))):
        copy = shutil.copytree(students[name][0].family.folder, tmp_path / name)
        keys("transformer", sample_size=None)(copy)
        assert fewstep.open_model(copy).info.shape == shape
