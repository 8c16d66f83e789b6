"""What holds of every family: opened as a teacher, distilled by both stages, and run by diffusers in a process without fewstep."""

import warnings
from functools import cache

import diffusers
import pytest
import torch

import fewstep
import transformer_pipelines
from alone import samples_alone, untrained
from family_cases import CASES, LIMIT, SCALE, drawn, noise_of
from fewstep.method.conditioning import each, take
from fewstep.models.families import FAMILIES, family_for
from fewstep.models.families.diffusers_family import STUDENT
from tiny import CHANGES, InMemory, awake, counted

BUILD = {name: case.build for name, case in CASES.items()} | {
    "PixArt of 1024 pixels": lambda folder: transformer_pipelines.pixart_pipeline(folder, "Alpha", size=128, patch=32),
    "Stable Diffusion 3 without T5": lambda folder: transformer_pipelines.sd3_pipeline(
        folder, t5=False
    ),  # no stock pipeline opens it
}


def parameters(names):
    """The names as parameters of a test, those of slow cases marked."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in CASES and CASES[name].slow)) for name in names]


TEXT = [name for name in BUILD if not name.startswith(("class", "DiT"))]
PICTURED = ("Stable Diffusion inpainting", "SDXL inpainting", "DeepFloyd IF, super-resolution")  # a prompt alone is not enough


class Students(dict):
    """name -> (teacher, student of 2 steps, {"conditioned": its folder, "baked": the folder with a scale baked in}), made when asked for."""

    def __init__(self, root):
        super().__init__()
        self.root = root
        self.folder = cache(lambda name: BUILD[name](root / f"{name}-teacher"))

    def __missing__(self, name):
        torch.set_num_threads(1)
        teacher = fewstep.open_model(self.folder(name))
        student = fewstep.distill(teacher, InMemory(teacher), out=self.root / name, changes=CHANGES, device="cpu", quiet=True)
        self[name] = teacher, student, saved(awake(student), self.root / name)
        return self[name]


def saved(student, root):
    """The folders of a student, and of one of its scales."""
    baked = student.bake(SCALE)
    return {
        "conditioned": student.save(root.with_name(f"{root.name}-student")),
        "baked": baked.save(root.with_name(f"{root.name}-baked")),
    }


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    return Students(tmp_path_factory.mktemp("families"))


def test_every_family_has_a_case(students):
    assert {family_for(students.folder(name)).name for name in BUILD} == set(FAMILIES) - {
        "own", "kandinsky_prior", "class_conditional_inpainting",  # no pipelines of diffusers; the last in tests/editing
    }  # fmt: skip


def check_stock_samples(case, folders, root):
    """The stock pipelines of a case, in the process that cannot import fewstep, give the samples of our models in these folders."""
    checks = list(case.checks(case, {kind: fewstep.open_model(folder) for kind, folder in folders.items()}))
    stock = samples_alone(root, [check.job(folders[check.kind]) for check in checks])
    for check, samples in zip(checks, stock, strict=True):
        assert (check.ours - check.back(samples)).abs().max() < LIMIT, check.pipeline
        assert check.ours.std() > 0.05


@pytest.mark.parametrize("name", parameters(CASES))
def test_stock_pipelines_alone_give_our_samples(students, tmp_path, name):
    check_stock_samples(CASES[name], students[name][2], tmp_path)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.slow])
def test_stock_pipelines_alone_give_the_samples_of_a_student_that_no_stage_has_trained(students, tmp_path, name):
    teacher, student = untrained(students.folder(name))
    assert teacher.info.prediction == student.info.prediction == "flow" or student.info.prediction == "v"
    check_stock_samples(CASES[name], saved(student, tmp_path / "model"), tmp_path)


@pytest.mark.parametrize("name", parameters(BUILD))
def test_a_baked_student_is_the_conditioned_one_at_its_scale(students, name):
    teacher, _, folders = students[name]
    plain, student = (fewstep.open_model(folders[kind]) for kind in ("baked", "conditioned"))
    condition, noise = student.example(3), noise_of(student, 3)
    ours, same = (drawn(model, condition, noise) for model in (student, plain))
    torch.testing.assert_close(same, ours, atol=1e-5 * max(1.0, float(ours.abs().max())), rtol=0)
    other = student.sample_tensor(condition, guidance_scale=SCALE - 1, noise=noise).samples
    assert (other - ours).abs().max() > 1e-3
    assert plain.denoiser.network.state_dict().keys() == teacher.denoiser.network.state_dict().keys()
    assert (plain.info.baked, plain.info.guidance_scale) == (True, (SCALE, SCALE))
    assert fewstep.open_model(student.bake(2.0).save(folders["baked"].with_name(f"{name}-again"))).info.guidance_scale == (2.0, 2.0)
    with pytest.raises(fewstep.InputError, match="outside the range"):
        plain.sample_tensor(condition, guidance_scale=2.0)


@pytest.mark.parametrize("name", parameters(BUILD))
def test_a_student_begins_as_the_conditional_teacher(students, name):
    teacher = students[name][0]
    network, call, w = teacher.family.student_of(teacher.denoiser.network), teacher.family.call, torch.tensor([0.0, 1.7, 9.0])
    z, condition, time = noise_of(teacher, 3), teacher.example(3), torch.tensor([3.0, 500.0, 999.0])
    with torch.no_grad():
        output = call(teacher.denoiser.network, z, time, condition, None)
        assert output.shape == z.shape
        assert torch.equal(call(network, z, time, condition, w), output)
    new = [
        p
        for name, p in network.named_parameters()
        if any(word in name for word in ("cond_proj", "w_embedding", "guidance_embedder.linear_2"))
    ]
    network.requires_grad_(True)
    call(network, z, time, condition, w).square().mean().backward()
    assert new and all(p.grad.abs().sum() > 0 for p in new)  # and learns
    awake(network)
    with torch.no_grad():
        moved = call(network, z, time, condition, w)
        assert (moved - output).abs().flatten(1).amax(1).min() > 1e-4
        alone = call(network, z[1:2], time[1:2], take(condition, slice(1, 2)), w[1:2])  # each example by itself
        torch.testing.assert_close(alone, moved[1:2], atol=1e-4, rtol=1e-4)
    with pytest.raises(fewstep.InputError, match="name its teacher"):
        teacher.family.student_of(network)


@pytest.mark.parametrize("name", parameters(BUILD))
def test_a_step_is_one_evaluation_of_a_student_and_two_halves_of_one_of_a_teacher(students, name):
    teacher, student, _ = students[name]
    for model, scale, rows in ((student, 2.0, [3, 3]), (teacher, 2.0, [6, 6]), (teacher, 1.0, [3, 3])):
        watched, calls = counted(model)
        made = watched.sample_tensor(model.example(3), steps=2, guidance_scale=scale)
        assert (calls, made.evaluations) == (rows, sum(rows) / 3)
    channels, size = student.info.picture
    pictures = made.pictures()
    assert pictures.shape[:2] == (3, channels) and pictures.shape[-1] == size


@pytest.mark.parametrize("name", parameters(BUILD))
def test_folders_of_students(students, name):
    teacher, student, folders = students[name]
    for kind, folder in folders.items():
        info = fewstep.open_model(folder).info
        assert (info.kind, info.family, info.steps, info.shape) == ("student", teacher.info.family, 2, teacher.info.shape)
        assert info.prediction == student.info.prediction == ("flow" if teacher.info.prediction == "flow" else "v")
        assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".ckpt")]
        hidden = kind == "conditioned" and not teacher.family.stock_takes_w  # from stock pipelines, which would run it without w
        assert (folder / STUDENT).is_dir() == hidden != (folder / teacher.family.component).is_dir()
        if hidden:
            refused = pytest.raises((OSError, ValueError), match=teacher.family.component + r"|config\.json")
            with warnings.catch_warnings(), refused:
                warnings.simplefilter("ignore", FutureWarning)  # of Stable Audio's autoencoder
                diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True)


@pytest.mark.parametrize("name", parameters(BUILD))
def test_conditions_are_the_same_each_time(students, name):
    teacher, student, folders = students[name]
    assert all(map(torch.equal, leaves(teacher.example(3)), leaves(student.example(3))))
    condition = teacher.example(3)
    null = teacher.denoiser.null_condition(condition)
    assert each(len, null) == each(len, condition)
    if name in TEXT and name not in PICTURED:
        again = fewstep.open_model(folders["conditioned"])  # its folder has all that encodes
        one, other = (model.condition(prompts=["a cat", "dog"]) for model in (teacher, again))
        assert all(map(torch.equal, leaves(one), leaves(other)))
        assert each(lambda x: x.shape[1:], one) == each(lambda x: x.shape[1:], condition)


@pytest.mark.parametrize("name", parameters(BUILD))
def test_what_a_model_does_not_take_is_refused(students, name):
    student = students[name][1]
    wrong = [({"prompts": "a"}, "takes class labels")]
    if name in TEXT:
        wrong = [({"class_labels": [1]}, "takes prompts"), ({}, "no prompt")]
        image, negative = {"image": object()}, {"negative_prompt": "b"}
        more = [({}, "needs image=")] if name in PICTURED else [(image, "takes no image"), (negative, "negative prompt")]
        wrong += [({"prompts": "a"} | given, message) for given, message in more]
    for given, message in wrong:
        with pytest.raises(fewstep.InputError, match=message):
            student.sample(**given)


@pytest.mark.parametrize("name", parameters(TEXT))
def test_a_teacher_is_guided_away_from_a_negative_prompt(students, name):
    teacher = students[name][0]
    condition, noise = teacher.example(1), noise_of(teacher)
    options = {"steps": 2, "guidance_scale": 4.0, "noise": noise}
    one, other = (teacher.with_negative_prompt(prompt).sample_tensor(condition, **options).samples for prompt in (None, "zebra"))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("name", parameters([name for name in TEXT if name not in PICTURED]))
def test_a_prompt_that_is_too_long_is_cut_with_a_warning(students, name):
    family = students[name][0].family
    with pytest.warns(UserWarning, match=f"is cut to {family.text_tokens or 8}; not read"):
        family.encode(["a b " * 300], torch.device("cpu"))


def leaves(condition):
    return [condition] if isinstance(condition, torch.Tensor) else [condition[key] for key in sorted(condition)]
