"""Weights in half precision: teachers kept as their folder has them, students saved in the dtype asked for, parts on disk once a run."""

import os

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fewstep
import pipelines
from fewstep.models.half_weights import InFloat32
from tiny import CHANGES, InMemory

NETWORK = "unet/diffusion_pytorch_model.safetensors"
LORA = CHANGES | {"student.lora.rank": 2, "student.lora.alpha": 2.0, "train.gradient_checkpointing": True}


@pytest.fixture(scope="module")
def half_teacher(tmp_path_factory):
    """A Stable Diffusion folder in float16, as its publishers give it."""
    root = tmp_path_factory.mktemp("half")
    pipelines.text_pipeline(root / "float32")
    diffusers.StableDiffusionPipeline.from_pretrained(root / "float32", dtype=torch.float16).save_pretrained(root / "float16")
    return root / "float16"


def distilled(teacher, out, **changes):
    """The last student of a run, which finds the teacher by its folder."""
    data, settings = (
        InMemory(fewstep.open_model(teacher)),
        CHANGES | {key.replace("__", "."): value for key, value in changes.items()},
    )
    return fewstep.distill(teacher, data, out=out, changes=settings, device="cpu", quiet=True)


def dtypes(file):
    return {value.dtype for value in load_file(file).values()}


def test_a_teacher_kept_in_half_precision_teaches_the_same_bits(half_teacher, tmp_path):
    kept = distilled(half_teacher, tmp_path / "kept", student__dtype="float32")
    wide = distilled(half_teacher, tmp_path / "wide", student__dtype="float32", teacher__dtype="float32")
    one, other = kept.denoiser.network.state_dict(), wide.denoiser.network.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert kept.info.stock["agrees"]


@pytest.fixture(scope="module")
def run(half_teacher, tmp_path_factory):
    """(the last student, the folder) of a run of that teacher; small parts are shared too."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewstep.models.families.unchanged_parts.LEAST", 1)
        return distilled(half_teacher, out), out


@pytest.mark.parametrize("dtype", [pytest.param(None, marks=pytest.mark.slow), "bfloat16"])
def test_a_student_is_saved_in_the_dtype_asked_for_and_goes_on_from_what_is_saved(half_teacher, run, tmp_path, dtype):
    expected = torch.float16 if dtype is None else torch.bfloat16
    student, out = run if dtype is None else (distilled(half_teacher, tmp_path, student__dtype=dtype), tmp_path)
    assert dtypes(out / "steps-0002" / NETWORK) == {expected}
    assert student.info.stock["agrees"] and student.info.stock["dtype"] == str(expected).removeprefix("torch.")
    saved = load_file(out / "steps-0002" / NETWORK)
    held = student.denoiser.network.state_dict()
    assert {value.dtype for value in held.values()} == {expected} and all(
        torch.equal(value, saved[name]) for name, value in held.items()
    )
    again = fewstep.open_model(out / "steps-0002").save(tmp_path / "again")  # in the dtype of the folder that it is from
    assert dtypes(again / NETWORK) == {expected}


def test_the_stock_pipeline_of_a_half_student_runs_in_a_dtype_of_choice(run):
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(run[1] / "steps-0002", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert torch.isfinite(pipeline("ab", num_inference_steps=2, guidance_scale=2.0, output_type="latent").images).all()


def test_the_unchanged_parts_are_on_disk_once_a_run_as_they_came(half_teacher, run):
    one, two = run[1] / "stage-one", run[1] / "steps-0002"
    for name in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "tokenizer/tokenizer.json"):
        assert (one / name).samefile(two / name) and not (one / name).samefile(half_teacher / name)
        assert (one / name).read_bytes() == (half_teacher / name).read_bytes()
    assert not (one / NETWORK).samefile(two / NETWORK)
    for name in ("fewstep.json", "README.md"):  # which may change
        assert not (one / name).exists() or not (one / name).samefile(two / name)


def test_a_file_system_without_links_gets_copies(half_teacher, tmp_path, monkeypatch):
    def none(*_given):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fewstep.models.families.unchanged_parts.LEAST", 1)
    monkeypatch.setattr(os, "link", none)
    distilled(half_teacher, tmp_path)
    one, two = (tmp_path / name / "vae/diffusion_pytorch_model.safetensors" for name in ("stage-one", "steps-0002"))
    assert one.read_bytes() == two.read_bytes() and not one.samefile(two)


def test_a_variant_is_saved_under_its_plain_name(half_teacher, tmp_path):
    variant = tmp_path / "variant"
    diffusers.StableDiffusionPipeline.from_pretrained(half_teacher, dtype=torch.float16).save_pretrained(variant, variant="fp16")
    pipelines.text_pipeline(tmp_path / "other", prediction="v_prediction")
    with pytest.warns(UserWarning, match="fp16"):
        student = distilled(variant, tmp_path / "run")
    names = {file.name for file in (tmp_path / "run" / "steps-0002").rglob("*.safetensors")}
    assert not any("fp16" in name for name in names) and student.info.stock["agrees"]
    encoder = tmp_path / "run" / "steps-0002" / "text_encoder" / "model.safetensors"
    assert encoder.read_bytes() == (variant / "text_encoder" / "model.fp16.safetensors").read_bytes()


def test_adapters_are_trained_around_frozen_half_weights(half_teacher, tmp_path):
    student = distilled(half_teacher, tmp_path, **LORA)
    weights = student.denoiser.network.parameters()
    assert {p.dtype for p in weights} == {torch.float16}  # in float32 the end of a run would take more than its training
    assert student.info.stock["agrees"] and dtypes(tmp_path / "steps-0002" / NETWORK) == {torch.float16}
    one, two = (load_file(tmp_path / name / "adapters.safetensors") for name in ("stage-one", "steps-0002"))
    assert {value.dtype for value in two.values()} == {torch.float32} and any(not torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("keep_half", [True, False])
def test_half_weights_give_the_gradient_of_float32_weights(keep_half):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Flatten(), nn.Linear(32, 5)
    ).requires_grad_(False)
    half, kept = network.half(), []
    wide = nn.Sequential(
        *(type(layer)(*args) for layer, args in zip(half, [(3, 8, 3, 1, 1), (2, 8), (), (), (32, 5)], strict=True))
    )
    wide.load_state_dict(half.state_dict())
    x = torch.randn(2, 3, 2, 2)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    expected = wide.requires_grad_(False)(inputs[0])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype) or t, lambda t: t), InFloat32(keep_half):
        found = half(inputs[1])
    assert torch.equal(expected, found)
    for output in (expected, found):
        output.square().sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)
