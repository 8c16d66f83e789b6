"""Stable Diffusion XL: its students in the stock pipelines, text to image, image to image and inpainting, in a process without fewstep."""

import json
import shutil

import pytest
import torch

import fewstep
import unet_pipelines
from alone import distilled, halfway, samples_alone
from fewstep.method.conditioning import take

XL, INPAINT = "StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"
GUIDED = {"prompt": ["a cat"], "num_inference_steps": 2, "guidance_scale": 2.5}


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("sdxl")
    nine = unet_pipelines.xl_pipeline(root / "nine", in_channels=9, pipeline=INPAINT)
    return {
        "text": distilled(unet_pipelines.xl_pipeline(root / "plain"), root / "text"),
        "inpainting": distilled(nine, root / "inpainting"),
    }


def condition_of(name, student):
    condition = (
        student.condition(prompts=["a cat"], original_size=(16, 16)) if name == "text" else take(student.example(1), slice(1))
    )
    return condition | (student.family.null(student.info, "a cat")() | {"sizes": torch.tensor([[16.0, 16, 0, 0, 16, 16]])})


@pytest.fixture(scope="module")
def samples(students, tmp_path_factory):
    """(name, kind) -> (our latents, those of diffusers alone)."""
    noise, jobs, ours = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7)), [], {}
    for name, (_, student, *folders) in students.items():
        condition = condition_of(name, student)
        for kind, folder in zip(("conditioned", "baked"), folders, strict=True):
            model = fewstep.open_model(folder)
            ours[name, kind] = model.sample_tensor(condition, guidance_scale=2.5, noise=noise).samples
            arguments = GUIDED | ({} if kind == "conditioned" else {"guidance_scale": 1.0})
            tensors = {"noise": noise}
            if name == "inpainting":
                mask = condition["mask"].repeat_interleave(2, 2).repeat_interleave(2, 3)
                tensors |= {"mask_image": mask, "image": torch.zeros(1, 3, 16, 16), "masked_image_latents": condition["masked"]}
                arguments = arguments | {"strength": 1.0}
            jobs.append(({"folder": folder, "pipeline": XL if name == "text" else INPAINT, "arguments": arguments}, tensors))
    return dict(zip(ours, zip(ours.values(), samples_alone(tmp_path_factory.mktemp("jobs"), jobs), strict=True), strict=True))


@pytest.mark.parametrize("kind", ["conditioned", "baked"])
@pytest.mark.parametrize("name", ["text", "inpainting"])
def test_the_stock_pipeline_alone_gives_our_samples(samples, name, kind):
    ours, stock = samples[name, kind]
    assert (ours - stock).abs().max() < 1e-4
    assert ours.std() > 0.1
    torch.testing.assert_close(samples[name, "baked"][0], samples[name, "conditioned"][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("pipeline", "kind"), [("StableDiffusionXLImg2ImgPipeline", 0), ("StableDiffusionXLImg2ImgPipeline", 1), (INPAINT, 0)]
)
def test_the_same_folder_runs_in_the_pipelines_that_begin_with_a_picture(students, tmp_path, pipeline, kind):
    _, student, *folders = students["text"]
    kept, mask = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.ones(1, 1, 16, 16)
    tensors = {"image": kept} | ({"mask_image": mask} if pipeline == INPAINT else {})  # all is painted: every latent counts
    arguments = GUIDED | {"strength": 0.5} | ({"guidance_scale": 1.0} if kind else {})
    job = {"folder": folders[kind], "pipeline": pipeline, "arguments": arguments, "seed": 7}
    (stock,) = samples_alone(tmp_path, [(job, tensors)])
    ours = halfway(student, kept, condition_of("text", student), 7, torch.tensor([1.5]))
    assert (ours - stock).abs().max() < 1e-4


def test_a_student_starts_as_its_conditional_teacher_and_takes_one_evaluation_a_step(students):
    teacher, student, *_ = students["text"]
    fresh = teacher.family.student_of(teacher.denoiser.network)
    z, t, condition = torch.randn(3, 4, 8, 8), torch.tensor([5.0, 400.0, 999.0]), teacher.example(3)
    with torch.no_grad():
        said = [
            teacher.family.call(n, z, t, condition, w) for n, w in ((teacher.denoiser.network, None), (fresh, torch.rand(3) * 9))
        ]
    assert torch.equal(*said)
    for model, evaluations, rows in ((student, 2, [3, 3]), (teacher, 4, [6, 6])):
        seen = []
        hook = model.denoiser.network.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(len(inputs[0])))
        drawn = model.sample_tensor(model.example(3), steps=2, guidance_scale=2.0)
        hook.remove()
        assert (seen, drawn.evaluations) == (rows, evaluations)
        assert [image.size for image in drawn.images()] == [(16, 16)] * 3


def test_every_part_of_the_condition_counts(students):
    student = students["text"][1]
    condition = student.example(2)
    plain = student.sample_tensor(condition).samples
    for name in ("text", "pooled", "sizes"):
        assert not torch.allclose(student.sample_tensor(condition | {name: condition[name] + 1}).samples, plain), name


def test_what_the_saved_scheduler_says(students):
    said = json.loads((students["text"][2] / "scheduler" / "scheduler_config.json").read_text())
    wanted = {
        "_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "timestep_spacing": "trailing", "set_alpha_to_one": True,
        "clip_sample": False, "steps_offset": 1, "thresholding": False, "rescale_betas_zero_snr": False, "num_train_timesteps": 1000,
    }  # fmt: skip
    assert {name: said[name] for name in wanted} == wanted


def test_sizes_and_prompts(students):
    teacher, student, *_ = students["text"]
    condition = student.condition(prompts=["a", "b"], crops_coords_top_left=(3, 4), target_size=(8, 9))
    assert condition["sizes"].tolist() == [[16, 16, 3, 4, 8, 9]] * 2
    assert {name: tuple(v.shape) for name, v in condition.items()} == {"text": (2, 8, 20), "pooled": (2, 10), "sizes": (2, 6)}
    with pytest.raises(fewstep.InputError, match="takes no image"):
        student.condition(prompts=["a"], image=object())
    with pytest.warns(UserWarning, match=r"cut to 8; not read: 'g h i'"):
        student.condition(prompts=["a b c d e f g h i"])
    assert len(student.sample(prompts=["a", "b"], num_images=3, guidance_scale=2.0)) == 3
    one, other = (
        teacher.with_negative_prompt(p).sample_tensor(condition, steps=2, guidance_scale=4.0).samples for p in (None, "zebra")
    )
    assert not torch.allclose(one, other)


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


@pytest.mark.parametrize(
    ("file", "keys", "message"),
    [
        ("unet/config.json", {"time_cond_proj_dim": 256}, "guidance-distilled already"),
        ("scheduler/scheduler_config.json", {"_class_name": "LCMScheduler"}, r"distilled already \(LCMScheduler\)"),
        ("model_index.json", {"requires_aesthetics_score": True}, "is a refiner"),
        ("text_encoder/config.json", {"hidden_size": 16}, "text encoders' features are 24, the network takes 20"),
        ("text_encoder_2/config.json", {"projection_dim": 12}, "pooled text's features are 12, the network takes 10"),
        ("vae/config.json", {"latent_channels": 16}, "latents are 16, the network takes 4"),
        ("vae/config.json", {"latents_mean": [0, 0, 0, 0]}, "latents_mean is not known"),
    ],
)
def test_what_is_no_teacher_is_refused_in_one_line(students, tmp_path, file, keys, message):
    folder = shutil.copytree(students["text"][0].family.folder, tmp_path / "copy")
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | keys))
    with pytest.raises(fewstep.InputError, match=message) as error:
        fewstep.open_model(folder)
    assert "\n" not in str(error.value)
