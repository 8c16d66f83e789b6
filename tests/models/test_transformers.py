"""Transformers that know no w (DiT, PixArt, Stable Diffusion 3): students with an embedding added, and plain ones that diffusers alone runs."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fewstep
import transformer_pipelines as tiny
from alone import samples_alone
from fewstep.export.formats import scales_as_labels
from fewstep.method.conditioning import take
from tiny import CHANGES, InMemory

FAMILIES = {
    "dit": lambda folder: tiny.dit_pipeline(folder, names={str(i): f"{name}, a {name}" for i, name in enumerate("pqrst")}),
    "pixart": tiny.pixart_pipeline,
    "pixart-sizes": lambda folder: tiny.pixart_pipeline(folder, "Alpha", size=128, patch=32),
    "sd3": tiny.sd3_pipeline,
    "sd3-no-t5": lambda folder: tiny.sd3_pipeline(folder, t5=False),
}
PIPELINES = {"dit": "DiTPipeline", "pixart": "PixArtSigmaPipeline", "pixart-sizes": "PixArtAlphaPipeline"}
PROMPT = ["a cat"]
SCALE, SEED = 2.5, 7


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """name -> (teacher, student of 2 steps, its folder, the folder with the scale baked in), of each family."""
    torch.set_num_threads(1)
    made, root = {}, tmp_path_factory.mktemp("transformers")
    for name, build in FAMILIES.items():
        teacher = fewstep.open_model(build(root / f"{name}-pipeline"))
        student = fewstep.distill(teacher, InMemory(teacher), out=root / name, changes=CHANGES, device="cpu", quiet=True)
        torch.nn.init.normal_(student.denoiser.network.w_embedding.weight, std=0.3, generator=torch.Generator().manual_seed(3))
        folder = student.save(root / f"{name}-student")
        made[name] = teacher, student, folder, student.bake(SCALE).save(root / f"{name}-baked")
    return made


def condition_of(name, model):
    """The condition of the jobs: two labels, or one prompt."""
    return torch.tensor([1, 3]) if name == "dit" else model.condition(prompts=PROMPT)


def noise_of(model, n):
    """What a stock pipeline draws with the seed."""
    return torch.randn(n, *model.info.shape, generator=torch.Generator().manual_seed(SEED))


def shown(model, samples):
    """Pictures between 0 and 1, as the pipelines give them."""
    return (model.decode(samples) / 2 + 0.5).clamp(0, 1)


@pytest.fixture(scope="module")
def stock_samples(students, tmp_path_factory):
    """name -> samples of the baked folder by the stock pipeline alone, and of a DiT with three scales as labels."""
    root, jobs = tmp_path_factory.mktemp("jobs"), {}
    settings = {"num_inference_steps": 2, "guidance_scale": 1.0}
    for name, (_, student, _, baked) in students.items():
        if name == "dit":
            arguments, tensors = settings | {"class_labels": [1, 3], "output_type": "pt"}, {"none": torch.zeros(0)}
        else:
            binning = {"use_resolution_binning": False} if "pixart" in name else {}
            arguments, tensors = settings | {"prompt": PROMPT} | binning, {"noise": noise_of(student, 1)}
        job = {"folder": baked, "pipeline": PIPELINES.get(name, "StableDiffusion3Pipeline"), "arguments": arguments}
        if name != "sd3-no-t5":  # the stock pipeline opens no such folder unless it is told text_encoder_3=None
            jobs[name] = job | ({"seed": SEED} if name == "dit" else {}), tensors if name != "dit" else {}
    many = scales_as_labels(students["dit"][1], [1.5, SCALE, 4]).save(root / "scales")
    jobs["scales"] = jobs["dit"][0] | {"folder": many}, {}
    jobs["scales"][0]["arguments"] = jobs["dit"][0]["arguments"] | {"class_labels": [1 * 5 + 1, 2 * 5 + 3]}
    return dict(zip(jobs, samples_alone(root, jobs.values()), strict=True)) | {"folder": many}


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "sd3-no-t5"])
def test_the_stock_pipeline_alone_gives_our_samples(students, stock_samples, name):
    _, student, folder, _ = students[name]
    model, condition = fewstep.open_model(folder), condition_of(name, student)
    noise = noise_of(student, 2 if name == "dit" else 1)
    ours = model.sample_tensor(condition, guidance_scale=SCALE, noise=noise).samples
    other = model.sample_tensor(condition, guidance_scale=SCALE - 1, noise=noise).samples
    ours, other = (shown(model, x) if name == "dit" else x for x in (ours, other))
    assert (ours - stock_samples[name]).abs().max() < 1e-4
    assert (other - stock_samples[name]).abs().max() > 1e-2
    assert ours.std() > 0.05


@pytest.mark.parametrize("name", FAMILIES)
def test_a_baked_student_says_what_the_conditioned_one_says(students, name):
    teacher, student, folder, baked = students[name]
    plain, student = fewstep.open_model(baked), fewstep.open_model(folder)
    condition, noise = student.example(3), noise_of(student, 3)
    one, other = (m.sample_tensor(condition, guidance_scale=SCALE, noise=noise).samples for m in (plain, student))
    torch.testing.assert_close(one, other, atol=1e-5 * max(1.0, float(other.abs().max())), rtol=0)
    to_float64 = replace(student, denoiser=replace(student.denoiser, network=copy.deepcopy(student.denoiser.network).double()))
    one, other = (
        m.sample_tensor(condition, guidance_scale=SCALE, noise=noise).samples for m in (to_float64.bake(SCALE), to_float64)
    )
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)  # samples are given in float32
    keys = {model: set(m.denoiser.network.state_dict()) for model, m in (("t", teacher), ("s", student), ("p", plain))}
    assert keys["t"] == keys["p"] == keys["s"] - {"w_embedding.weight"}
    assert (plain.info.baked, plain.info.guidance_scale) == (True, (SCALE, SCALE))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_student_starts_as_the_conditional_teacher(students, name):
    teacher = students[name][0]
    network = teacher.family.student_of(teacher.denoiser.network)
    z, condition, time = noise_of(teacher, 3), teacher.example(3), torch.tensor([3.0, 500.0, 999.0])
    call, w = teacher.family.call, torch.tensor([0.0, 1.7, 9.0])
    told = call(teacher.denoiser.network, z, time, condition, None)
    assert told.shape == z.shape
    assert torch.equal(call(network, z, time, condition, w), told)
    torch.nn.init.normal_(network.w_embedding.weight, std=0.3)
    moved = call(network, z, time, condition, w) - told
    assert moved.abs().flatten(1).amax(1).min() > 1e-3
    torch.testing.assert_close(call(network, z[1:2], time[1:2], take(condition, slice(1, 2)), w[1:2]), (told + moved)[1:2])
    with pytest.raises(fewstep.InputError, match="name its teacher"):
        teacher.family.student_of(network)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_is_one_evaluation_of_a_student_and_two_halves_of_one_of_a_teacher(students, name):
    teacher, student, *_ = students[name]
    for model, scale, rows in ((student, 2.0, [3, 3]), (teacher, 2.0, [6, 6]), (teacher, 1.0, [3, 3])):
        seen, network = [], model.denoiser.network
        hook = network.register_forward_pre_hook(lambda _, given, named, s=seen: s.append(len(given[0])), with_kwargs=True)
        drawn = model.sample_tensor(model.example(3), steps=2, guidance_scale=scale)
        hook.remove()
        assert seen == rows
        assert drawn.evaluations == sum(rows) / 3


@pytest.mark.parametrize("name", FAMILIES)
def test_no_stock_pipeline_runs_a_student_without_its_w(students, name):
    import diffusers

    folder = students[name][2]
    with pytest.raises((OSError, ValueError), match="transformer"):
        diffusers.DiffusionPipeline.from_pretrained(folder)
    layer = load_file(folder / "student" / "w_embedding.safetensors")
    assert [tuple(v.shape) for v in layer.values()] == [(12 if "pixart" in name else 8, 256)]
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".ckpt")]


def test_a_copy_of_a_student_has_its_own_w(students):
    network, call = students["sd3"][1].denoiser.network, students["sd3"][1].family.call
    z, condition = noise_of(students["sd3"][1], 2), students["sd3"][1].example(2)
    time, w = torch.tensor([500.0, 900.0]), torch.tensor([1.0, 2.0])
    before, other = call(network, z, time, condition, w), copy.deepcopy(network)
    torch.nn.init.normal_(other.w_embedding.weight)
    assert not torch.equal(call(other, z, time, condition, w), before)
    assert torch.equal(call(network, z, time, condition, w), before)


@pytest.mark.parametrize("name", ["dit", "sd3"])
def test_gradient_checkpointing_changes_no_gradient(students, name):
    model, gradients = students[name][1], []
    for checkpointing in (False, True):
        network = copy.deepcopy(model.denoiser.network).train().requires_grad_(True)
        network.eval()
        if checkpointing:
            network.enable_gradient_checkpointing()
        out = model.family.call(network, noise_of(model, 2), torch.tensor([500.0, 900.0]), model.example(2), torch.ones(2))
        out.square().sum().backward()
        gradients.append(network.w_embedding.weight.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


def test_a_dit_with_several_scales_as_labels(students, stock_samples):
    _, student, *_ = students["dit"]
    noise = noise_of(student, 2)
    pairs = zip(noise.split(1), (1, 3), (SCALE, 4.0), strict=True)
    ours = [student.sample_tensor(torch.tensor([c]), guidance_scale=s, noise=z).samples for z, c, s in pairs]
    assert (shown(student, torch.cat(ours)) - stock_samples["scales"]).abs().max() < 1e-4
    many = fewstep.open_model(stock_samples["folder"])
    assert len(many.info.classes) == 15 and many.labels(["q at 2.5, a q at 2.5"]).tolist() == [6]
    drawn = many.sample_tensor(torch.tensor([6, 13]), noise=noise).samples
    torch.testing.assert_close(drawn, torch.cat(ours), atol=1e-5, rtol=0)
    import diffusers

    assert diffusers.DiTPipeline.from_pretrained(stock_samples["folder"]).get_label_ids(["a s at 4"]) == [13]
    with pytest.raises(fewstep.InputError, match="outside the range"):
        scales_as_labels(student, [2, 90])
    with pytest.raises(fewstep.InputError, match="only a DiT student"):
        scales_as_labels(students["sd3"][1], [2])


def test_what_is_known_of_a_teacher_and_its_student(students):
    for name, (teacher, student, folder, baked) in students.items():
        info = teacher.info
        assert (info.channels, info.size, info.image_size) == (4, 128 if "sizes" in name else 8, 256 if "sizes" in name else 16)
        assert info.condition == ("class" if name == "dit" else "text")
        flow = name.startswith("sd3")
        assert (info.prediction, student.info.prediction) == (("flow", "flow") if flow else ("eps", "v"))
        kind = json.loads((baked / "model_index.json").read_text())["_class_name"]
        assert kind == PIPELINES.get(name, "StableDiffusion3Pipeline")
        assert fewstep.open_model(folder).info.family == info.family
    assert students["dit"][1].info.classes[1] == "q, a q"


@pytest.mark.parametrize("name", ["pixart", "sd3", "sd3-no-t5"])
def test_prompts(students, name):
    teacher, student, *_ = students[name]
    assert len(student.sample(prompts=["a cat", "dog"], num_images=3, guidance_scale=2.0)) == 3
    for word in (15 * "a ", 400 * "a "):
        limit = {"pixart": 300, "sd3": 256, "sd3-no-t5": 8}[name]
        if len(word) // 2 > limit:
            with pytest.warns(UserWarning, match=f"is cut to {limit}; not read"):
                student.condition(prompts=[word])
        else:
            student.condition(prompts=[word])
    with pytest.raises(fewstep.InputError, match="takes no image"):
        student.sample(prompts="a", image=object())
    with pytest.raises(fewstep.InputError, match="negative prompt"):
        student.sample(prompts="a", negative_prompt="b")
    options = {"steps": 2, "guidance_scale": 4.0}
    one, other = (
        teacher.with_negative_prompt(p).sample_tensor(teacher.condition(prompts="a"), **options).samples for p in (None, "zebra")
    )
    assert not torch.allclose(one, other)


def test_a_guided_teacher_says_what_the_stock_pipeline_says(students):
    import diffusers

    teacher = students["pixart"][0]
    noise = noise_of(teacher, 1)
    ours = teacher.sample_tensor(teacher.condition(prompts=PROMPT), steps=4, guidance_scale=3.0, noise=noise).samples
    pipeline = diffusers.PixArtSigmaPipeline.from_pretrained(teacher.save(Path(teacher.family.folder).parent / "again"))
    choices = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent", "use_resolution_binning": False}
    stock = pipeline(PROMPT, latents=noise, **choices).images
    torch.testing.assert_close(ours, stock, atol=1e-3 * float(stock.abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("name", "part", "key", "value", "message"),
    [
        ("dit", "transformer", "num_embeds_ada_norm", None, "takes no class"),
        ("dit", "vae", "latent_channels", 16, "VAE's channels are 16, the network takes 4"),
        ("pixart", "text_encoder", "d_model", 16, "text encoder's features are 16, the network takes 10"),
        ("pixart", "scheduler", "_class_name", "LCMScheduler", "distilled already"),
        ("sd3", "text_encoder_3", "d_model", 16, "third text encoder's features are 16, the network takes 24"),
        ("sd3", "text_encoder_2", "projection_dim", 4, "projections are 12, the network takes 16"),
        ("sd3", "transformer", "in_channels", 9, "no family that is known"),
    ],
)
def test_what_is_no_teacher_is_refused_in_one_line(students, tmp_path, name, part, key, value, message):
    import shutil

    folder = shutil.copytree(students[name][0].family.folder, tmp_path / "copy")
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(fewstep.InputError, match=message) as error:
        fewstep.open_model(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("build", [lambda folder: tiny.dit_pipeline(folder, learned_sigma=False), tiny.pixart_pipeline])
def test_folders_published_under_the_class_that_came_before(tmp_path, build):
    folder = build(tmp_path / "pipeline")
    for file in (folder / "model_index.json", folder / "transformer" / "config.json"):
        file.write_text(re.sub("(DiT|PixArt)Transformer2DModel", "Transformer2DModel", file.read_text()))
    teacher = fewstep.open_model(folder)
    assert "Transformer2DModel" in (teacher.save(tmp_path / "again") / "model_index.json").read_text()


def test_the_cost_counts_the_layer_for_w(students):
    from fewstep.training.cost_estimate import plan
    from fewstep.training.describe import describe
    from fewstep.training.recipe import load_recipe

    for name, width in (("dit", 8), ("pixart", 12), ("sd3", 8)):
        teacher = students[name][0]
        facts = describe(str(teacher.family.folder))
        assert plan(load_recipe(None, CHANGES), teacher, probe=False)["parameters"] == facts["parameters"] + width * 256
