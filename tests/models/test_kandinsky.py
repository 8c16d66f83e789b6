"""What is peculiar to Kandinsky 2.2: its prior, and the pipelines that begin with it or with a picture."""

import json

import diffusers
import pytest
import torch

import fewstep
import unet_pipelines
from alone import halfway, samples_alone, untrained

SIDES = {"height": 16, "width": 16}
PRIOR = {"prior_num_inference_steps": 3, "prior_guidance_scale": 2.0}
ARGUMENTS = {"num_inference_steps": 2, "guidance_scale": 1.0} | SIDES


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("kandinsky")
    teacher, student = untrained(unet_pipelines.kandinsky_pipeline(root / "pipeline"))
    return teacher, student, student.save(root / "student"), student.bake(2.5).save(root / "baked")


@pytest.fixture
def alone(tmp_path):
    """A folder of the decoder without its prior."""
    return unet_pipelines.kandinsky_pipeline(tmp_path / "alone", whole=False)


def test_the_stock_pipelines_alone_give_our_samples(students, tmp_path):
    conditioned, baked = (fewstep.open_model(folder) for folder in students[2:])
    generator = torch.Generator().manual_seed(7)
    condition = baked.condition(prompts=["a cat"], generator=generator, **PRIOR)
    noise = torch.randn(1, 4, 8, 8, generator=generator)  # drawn after the prior's, as the stock pipeline of both does
    ours, same = (m.sample_tensor(condition, noise=noise, guidance_scale=2.5).samples for m in (baked, conditioned))
    torch.testing.assert_close(ours, same, atol=1e-5, rtol=0)
    embeddings = {"image_embeds": condition["image"], "negative_image_embeds": condition["image"] + 1}  # the latter must not count
    whole = {"pipeline": "KandinskyV22CombinedPipeline", "arguments": ARGUMENTS | PRIOR | {"prompt": ["a cat"]}, "seed": 7}
    x, half = torch.rand(1, 3, 16, 16) * 2 - 1, ARGUMENTS | {"strength": 0.5}
    jobs = [
        ({"folder": students[3], "pipeline": "KandinskyV22Pipeline", "arguments": ARGUMENTS}, {"noise": noise} | embeddings),
        ({"folder": students[3]} | whole, {}),
        (
            {"folder": students[3], "pipeline": "KandinskyV22Img2ImgPipeline", "arguments": half, "seed": 7},
            {"image": x} | embeddings,
        ),
    ]
    edited = halfway(baked, baked.family.to_latents(x), condition, 7)
    for stock, own in zip(samples_alone(tmp_path, jobs), (ours, ours, edited), strict=True):
        assert (own - stock).abs().max() < 1e-4
    assert ours.std() > 0.1


def test_the_teacher_is_guided_away_from_a_black_picture_as_the_stock_pipeline_is(students):
    teacher = students[0]
    stock = diffusers.KandinskyV22CombinedPipeline.from_pretrained(teacher.family.folder, use_safetensors=True)
    stock.set_progress_bar_config(disable=True)
    embeddings = stock.prior_pipe(["a cat"], num_inference_steps=3)
    torch.testing.assert_close(
        teacher.denoiser.null_condition({"image": torch.zeros(1, 12)})["image"], embeddings.negative_image_embeds
    )
    decoder = stock.decoder_pipe
    decoder.scheduler = teacher.family.scheduler(teacher.denoiser.process, teacher.denoiser.predicts)
    noise = torch.randn(1, 4, 8, 8)
    settings = {"latents": noise, "num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent"} | SIDES
    theirs = decoder(**embeddings, **settings).images
    ours = teacher.sample_tensor({"image": embeddings.image_embeds}, steps=4, guidance_scale=3.0, noise=noise).samples
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_latents_are_those_of_the_stock_pipelines(students):
    family, x = students[0].family, torch.rand(2, 3, 16, 16) * 2 - 1
    z, movq = family.to_latents(x), diffusers.VQModel.from_pretrained(family.folder, subfolder="movq")
    with torch.no_grad():
        torch.testing.assert_close(z, movq.encode(x).latents)
        torch.testing.assert_close(family.to_images(z), movq.decode(z, force_not_quantize=True).sample)


def test_a_decoder_without_its_prior(alone, tmp_path):
    teacher = fewstep.open_model(alone)
    plain = teacher.sample_tensor(teacher.example(2), steps=2)
    assert (plain.samples.shape, plain.evaluations) == ((2, 4, 8, 8), 2)
    saved = json.loads((teacher.save(tmp_path / "saved") / "model_index.json").read_text())
    assert saved["_class_name"] == "KandinskyV22Pipeline"
    for work in (lambda: teacher.sample_tensor(teacher.example(1), guidance_scale=2.0), lambda: teacher.condition(prompts="a")):
        with pytest.raises(fewstep.InputError, match=r"no prior.*AutoPipelineForText2Image"):
            work()


def test_the_prior_is_refused_because_of_its_scheduler(tmp_path):
    prior = diffusers.KandinskyV22PriorPipeline(**unet_pipelines.prior_parts())
    prior.save_pretrained(tmp_path / "prior")
    with pytest.raises(fewstep.InputError, match=r"UnCLIPScheduler.*distil the decoder") as error:
        fewstep.open_model(tmp_path / "prior")
    assert "\n" not in str(error.value)
    prior.set_progress_bar_config(disable=True)
    prior.scheduler = diffusers.DDIMScheduler()  # the reasons: no other scheduler takes what the pipeline gives, and this one
    with pytest.raises(TypeError, match="prev_timestep"):
        prior("a", num_inference_steps=2)
    prior.scheduler = diffusers.UnCLIPScheduler(prediction_type="sample")  # is random from equal noise, and knows no single step
    drawn = [prior("a", latents=torch.ones(1, 12), num_inference_steps=4, guidance_scale=1.0).image_embeds for _ in range(2)]
    assert not torch.allclose(*drawn)
    with pytest.raises(ZeroDivisionError):
        prior("a", num_inference_steps=1)


def test_what_a_condition_takes(students):
    student = students[1]
    with pytest.warns(UserWarning, match=r"cut to 8; not read: 'g h i'"):
        student.condition(prompts=["a b c d e f g h i"], **PRIOR)
    torch.testing.assert_close(student.condition(prompts=["a"], **PRIOR), student.condition(prompts=["a"], **PRIOR))
