"""Each family of stock pipelines: opened as a teacher, distilled by both stages, and run by diffusers in a process without fewstep."""

import json
import os
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

import fewstep
import pipelines
from conftest import run_command
from fewstep.data.encoding import encoded
from fewstep.method.conditioning import each, take
from fewstep.training.distill import next_student, student_of
from fewstep.training.recipe import load_recipe
from tiny import CHANGES, InMemory, awake

INPAINT = "StableDiffusionInpaintPipeline"
FAMILIES = {
    "latents": lambda folder: pipelines.class_pipeline(folder, latent=True),
    "text-eps": pipelines.text_pipeline,
    "text-v": lambda folder: pipelines.text_pipeline(folder, "v_prediction"),
    "inpainting": lambda folder: pipelines.text_pipeline(folder, network=pipelines.unet(in_channels=9), pipeline=INPAINT),
}
PROMPTS = ["a cat", "dog"]


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """name -> (teacher, student of 2 steps, the student's folder, the folder with a scale baked in), of each family."""
    torch.set_num_threads(1)
    made, root = {}, tmp_path_factory.mktemp("families")
    for name, build in FAMILIES.items():
        teacher = fewstep.open_model(build(root / f"{name}-pipeline"))
        student = fewstep.distill(teacher, InMemory(teacher), out=root / name, changes=CHANGES, device="cpu", quiet=True)
        folder = awake(student).save(root / f"{name}-student")
        made[name] = teacher, student, folder, student.bake(2.5).save(root / f"{name}-baked")
    return made


def condition_of(name, student):
    """The condition of the jobs, as fewstep makes it."""
    if name == "latents":
        return torch.tensor([1, 2])
    condition = student.condition(prompts=PROMPTS[:1]) if name != "inpainting" else take(student.example(1), slice(0, 1))
    if name == "inpainting":
        condition |= student.family.null(student.info, PROMPTS[0])()
    return condition


def job_of(name, folder, scale, noise, condition):
    """What the process without fewstep is to do, and its tensors."""
    if name == "latents":
        return {"pipeline": None, "arguments": {"scale": scale, "steps": 2, "labels": [1, 2]}}, {"noise": noise}
    arguments = {"prompt": PROMPTS[:1], "num_inference_steps": 2, "guidance_scale": scale}
    if name != "inpainting":
        return {"pipeline": "StableDiffusionPipeline", "arguments": arguments}, {"noise": noise}
    mask = condition["mask"].repeat_interleave(2, 2).repeat_interleave(2, 3)
    tensors = {"mask_image": mask, "image": torch.zeros(1, 3, 16, 16), "masked_image_latents": condition["masked"]}
    return {"pipeline": INPAINT, "arguments": arguments}, {"noise": noise} | tensors


@pytest.fixture(scope="module")
def stock_samples(students, tmp_path_factory):
    """(name, kind) -> (our samples, those of diffusers in one process that cannot import fewstep)."""
    root, jobs, ours = tmp_path_factory.mktemp("jobs"), [], {}
    for name, (_, student, *folders) in students.items():
        condition = condition_of(name, student)
        n = 2 if name == "latents" else 1
        noise = torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(7))
        for kind, folder in zip(("conditioned", "baked"), folders, strict=True):
            model = fewstep.open_model(folder)
            ours[name, kind] = model.sample_tensor(condition, guidance_scale=2.5, noise=noise).samples
            job, tensors = job_of(name, folder, 2.5 if kind == "conditioned" else 1.0, noise, condition)
            files = {key: str(root / f"{name}-{kind}-{key}.safetensors") for key in ("noise", "out")}
            save_file({key: value.contiguous() for key, value in tensors.items()}, files["noise"])
            jobs.append(job | files | {"folder": str(folder)})
    (root / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-I", str(Path(__file__).parents[1] / "stock.py"), str(root / "jobs.json")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return {key: (x, load_file(job["out"])["samples"]) for (key, x), job in zip(ours.items(), jobs, strict=True)}


@pytest.mark.parametrize("kind", ["conditioned", "baked"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_stock_pipeline_alone_gives_our_samples(stock_samples, name, kind):
    ours, stock = stock_samples[name, kind]
    assert (ours - stock).abs().max() < 1e-4
    assert ours.std() > 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_a_baked_student_says_what_the_conditioned_one_says(students, stock_samples, name):
    torch.testing.assert_close(stock_samples[name, "baked"][0], stock_samples[name, "conditioned"][0], atol=1e-5, rtol=0)
    _, student, _, folder = students[name]
    baked = fewstep.open_model(folder)
    assert (baked.info.baked, baked.info.guidance_scale) == (True, (2.5, 2.5))
    assert baked.denoiser.network.config["time_cond_proj_dim"] is None
    with pytest.raises(fewstep.InputError, match="outside the range"):
        baked.sample_tensor(baked.example(1), guidance_scale=2.0)
    with pytest.raises(fewstep.InputError, match="only a student"):
        baked.bake(2.5)
    scales = [student.sample_tensor(student.example(2), guidance_scale=s).samples for s in (1.5, 2.5)]
    assert not torch.allclose(*scales)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_known_of_a_foreign_teacher_and_its_student(students, name):
    teacher, student, folder, _ = students[name]
    text = name != "latents"
    for model in (teacher, student):
        info = model.info
        assert (info.condition, info.size, info.channels, info.image_size) == ("text" if text else "class", 8, 4, 16)
    assert teacher.info.prediction == ("v" if name == "text-v" else "eps")
    assert (student.info.prediction, student.info.steps) == ("v", 2)
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["_class_name"], scheduler["prediction_type"]) == ("DDIMScheduler", "v_prediction")
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".ckpt")]
    assert teacher.info.classes == (("0", "1", "2") if not text else ())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_is_one_evaluation_of_a_student_and_two_halves_of_one_of_a_teacher(students, name):
    teacher, student, *_ = students[name]
    for model, scale, rows in ((student, 2.0, [3, 3]), (teacher, 2.0, [6, 6]), (teacher, 1.0, [3, 3])):
        seen, network = [], model.denoiser.network
        hook = network.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(len(inputs[0])))
        drawn = model.sample_tensor(model.example(3), steps=2, guidance_scale=scale)
        hook.remove()
        assert seen == rows
        assert drawn.evaluations == sum(rows) / 3
        assert [image.size for image in drawn.images()] == [(16, 16)] * 3


def test_latents_become_pictures_and_pictures_latents(students):
    family = students["text-eps"][0].family
    z = family.to_latents(torch.rand(2, 3, 16, 16) * 2 - 1)
    vae = family.parts("vae").vae
    assert z.shape == (2, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(family.to_images(z), vae.decode(z / vae.config.scaling_factor).sample)
    family.free()
    assert family.to_latents(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 8, 8)  # loaded again


def test_the_null_condition_is_the_empty_prompt_and_leaves_the_mask(students):
    teacher = students["inpainting"][0]
    condition = teacher.example(3)
    null = teacher.denoiser.null_condition(condition)
    with torch.no_grad():
        empty = teacher.family.parts("text_encoder", "tokenizer").encode_prompt([""], "cpu", 1, False)[0]
    torch.testing.assert_close(null["text"], empty.expand(3, -1, -1))
    assert torch.equal(null["mask"], condition["mask"]) and torch.equal(null["masked"], condition["masked"])
    assert each(len, null) == {"text": 3, "mask": 3, "masked": 3}


def test_prompts_of_a_model(students):
    teacher, student, *_ = students["text-eps"]
    assert len(student.sample(prompts=PROMPTS, num_images=3, guidance_scale=2.0)) == 3
    with pytest.warns(UserWarning, match=r"11 tokens is cut to 8; not read: 'g h i'"):
        student.condition(prompts=["a b c d e f g h i"])
    for model, given, message in (
        (student, {"class_labels": [1]}, "takes prompts"),
        (student, {}, "no prompt"),
        (student, {"prompts": "a", "negative_prompt": "b"}, "negative prompt"),
        (student, {"prompts": "a", "image": object()}, "takes no image"),
        (students["latents"][1], {"prompts": "a"}, "takes class labels"),
        (students["inpainting"][1], {"prompts": "a"}, "needs image= and mask="),
    ):
        with pytest.raises(fewstep.InputError, match=message):
            model.sample(**given)
    options = {"steps": 2, "guidance_scale": 4.0}
    one, other = (
        teacher.with_negative_prompt(p).sample_tensor(teacher.condition(prompts="a"), **options).samples for p in (None, "zebra")
    )
    assert not torch.allclose(one, other)


def test_inpainting_takes_pictures(students):
    from PIL import Image

    student = students["inpainting"][1]
    image, mask = Image.new("RGB", (20, 20), "red"), Image.new("L", (20, 20), 255)
    condition = student.condition(prompts=PROMPTS, image=image, mask=mask)
    assert {name: tuple(v.shape) for name, v in condition.items()} == {
        "text": (2, 8, 12),
        "mask": (2, 1, 8, 8),
        "masked": (2, 4, 8, 8),
    }
    assert condition["mask"].eq(1).all()
    assert len(student.sample(prompts=PROMPTS, image=image, mask=mask, guidance_scale=2.0)) == 2


def test_a_student_without_terminal_signal(students, tmp_path):
    teacher = students["text-eps"][0]
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


def test_the_command_samples_prompts(students, tmp_path):
    _, _, folder, _ = students["text-eps"]
    words = ["sample", folder, "--prompt", "a cat", "--prompt", "dog", "--guidance-scale", "2", "--device", "cpu"]
    run_command(*words, "--out", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert (record["prompts"], record["evaluations"], record["steps"]) == (["a cat", "dog"], 2, 2)
    assert (tmp_path / "out" / "00001.png").is_file()
    _, said = run_command(*words, "--negative-prompt", "b", "--out", tmp_path / "other", expect=2)
    assert "negative prompt" in said and said.count("\n") == 1


@pytest.mark.parametrize("name", ["latents", "text-eps"])
def test_pictures_with_classes_become_latents_and_prompts(students, tmp_path, name):
    teacher = students[name][0]
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
            encoded(data, students["inpainting"][0])


def test_a_foreign_teacher_is_shown_and_its_distillation_planned(students):
    from fewstep.training.cost_estimate import plan
    from fewstep.training.describe import describe

    teacher = students["inpainting"][0]
    facts = describe(str(teacher.family.folder))
    assert (facts["kind"], facts["family"], facts["condition"]) == ("teacher", "stable_diffusion_inpainting", "text")
    planned = plan(load_recipe(None, CHANGES), teacher, probe=False)
    assert planned["parameters"] == facts["parameters"] + 8 * 256


def test_a_teacher_stored_in_half_precision_has_students_that_stock_pipelines_run(tmp_path):
    pipelines.text_pipeline(tmp_path / "whole")
    half = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "whole", dtype=torch.float16)
    half.save_pretrained(tmp_path / "half")
    teacher = fewstep.open_model(tmp_path / "half")
    student = next_student(student_of(load_recipe(None, {}), teacher), 2)
    student.denoiser.network.requires_grad_(False)
    student.save(tmp_path / "student")  # which compares it with the stock pipeline
    stock = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "student")
    assert {stock.unet.dtype, stock.text_encoder.dtype, stock.vae.dtype} == {torch.float32}
