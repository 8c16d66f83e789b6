"""DeepFloyd IF, base and super-resolution: students with a scale baked in, in the stock pipelines, in a process without fewstep."""

import json
import shutil

import pytest
import torch
from PIL import Image

import fewstep
import unet_pipelines
from alone import distilled, halfway, samples_alone
from fewstep.method.conditioning import take
from fewstep.models.families.diffusers_family import STUDENT

SMALL = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(4)) * 2 - 1
ARGUMENTS = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "pt"}
NAMES = ["base", "larger"]


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("deepfloyd")
    folders = {name: unet_pipelines.if_pipeline(root / f"{name}-pipeline", larger=name == "larger") for name in NAMES}
    return {name: distilled(folder, root / name) for name, folder in folders.items()}


def drawn(name, seed):
    """(noise, condition's arguments) as the stock pipelines draw them from a seed."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 3, 8, 8, generator=generator)
    if name == "base":
        return noise, {}
    return noise, {"image": SMALL, "noise_level": 300, "noise": torch.randn(1, 3, 8, 8, generator=generator)}


@pytest.fixture(scope="module")
def samples(students, tmp_path_factory):
    """name -> (of the conditioned student, of the baked one, of diffusers alone)."""
    jobs, ours = [], {}
    for name, (_, _, *folders) in students.items():
        noise, extra = drawn(name, 7)
        models = [fewstep.open_model(folder) for folder in folders]
        ours[name] = [
            m.sample_tensor(m.condition(prompts=["a Cat"], **extra), guidance_scale=2.5, noise=noise).samples for m in models
        ]
        arguments = ARGUMENTS | {"prompt": ["a Cat"]} | ({} if name == "base" else {"noise_level": 300})
        kind = "IFPipeline" if name == "base" else "IFSuperResolutionPipeline"
        tensors = {} if name == "base" else {"image": SMALL}
        jobs.append(({"folder": folders[1], "pipeline": kind, "arguments": arguments, "seed": 7}, tensors))
    stock = samples_alone(tmp_path_factory.mktemp("jobs"), jobs)
    return {name: (*ours[name], theirs) for name, theirs in zip(ours, stock, strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_the_stock_pipeline_alone_gives_our_samples(samples, name):
    conditioned, baked, stock = samples[name]
    assert (baked - stock).abs().max() < 1e-4
    assert baked.std() > 0.1
    torch.testing.assert_close(baked, conditioned, atol=1e-5, rtol=0)


def test_the_same_folder_runs_in_the_pipelines_that_begin_with_a_picture(students, tmp_path):
    baked, kept = fewstep.open_model(students["base"][3]), torch.rand(1, 3, 8, 8) * 2 - 1
    arguments, painted = ARGUMENTS | {"prompt": ["a cat"], "strength": 0.5}, {"mask_image": torch.ones(1, 1, 8, 8)}  # all of it
    jobs = [
        ({"folder": students["base"][3], "pipeline": kind, "arguments": arguments, "seed": 7}, {"image": kept} | more)
        for kind, more in (("IFImg2ImgPipeline", {}), ("IFInpaintingPipeline", painted))
    ]
    ours = halfway(baked, kept, baked.condition(prompts="a cat"), 7)
    for stock in samples_alone(tmp_path, jobs):
        assert (ours - stock).abs().max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_folders_of_students(students, name):
    import diffusers

    teacher, student, folder, baked = students[name]
    info = student.info
    assert (info.channels, info.size, info.image_size, info.prediction, teacher.info.prediction) == (3, 8, None, "v", "eps")
    assert (folder / STUDENT).is_dir() and not (folder / "unet").exists()
    with pytest.raises(OSError, match=r"config\.json"):  # the stock pipeline would run it without w
        getattr(diffusers, teacher.family.pipelines[0]).from_pretrained(folder, use_safetensors=True)
    assert (baked / "unet").is_dir() and not (baked / STUDENT).exists()
    scheduler = json.loads((baked / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["_class_name"], scheduler["thresholding"], scheduler["clip_sample"]) == ("DDIMScheduler", False, False)
    assert scheduler["timestep_spacing"] == "trailing"
    again = fewstep.open_model(folder)  # and saved from there
    assert fewstep.open_model(again.bake(2.0).save(folder.parent / "again")).info.guidance_scale == (2.0, 2.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_student_starts_as_its_conditional_teacher_and_takes_one_evaluation_a_step(students, name):
    teacher, student, *_ = students[name]
    fresh = teacher.family.student_of(teacher.denoiser.network)
    z, t, condition = torch.randn(3, 3, 8, 8), torch.tensor([5.0, 400.0, 999.0]), teacher.example(3)
    with torch.no_grad():
        said = [
            teacher.family.call(n, z, t, condition, w) for n, w in ((teacher.denoiser.network, None), (fresh, torch.rand(3) * 9))
        ]
    assert torch.equal(*said) and said[0].shape == z.shape
    for model, evaluations, rows in ((student, 2, [3, 3]), (teacher, 4, [6, 6])):
        seen = []
        hook = model.denoiser.network.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(len(inputs[0])))
        made = model.sample_tensor(model.example(3), steps=2, guidance_scale=2.0)
        hook.remove()
        assert (seen, made.evaluations) == (rows, evaluations)
    plain = student.sample_tensor(condition).samples
    for key in condition:
        assert not torch.allclose(student.sample_tensor(condition | {key: condition[key] + 1}).samples, plain), key


def test_the_teacher_s_guided_sample_is_the_stock_pipeline_s(students):
    import diffusers

    teacher = students["base"][0]
    stock = diffusers.IFPipeline.from_pretrained(teacher.family.folder, use_safetensors=True)
    stock.scheduler = teacher.family.scheduler(teacher.denoiser.process, teacher.denoiser.predicts)
    stock.set_progress_bar_config(disable=True)
    arguments = ARGUMENTS | {"guidance_scale": 3.0, "num_inference_steps": 4, "generator": torch.Generator().manual_seed(7)}
    theirs = stock("a cat", negative_prompt="dog", **arguments).images
    condition, noise = teacher.condition(prompts="a cat"), drawn("base", 7)[0]
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
    with pytest.raises(fewstep.InputError, match="takes no image"):
        students["base"][1].condition(prompts=["a"], image=picture)
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


@pytest.mark.parametrize(
    ("name", "file", "keys", "message"),
    [
        ("base", "unet/config.json", {"time_cond_proj_dim": 256}, "guidance-distilled already"),
        ("base", "unet/config.json", {"out_channels": 3}, "takes 3 channels and gives 3; IFPipeline needs one that gives 6"),
        ("larger", "unet/config.json", {"in_channels": 3}, "takes 3 channels and gives 6"),
        ("base", "text_encoder/config.json", {"d_model": 16}, "features are 16, the network takes 12"),
        ("base", "model_index.json", {"text_encoder": [None, None]}, None),
    ],
)
def test_what_is_no_teacher_is_refused_in_one_line(students, tmp_path, name, file, keys, message):
    folder = shutil.copytree(students[name][0].family.folder, tmp_path / "copy")
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | keys))
    if message is None:  # embeddings made elsewhere are enough to train with
        model = fewstep.open_model(folder)
        assert model.sample_tensor(take(model.example(2), slice(1)), steps=2).samples.shape == (1, 3, 8, 8)
        with pytest.raises(fewstep.InputError, match="no text_encoder and tokenizer"):
            model.condition(prompts="a")
        return
    with pytest.raises(fewstep.InputError, match=message) as error:
        fewstep.open_model(folder)
    assert "\n" not in str(error.value)
