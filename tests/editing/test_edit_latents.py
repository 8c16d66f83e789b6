"""Editing and inpainting with models of latents and prompts: the same as the stock pipelines, and known pixels to the bit."""

import time

import diffusers
import pytest
import torch

import fewstep
import pipelines
import unet_pipelines
from alone import untrained
from fewstep.editing.inpainting import condition_of, edge_of, inpaint
from fewstep.editing.sdedit import edit
from fewstep.editing.style_transfer import translate
from fewstep.evaluation.solvers import sample_baseline
from fewstep.models.sampling import to_images

INPAINT = "StableDiffusionInpaintPipeline"
KINDS = {
    "sd-eps": (pipelines.text_pipeline, "StableDiffusionImg2ImgPipeline"),
    "sd-v": (lambda folder: pipelines.text_pipeline(folder, "v_prediction"), "StableDiffusionImg2ImgPipeline"),
    "sdxl": (unet_pipelines.xl_pipeline, "StableDiffusionXLImg2ImgPipeline"),
    "nine": (lambda folder: pipelines.text_pipeline(folder, network=pipelines.unet(in_channels=9), pipeline=INPAINT), INPAINT),
}
X = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1
HOLE = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
HOLE[:, :, :, 6:] = True
PROMPTS = ["a cat", "dog"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """kind -> (folder of a student of two steps, folder of the same with the scale 2.5 baked in)."""
    torch.set_num_threads(1)
    root, made = tmp_path_factory.mktemp("latents"), {}
    for kind, (build, _) in KINDS.items():
        _, student = untrained(build(root / f"{kind}-teacher"))
        made[kind] = student.save(root / kind), student.bake(2.5).save(root / f"{kind}-baked")
    return made


def stock(folder, kind):
    """The stock pipeline of a folder, its checker and its bars off."""
    known = {"safety_checker": None, "requires_safety_checker": False} if kind != "sdxl" else {}
    made = getattr(diffusers, KINDS[kind][1]).from_pretrained(folder, use_safetensors=True, **known)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize("kind", ["sd-eps", "sd-v", "sdxl"])
def test_the_stock_image_to_image_pipeline_edits_the_same_folder_to_the_same_latents(folders, kind, start):
    for folder, scale in zip(folders[kind], (2.5, 1.0), strict=True):
        model = fewstep.open_model(folder)
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
        wanted = {"strength": start / 2, "guidance_scale": 2.5}
        ours = edit(model, X[:1], model.labels_or_prompts(PROMPTS, 1), noise=noise, **wanted)
        theirs = stock(folder, kind)(
            prompt=PROMPTS[0], image=model.family.to_latents(X[:1]), strength=start / 2, num_inference_steps=2, guidance_scale=scale,
            generator=torch.Generator().manual_seed(7), output_type="latent", return_dict=False,
        )[0]  # fmt: skip
        assert ours.evaluations == start
        torch.testing.assert_close(ours.samples, theirs, rtol=0, atol=1e-4)
        assert [image.size for image in ours.images()] == [(16, 16)]


def test_the_stock_inpainting_pipeline_fills_the_same_folder_to_the_same_picture(folders):
    folder = folders["nine"][0]
    model, noise = fewstep.open_model(folder), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    picture, mask = to_images(X)[0], to_images(HOLE[:1] * 2.0 - 1)[0]
    shown = (X[:1] * 127.5 + 127.5).round() / 127.5 - 1  # as the picture holds it
    condition = condition_of(model, shown, HOLE[:1], PROMPTS[:1])
    given = model.condition(prompts=PROMPTS[:1], image=picture, mask=mask)
    for name in given:
        torch.testing.assert_close(condition[name], given[name])
    theirs = stock(folder, "nine")(
        prompt=PROMPTS[0], image=picture, mask_image=mask, height=16, width=16, strength=1.0, num_inference_steps=2, guidance_scale=2.5,
        latents=noise, masked_image_latents=condition["masked"], output_type="pt", return_dict=False,
    )[0]  # fmt: skip
    ours, inside = inpaint(model, shown, HOLE[:1], condition, guidance_scale=2.5, noise=noise, feather=0), HOLE[:1].expand_as(shown)
    torch.testing.assert_close((ours.samples / 2 + 0.5).clamp(0, 1)[inside], theirs[inside], rtol=0, atol=1e-4)
    assert ours.samples[~inside].equal(shown[~inside])


@pytest.mark.parametrize("kind", ["sd-eps", "nine"])
@pytest.mark.parametrize("feather", [None, 0.0, 3.0])
def test_known_pixels_come_back_to_the_bit_after_decoding_and_the_edge_is_blended(folders, kind, feather):
    model = fewstep.open_model(folders[kind][0])
    assert edge_of(model) == 2  # pixels of a latent
    condition = condition_of(model, X, HOLE, PROMPTS)
    drawn = inpaint(model, X, HOLE, condition, guidance_scale=2.5, feather=feather, seed=1)
    sharp = inpaint(model, X, HOLE, condition, guidance_scale=2.5, feather=0, seed=1)
    known = 6 - int(2 if feather is None else feather)
    assert drawn.samples[..., :known].equal(X[..., :known])
    assert drawn.samples[..., 6:].equal(sharp.samples[..., 6:]) and not drawn.samples[..., 6:].equal(X[..., 6:])
    faded = (drawn.samples - X)[..., known:6].abs().mean((0, 1, 2))
    assert bool((faded > 0).all()) and faded.tolist() == sorted(faded.tolist())  # nearer to the mask, farther from the picture
    assert drawn.evaluations == 2


def test_a_mask_of_latents_is_open_wherever_white_touches_them(folders):
    model, seen = fewstep.open_model(folders["sd-eps"][0]), []
    model.denoiser.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    one = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    one[:, :, 5, 9] = True
    inpaint(model, X, one, model.labels_or_prompts(PROMPTS, 2), seed=1)
    inpaint(model, X, one.roll(1, 3), model.labels_or_prompts(PROMPTS, 2), seed=1)  # another pixel, in the next latent
    changed = (seen[1] - seen[3]).abs().amax((0, 1)) > 0
    assert set(map(tuple, changed.nonzero().tolist())) == {(2, 4), (2, 5)}


def test_seconds_are_those_of_the_network_without_encoding_and_decoding_pictures(tmp_path, monkeypatch):
    model, clock = fewstep.open_model(pipelines.text_pipeline(tmp_path / "teacher")), [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def later(seconds, function):
        def call(*arguments, **named):
            clock[0] += seconds
            return function(*arguments, **named)

        return call

    for name in ("to_latents", "to_images"):
        monkeypatch.setattr(type(model.family), name, later(1000.0, getattr(type(model.family), name)))
    network = model.denoiser.network
    monkeypatch.setattr(network, "forward", later(1.0, network.forward))
    condition = model.condition(prompts=PROMPTS)
    pictures = model.sample_tensor(condition, steps=4)
    pictures.pictures()
    drawn = [
        pictures,
        sample_baseline(model, "dpm++", condition, steps=4, guidance_scale=1.0, noise=pictures.noise),
        edit(model, X, condition, strength=1.0, steps=4),
        inpaint(model, X, HOLE, condition, steps=4),
    ]
    assert [one.seconds for one in drawn] == [4.0] * 4
    assert translate(model, model, X, condition, condition, steps=4, encoder_steps=3).seconds == 4 + 3
    assert clock[0] > 3000
