"""Negative prompts of students: learnt from the teacher's second branch, told by one layer more, baked into a bias."""

import gc
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import fewstep
import flow_pipelines
import pipelines
import transformer_pipelines
import unet_pipelines
from alone import samples_alone
from command_line import command, refused
from family_cases import SLOW
from fewstep.models.negative_prompts import LEAF, WEIGHTS, embeddings
from fewstep.training.distill import student_of
from fewstep.training.draws import Draws
from fewstep.training.examples import negative_prompts_of
from fewstep.training.losses import stage_one
from fewstep.training.recipe import load_recipe
from tiny import CHANGES, InMemory, Made, watched_parts

AVOIDED = ["cat", "dog", "owl"]
FAMILIES = {
    "stable_diffusion": pipelines.text_pipeline,
    "stable_diffusion_xl": unet_pipelines.xl_pipeline,
    "deepfloyd_if": unet_pipelines.if_pipeline,
    "kandinsky": unet_pipelines.kandinsky_pipeline,
    "pixart": transformer_pipelines.pixart_pipeline,
    "stable_diffusion_3": transformer_pipelines.sd3_pipeline,
    "flux": flow_pipelines.flux_pipeline,
    "qwen_image": flow_pipelines.qwen_pipeline,
    "wan": flow_pipelines.wan_pipeline,
}
SCALE = 2.5


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """The changes of a recipe with a list of negative prompts."""
    file = tmp_path_factory.mktemp("list") / "negative.txt"
    file.write_text("\n".join(AVOIDED))
    return CHANGES | {"student.negative_prompts": True, "data.negative_prompts": str(file)}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("teachers")
    return Made(lambda name: fewstep.open_model((FAMILIES | SLOW)[name](root / name)))


@pytest.fixture(scope="module")
def run(teachers, listed, tmp_path_factory):
    """(student of Stable Diffusion of 2 steps, its layer doing something, the run's folder)."""
    teacher, out = teachers["stable_diffusion"], tmp_path_factory.mktemp("run") / "run"
    return awake(fewstep.distill(teacher, InMemory(teacher), out=out, changes=listed, device="cpu", quiet=True)), out


def awake(student):
    """The same student, its layer doing something."""
    for layer in embeddings(student.denoiser.network):
        torch.nn.init.normal_(layer.weight, std=1.0, generator=torch.Generator().manual_seed(3))
    return student


def drawn(model, condition=None, **choices):
    noise = torch.randn(2, *model.info.shape, generator=torch.Generator().manual_seed(7))
    return model.sample_tensor(model.example(2) if condition is None else condition, noise=noise, **choices).samples


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_student_starts_as_the_conditional_teacher_and_a_negative_prompt_is_baked_exactly(teachers, listed, name):
    teacher, recipe = teachers[name], load_recipe(None, listed)
    negatives = negative_prompts_of(recipe, teacher)
    assert len(negatives.summaries) == 4 and not negatives.summaries[0].any() and negatives.summaries[1:].abs().sum(1).min() > 0
    plain = student_of(recipe, teacher, negatives)  # which checks, to the bit, that it starts as the conditional teacher
    assert plain.info.negative_prompts and all(layer.weight.requires_grad for layer in embeddings(plain.denoiser.network))
    awake(plain)

    def of_rows(*rows):
        return drawn(plain, condition=negatives.add_to(plain.example(2), torch.tensor(rows)), **options)

    options = {"steps": 2, "guidance_scale": SCALE}
    assert torch.equal(drawn(plain, **options), of_rows(0, 0)) and not torch.allclose(of_rows(0, 0), of_rows(1, 2))
    student = plain.with_negative_prompt("dog")
    ours, baked = drawn(student, **options), student.bake(SCALE)
    limit = 1e-5 * float(ours.abs().max().clamp(min=1))
    for same in (of_rows(2, 2), drawn(student.fold_negative_prompt(), **options), drawn(baked, **options)):
        assert (same - ours).abs().max() < limit
    assert (drawn(plain, **options) - ours).abs().max() > 100 * limit
    assert torch.equal(drawn(plain.fold_negative_prompt(plain=True), **options), drawn(plain, **options))
    assert baked.denoiser.network.state_dict().keys() == teacher.denoiser.network.state_dict().keys()


@pytest.mark.slow
def test_stage_one_learns_what_the_teacher_guided_away_from_it_says(listed, tmp_path):
    """Of three targets that differ in the negative prompt alone, a student that is not told it can say their mean at best."""
    teacher = fewstep.open_model(pipelines.text_pipeline(tmp_path / "pipeline", "v_prediction"))
    with torch.no_grad():
        for name, p in teacher.denoiser.network.named_parameters():
            p.mul_(6 if "attn2.to_out" in name or "attn2.to_v" in name else 1)  # a text that counts
    recipe = load_recipe(None, listed | {"stage_one.balance": 0.0})
    negatives = negative_prompts_of(recipe, teacher)
    student, stage = student_of(recipe, teacher, negatives), stage_one(recipe, teacher, None, negatives)
    x, noise = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(k)).repeat(3, 1, 1, 1) for k in (1, 2))
    batch = {"x": x, "noise": noise, "condition": {"text": teacher.example(2)["text"].repeat(3, 1, 1)}, "w": torch.full((6,), 3.0)}
    batch |= {"t": torch.full((6,), 0.5).double(), "negative_index": torch.arange(1, 4).repeat_interleave(2)}
    targets = teacher.denoiser.guided(None, negatives.null(batch["negative_index"]))
    with torch.no_grad():
        alpha, sigma = teacher.denoiser.process.at(batch["t"], x)
        said = targets(alpha * x + sigma * noise, batch["t"], batch["condition"], batch["w"]).unflatten(0, (3, 2))
        least = (said - said.mean(0)).square().mean() / sigma.flatten()[0] ** 2  # as stage one weighs it
    optimizer = torch.optim.AdamW(student.denoiser.network.parameters(), lr=1e-2, weight_decay=0)
    for _ in range(80):
        optimizer.zero_grad()
        loss = stage.error(student.denoiser, batch).mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.5 * least


def test_what_stage_one_draws(teachers, listed):
    recipe = load_recipe(None, listed | {"student.negative_share": 0.25})
    teacher = teachers["stable_diffusion"]
    negatives = negative_prompts_of(recipe, teacher)
    index = stage_one(recipe, teacher, None, negatives).draw(Draws(0, "stage-one", 0, 4000))["negative_index"]
    counts = torch.bincount(index, minlength=4) / 4000
    assert (counts - torch.tensor([0.75, 0.25 / 3, 0.25 / 3, 0.25 / 3])).abs().max() < 0.02
    condition = teacher.example(2)
    null = negatives.null(torch.tensor([0, 2]))(condition)
    for row, prompt in enumerate(("", "dog")):
        torch.testing.assert_close(null["text"][row], teacher.family.null(teacher.info, prompt)()["text"][0])
    seen, student = [], student_of(recipe, teacher, negatives)
    stage = stage_one(recipe, teacher, None, negatives)
    x = torch.randn(4, 4, 8, 8)
    batch = stage.draw(Draws(1, "stage-one", 0, 4)) | {"x": x, "noise": x, "condition": teacher.example(4)}
    batch["negative_index"] = torch.tensor([3, 1, 0, 0])
    hook = teacher.denoiser.network.register_forward_pre_hook(lambda _, given: seen.append(given[2]))
    assert stage.error(student.denoiser, batch).shape == (4,)
    hook.remove()
    torch.testing.assert_close(seen[0][4:], negatives.encoded["text"][batch["negative_index"]])  # the second branch


def test_a_run_its_folder_and_the_stock_pipeline(run, tmp_path):
    student, out = run
    assert (out / "stage-one" / WEIGHTS).is_file() and (out / "steps-0002" / WEIGHTS).is_file()
    one, two = (load_file(out / stage / WEIGHTS)["weight"] for stage in ("stage-one", "steps-0002"))
    assert one.any() and not torch.equal(one, two)  # both stages trained it
    folder = student.save(tmp_path / "student")
    again = fewstep.open_model(folder)
    chosen = again.with_negative_prompt("dog")
    assert again.info.negative_prompts and "it takes a negative prompt" in (folder / "README.md").read_text()
    assert len(student.sample(prompts="a", negative_prompt="dog", guidance_scale=SCALE)) == 1
    kept, same, plain = (drawn(m, guidance_scale=SCALE) for m in (chosen, student.with_negative_prompt("dog"), again))
    assert torch.equal(kept, same) and not torch.allclose(kept, plain)
    baked, folded = chosen.bake(SCALE).save(tmp_path / "baked"), chosen.save(tmp_path / "folded")
    assert not (baked / WEIGHTS).exists() and not (folded / WEIGHTS).exists()
    assert not fewstep.open_model(folded).info.negative_prompts
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    condition, jobs, ours = again.condition(prompts="a cat"), [], []
    for place, scale, model in ((folder, SCALE, again), (folded, SCALE, chosen), (baked, 1.0, chosen)):
        arguments = {"prompt": ["a cat"], "num_inference_steps": 2, "guidance_scale": scale, "negative_prompt": ["owl"]}  # not read
        jobs.append(({"folder": place, "pipeline": "StableDiffusionPipeline", "arguments": arguments}, {"noise": noise}))
        ours.append(model.sample_tensor(condition, noise=noise, guidance_scale=SCALE).samples)
    for own, stock in zip(ours, samples_alone(tmp_path, jobs), strict=True):
        assert (own - stock).abs().max() < 1e-4


def test_editing_and_the_commands_take_it_too(run, tmp_path, capsys):
    student, _ = run
    folder = student.save(tmp_path / "student")
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one, other = (m.edit(x, ["a"], strength=0.5, guidance_scale=SCALE)[0] for m in (student, student.with_negative_prompt("dog")))
    assert one.tobytes() != other.tobytes()
    words = ["--prompt", "a cat", "--guidance-scale", "2", "--device", "cpu"]
    command(capsys, "sample", folder, *words, "--negative-prompt", "dog", "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["negative_prompt"] == "dog"
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    Image.new("L", (16, 16), 255).save(tmp_path / "mask.png")
    for verb, *more in (("edit", "--strength", "0.5"), ("inpaint", "--mask", tmp_path / "mask.png")):
        shown = []
        for name, kept in (("plain", []), ("kept", ["--negative-prompt", "dog"])):
            out = tmp_path / f"{verb}-{name}"
            command(capsys, verb, folder, "--image", tmp_path / "red.png", *more, *words, *kept, "--out", out)
            shown.append((out / "00000.png").read_bytes())
        assert shown[0] != shown[1]
        assert json.loads((tmp_path / f"{verb}-kept" / "samples.json").read_text())["negative_prompt"] == "dog"
    command(capsys, "export", folder, tmp_path / "plain", "--negative-prompt", "dog", "--guidance-scale", "2")
    exported = fewstep.open_model(tmp_path / "plain")
    assert (drawn(exported) - drawn(student.with_negative_prompt("dog"), guidance_scale=2.0)).abs().max() < 1e-5
    assert "negative_prompts = true" in refused(capsys, "export", tmp_path / "plain", tmp_path / "no", "--negative-prompt", "dog")


@pytest.mark.slow
def test_a_lora_student_learns_it_too(teachers, listed, tmp_path):
    from fewstep.export.lora_file import write_loras

    teacher, changes = teachers["stable_diffusion"], listed | {"student.lora.rank": 3}
    student = awake(fewstep.distill(teacher, InMemory(teacher), out=tmp_path / "run", changes=changes, device="cpu", quiet=True))
    again = fewstep.open_model(student.save(tmp_path / "again")).with_negative_prompt("dog")
    assert torch.equal(drawn(again, guidance_scale=SCALE), drawn(student.with_negative_prompt("dog"), guidance_scale=SCALE))
    assert (load_file(tmp_path / "run" / "steps-0002" / "adapters.safetensors")["negative_embedding.weight"] != 0).any()
    lora = load_file(write_loras(again, tmp_path / "lora", [SCALE])[0])
    assert lora["unet.time_embedding.linear_2.lora_B.bias"].any()  # the negative prompt, as the scale is in linear_1's
    assert not any(LEAF in key for key in lora)


def test_encoders_leave_memory_and_resumed_runs_go_on(teachers, listed, tmp_path, monkeypatch):
    teacher = teachers["stable_diffusion"]
    (tmp_path / "prompts.txt").write_text("a cat\ndog")
    changes, parts = listed | {"data.prompts": str(tmp_path / "prompts.txt"), "data.sampling_steps": 2}, watched_parts(monkeypatch)
    made, again = (
        fewstep.distill(str(teacher.family.folder), out=tmp_path / "run", changes=changes, device="cpu", quiet=True)
        for _ in range(2)
    )
    gc.collect()
    assert parts and not any(part() for part in parts)  # neither text encoder nor VAE
    assert torch.equal(drawn(made, guidance_scale=SCALE), drawn(again, guidance_scale=SCALE))


def test_what_cannot_have_negative_prompts_is_refused_in_one_line(teachers, listed, tmp_path, capsys):
    folder, file = teachers["stable_diffusion"].family.folder, listed["data.negative_prompts"]
    on, prompts, out = "student.negative_prompts=true", tmp_path / "prompts.txt", tmp_path / "run"
    prompts.write_text("a")
    for message, *chosen in (
        ("needs a list: set data.negative_prompts", on),
        ("data.negative_prompts is a list for student.negative_prompts", f"data.negative_prompts={file}"),
        ("set data.negative_prompts to a text file", on, "data.negative_prompts=nothing.txt"),
    ):
        words = [word for key in chosen for word in ("--set", key)]
        assert message in refused(capsys, "distill", "--teacher", folder, "--prompts", prompts, "--out", out, *words)
    classes = fewstep.open_model(pipelines.class_pipeline(tmp_path / "classes", latent=True))
    with pytest.raises(fewstep.InputError, match=r"takes class labels: set student\.negative_prompts to false"):
        negative_prompts_of(load_recipe(None, listed), classes)
    flux = student_of(load_recipe(None, CHANGES), teachers["flux"])
    with pytest.raises(fewstep.InputError, match=r"distil with student\.negative_prompts = true"):
        flux.sample(prompts="a", negative_prompt="b")
