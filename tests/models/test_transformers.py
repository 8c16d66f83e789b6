"""What is peculiar to DiT, PixArt and Stable Diffusion 3: the layer for w in their students, and scales as labels of a DiT."""

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fewstep
import transformer_pipelines as tiny
from alone import samples_alone, untrained
from family_cases import SCALE, SEED, drawn, noise_of
from fewstep.export.formats import export, scales_as_labels
from tiny import CHANGES

PROMPT = ["a cat"]
BUILD = {
    "dit": lambda folder: tiny.dit_pipeline(folder, names={str(i): f"{name}, a {name}" for i, name in enumerate("pqrst")}),
    "pixart": tiny.pixart_pipeline,
    "sd3": tiny.sd3_pipeline,
}


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """name -> (teacher, student of 2 steps)."""
    root = tmp_path_factory.mktemp("transformers")
    return {name: untrained(build(root / name)) for name, build in BUILD.items()}


@pytest.mark.parametrize("name", BUILD)
def test_a_scale_is_baked_exactly(students, name):
    student = students[name][1]
    student = replace(student, denoiser=replace(student.denoiser, network=copy.deepcopy(student.denoiser.network).double()))
    one, other = (drawn(model, student.example(3), noise_of(student, 3)) for model in (student.bake(SCALE), student))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)  # samples are given in float32


def shown(model, samples):
    """Pictures between 0 and 1, as the pipelines give them."""
    return (model.decode(samples) / 2 + 0.5).clamp(0, 1)


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


def test_a_dit_with_several_scales_as_labels(students, tmp_path):
    student, noise = students["dit"][1], noise_of(students["dit"][1], 2)
    folder = export(student, tmp_path / "scales", guidance_scale=[1.5, SCALE, 4])
    assert "baked into the class labels" in (folder / "README.md").read_text()
    labels = [1 * 5 + 1, 2 * 5 + 3]
    arguments = {"num_inference_steps": 2, "guidance_scale": 1.0, "class_labels": labels, "output_type": "pt"}
    (stock,) = samples_alone(tmp_path, [({"folder": folder, "pipeline": "DiTPipeline", "arguments": arguments, "seed": SEED}, {})])
    pairs = zip(noise.split(1), (1, 3), (SCALE, 4.0), strict=True)
    ours = [student.sample_tensor(torch.tensor([c]), guidance_scale=s, noise=z).samples for z, c, s in pairs]
    assert (shown(student, torch.cat(ours)) - stock).abs().max() < 1e-4
    many = fewstep.open_model(folder)
    assert len(many.info.classes) == 15 and many.labels(["q at 2.5, a q at 2.5"]).tolist() == [6]
    same = many.sample_tensor(torch.tensor(labels), noise=noise).samples
    torch.testing.assert_close(same, torch.cat(ours), atol=1e-5, rtol=0)
    import diffusers

    assert diffusers.DiTPipeline.from_pretrained(folder).get_label_ids(["a s at 4"]) == [13]
    with pytest.raises(fewstep.InputError, match="outside the range"):
        scales_as_labels(student, [2, 90])
    with pytest.raises(fewstep.InputError, match="only a DiT holds several"):
        scales_as_labels(students["sd3"][1], [2])


def test_a_guided_teacher_says_what_the_stock_pipeline_says(students):
    import diffusers

    teacher = students["pixart"][0]
    noise = noise_of(teacher)
    ours = teacher.sample_tensor(teacher.condition(prompts=PROMPT), steps=4, guidance_scale=3.0, noise=noise).samples
    pipeline = diffusers.PixArtSigmaPipeline.from_pretrained(teacher.save(Path(teacher.family.folder).parent / "again"))
    choices = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent", "use_resolution_binning": False}
    stock = pipeline(PROMPT, latents=noise, **choices).images
    torch.testing.assert_close(ours, stock, atol=1e-3 * float(stock.abs().max()), rtol=0)


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
