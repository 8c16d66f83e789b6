"""Networks that fill in: random masks, data whose conditions hold them, the class-conditional family, and both stages on it."""

import re

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from PIL import Image

import fewstep
import pipelines
from conftest import TINY
from fewstep.api import public
from fewstep.data.masks import SHAPES, SHARES, MaskedData, random_masks
from fewstep.editing.inpainting import condition_of, inpaint
from fewstep.errors import InputError
from fewstep.method.conditioning import leaf, take
from fewstep.method.guidance import embed_w
from fewstep.models.families.class_conditional_inpainting import ClassConditionalInpainting, ClassConditionalInpaintPipeline
from fewstep.models.sampling import to_images
from fewstep.training.distill import new_teacher
from fewstep.training.recipe import load_recipe
from fewstep.training.run_folder import write_cache
from tiny import LABELS, X, counted

FILLS = TINY | {"teach.inpainting": True, "data.name": "digits"}
HOLE = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
HOLE[:, :, 3:] = True


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A teacher and a run of its students, trained for a few updates."""
    folder = tmp_path_factory.mktemp("fills")
    teacher = fewstep.teach(load_recipe(None, FILLS), folder / "teacher", device="cpu", quiet=True)
    changes = {k: v for k, v in TINY.items() if not k.startswith("network")}
    settings = load_recipe(None, changes | {"data.name": "digits", "teacher.path": str(folder / "teacher")})
    fewstep.distill(recipe=settings, out=folder / "run", device="cpu", quiet=True)
    return teacher, folder


def moved(model):
    """The model with weights that say something: a few updates leave the last layer almost at zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.denoiser.network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return model


@pytest.mark.parametrize("size", [1, 5, 8, 33])
@pytest.mark.parametrize("kind", SHARES)
def test_no_mask_is_empty_and_only_one_kind_is_always_whole(size, kind):
    masks = random_masks(60, size, shares={kind: 1.0})
    assert masks.shape == (60, 1, size, size) and masks.dtype == torch.bool
    share = masks.flatten(1).float().mean(1)
    assert float(share.min()) > 0
    if size > 1:
        assert (float(share.max()) < 1) == (kind != "all")
    if kind in ("box", "half") and size == 33:
        assert float(share.min()) > 0.06 * 0.7 and 0.2 < float(share.mean()) < 0.6


def test_a_mask_is_a_function_of_seed_and_position_alone():
    whole = random_masks(20, 8, seed=3)
    assert whole[7:12].equal(random_masks(5, 8, seed=3, start=7))
    assert not whole.equal(random_masks(20, 8, seed=4))
    assert set(SHARES) == set(SHAPES) and sum(SHARES.values()) == pytest.approx(1)


def test_every_epoch_shows_a_picture_with_another_mask_and_never_what_is_under_it():
    pictures = fewstep.open_data(name="digits")
    data = MaskedData(pictures, ClassConditionalInpainting(), seed=5)
    x, condition = data.batch(30, 40)
    plain, labels = pictures.batch(30, 40)
    assert x.equal(plain) and condition["labels"].equal(labels)
    hole = condition["mask"].bool()
    assert condition["masked"].equal(torch.where(hole, 0.0, plain))
    assert not hole.equal(data.batch(30 + len(pictures), 40)[1]["mask"].bool())
    again = data.batch(35, 3)[1]
    assert all(again[name].equal(take(condition, slice(5, 8))[name]) for name in condition)


def test_both_stages_on_such_a_teacher(run):
    teacher, folder = run
    assert (teacher.info.family, teacher.info.condition, teacher.info.channels) == ("class_conditional_inpainting", "class", 1)
    assert teacher.denoiser.network.config["in_channels"] == 3
    student = fewstep.open_model(folder / "run", steps=2)
    assert (student.info.kind, student.info.steps, student.info.family) == ("student", 2, teacher.info.family)
    student, calls = counted(moved(student))
    drawn = inpaint(student, X, HOLE, condition_of(student, X, HOLE, ["3", 1, 4]), guidance_scale=2.0)
    assert calls == [3, 3] and drawn.evaluations == 2
    assert drawn.samples[:, :, :3].equal(X[:, :, :3])
    images = student.inpaint(to_images(X), to_images(HOLE * 2.0 - 1), [3], guidance_scale=2.0)
    assert [image.size for image in images] == [(8, 8)] * 3
    teacher, calls = counted(moved(teacher))
    assert inpaint(teacher, X, HOLE, condition_of(teacher, X, HOLE, [3]), steps=4, guidance_scale=2.0).evaluations == 8
    assert calls == [6] * 4


def test_the_network_sees_what_is_known_and_of_labels_alone_that_nothing_is(run):
    model = moved(public(new_teacher(load_recipe(None, FILLS), fewstep.open_data(name="digits"))))
    seen = []
    hook = model.denoiser.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    condition = condition_of(model, X, HOLE, [3])
    inpaint(model, X, HOLE, condition, steps=2, seed=1)
    assert seen[0][:, 1:2].bool().equal(HOLE) and seen[0][:, 2:].equal(torch.where(HOLE, 0.0, X))
    drawn = model.sample_tensor(LABELS, steps=2, guidance_scale=3.0)
    assert drawn.samples.shape == (3, 1, 8, 8)
    assert bool((seen[-1][:, 1] == 1).all() and (seen[-1][:, 2] == 0).all()) and len(seen[-1]) == 6
    inpaint(model, X, HOLE, LABELS, steps=2)  # the known part is put back, as with any other model
    hook.remove()
    null = model.denoiser.null_condition(condition)
    assert null["labels"].tolist() == [10] * 3 and null["masked"].equal(condition["masked"])
    assert model.denoiser.null_condition(LABELS).tolist() == [10] * 3


def test_the_stock_network_and_scheduler_fill_in_alike(run, tmp_path):
    _, folder = run
    model = moved(fewstep.open_model(folder / "run", steps=2))
    path, condition, noise = model.save(tmp_path / "student"), condition_of(model, X, HOLE, [3, 1, 4]), torch.randn(3, 1, 8, 8)
    network = UNet2DConditionModel.from_pretrained(path, subfolder="unet")
    scheduler, z = DDIMScheduler.from_pretrained(path, subfolder="scheduler"), noise
    scheduler.set_timesteps(2)
    for t in scheduler.timesteps:
        taken = torch.cat([z, condition["mask"], condition["masked"]], 1)
        with torch.no_grad():
            said = network(taken, t, None, class_labels=LABELS, timestep_cond=embed_w(torch.full((3,), 1.5), 256)).sample
        z = scheduler.step(said, t, z).prev_sample
    torch.testing.assert_close(model.sample_tensor(condition, guidance_scale=2.5, noise=noise).samples, z, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_an_onnx_file_of_it_takes_mask_and_picture(run, tmp_path):
    pytest.importorskip("onnxruntime")
    from fewstep.export.formats import export

    _, folder = run
    written = export(fewstep.open_model(folder / "run", steps=2), tmp_path / "network", format="onnx")
    code = re.findall(r"```python\n(.*?)```", (written / "README.md").read_text(), re.DOTALL)[0]
    drawn: dict = {}
    exec(code.replace('"network"', f'"{written}"'), drawn)
    assert {"labels", "mask", "masked"} <= set(drawn["inputs"])
    assert drawn["x"].shape == (2, 1, 8, 8)


def test_its_own_pipeline_returns_the_known_pixels(run, tmp_path):
    _, folder = run
    model = moved(fewstep.open_model(folder / "run", steps=2))
    pipeline = ClassConditionalInpaintPipeline.from_pretrained(model.save(tmp_path / "student"))
    picture, mask = to_images(X)[0], to_images(HOLE[:1] * 2.0 - 1)[0]
    drawn = pipeline([3, 4], picture, mask, num_inference_steps=2, guidance_scale=2.0, generator=torch.Generator().manual_seed(1))
    assert [image.size for image in drawn] == [(8, 8)] * 2
    for image in drawn:
        np.testing.assert_array_equal(np.asarray(image.convert("L"))[:3], np.asarray(picture)[:3])
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    x = torch.from_numpy(np.asarray(picture).copy())[None, None].float() / 127.5 - 1
    pictures, holes = x.expand(2, -1, -1, -1), HOLE[:2]
    ours = inpaint(model, pictures, holes, condition_of(model, pictures, holes, [3, 4]), guidance_scale=2.0, noise=noise).images()
    for one, other in zip(ours, drawn, strict=True):
        assert abs(np.asarray(one).astype(int) - np.asarray(other.convert("L")).astype(int)).max() <= 1


def test_pictures_with_captions_distil_a_text_network_of_nine_channels(tmp_path):
    network = pipelines.unet(in_channels=9)
    folder = pipelines.text_pipeline(tmp_path / "nine", network=network, pipeline="StableDiffusionInpaintPipeline")
    rng = np.random.default_rng(0)
    for k in range(4):
        (tmp_path / "data" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "data" / "ab"[k % 2] / f"{k}.png")
    changes = {"stage_one.updates": 2, "stage_two.ladder": [2, 1], "stage_two.last_updates": 1, "train.batch_size": 3}
    student = fewstep.distill(folder, data=str(tmp_path / "data"), out=tmp_path / "run", changes=changes, device="cpu", quiet=True)
    assert (student.info.family, student.info.steps) == ("stable_diffusion_inpainting", 1)
    data = MaskedData(fewstep.open_data(path=str(tmp_path / "data")), student.family, 0, student, batch=2)
    z, condition = data.batch(0, 5)
    assert z.shape == (5, 4, 8, 8)
    assert {name: tuple(v.shape) for name, v in condition.items()} == {
        "text": (5, 8, 12), "mask": (5, 1, 8, 8), "masked": (5, 4, 8, 8),
    }  # fmt: skip
    x, _ = data.data.batch(0, 5)
    known = student.family.to_latents(torch.where(random_masks(5, 16), 0.0, x))
    torch.testing.assert_close(condition["masked"], known)


def test_what_such_networks_refuse(run, tmp_path):
    teacher, folder = run
    with pytest.raises(InputError, match=r"give pictures and masks to model\.inpaint"):
        teacher.sample([3], image=to_images(X)[0], mask=to_images(X)[0])
    with pytest.raises(InputError, match="takes class labels, no prompts"):
        teacher.sample(prompts="a cat")
    for key in ("prompts", "cache"):
        settings = load_recipe(None, {f"data.{key}": "somewhere", "teacher.path": str(folder / "teacher")})
        with pytest.raises(InputError, match=rf"data\.{key}: a network that fills in needs pictures"):
            fewstep.distill(recipe=settings, out=tmp_path / "out", device="cpu", quiet=True)
    settings = load_recipe(None, {"data.name": "digits", "teacher.path": str(folder / "teacher")})
    with pytest.raises(InputError, match=r"this teacher fills in.*nothing to cache"):
        write_cache(settings, tmp_path / "cache", device="cpu", quiet=True)


def test_guided_inputs_come_with_masks(run, tmp_path):
    changes = {k: v for k, v in TINY.items() if not k.startswith("network")} | {"data.name": "digits"}
    changes |= {"stage_one.guided_inputs": 0.5, "stage_two.guided_inputs": 0.5, "stage_two.ladder": [2, 1]}
    changes |= {"teacher.path": str(run[1] / "teacher"), "stage_one.updates": 1, "stage_two.last_updates": 1}
    student = fewstep.distill(recipe=load_recipe(None, changes), out=tmp_path / "run", device="cpu", quiet=True)
    assert len(leaf(student.example(4))) == 4
