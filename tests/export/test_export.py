"""Export: baked and plain folders, the network as ONNX against PyTorch, the hub, and what a folder of configs tells."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from test_model_card import text_student

import fewstep
import pipelines
from alone import untrained
from command_line import command, refused
from fewstep import InputError
from fewstep.export import onnx as onnx_file
from fewstep.export.formats import export
from fewstep.method.samplers import stochastic
from fewstep.training.cost_estimate import distillation_size
from fewstep.training.describe import describe, describe_text
from tiny import LABELS, tiny_student, tiny_teacher

NOISE = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The folder of a tiny student of two steps."""
    return tiny_student(2).save(tmp_path_factory.mktemp("export") / "student")


def test_export_copies_or_bakes(student, tmp_path, capsys):
    out, _ = command(capsys, "export", student, tmp_path / "copy")
    assert out.strip() == str(tmp_path / "copy")
    command(capsys, "export", student, tmp_path / "plain", "--guidance-scale", "2.5", "--device", "cpu")
    ours, copied, baked = (
        fewstep.open_model(folder).sample_tensor(LABELS, noise=NOISE, guidance_scale=2.5).samples
        for folder in (student, tmp_path / "copy", tmp_path / "plain")
    )
    assert torch.equal(copied, ours)
    torch.testing.assert_close(baked, ours, atol=1e-5, rtol=0)
    assert fewstep.open_model(tmp_path / "plain").info.baked
    assert "# plain" in (tmp_path / "plain" / "README.md").read_text()


@pytest.mark.parametrize(("dtype", "limit"), [("float16", 5e-3), pytest.param("bfloat16", 5e-2, marks=pytest.mark.slow)])
def test_weights_are_written_in_half_precision(student, tmp_path, capsys, dtype, limit):
    command(capsys, "export", student, tmp_path / "half", "--guidance-scale", 2.5, "--dtype", dtype)
    weights = load_file(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {str(value.dtype) for value in weights.values()} == {f"torch.{dtype}"}
    ours = fewstep.open_model(student).sample_tensor(LABELS, noise=NOISE, guidance_scale=2.5).samples
    half = fewstep.open_model(tmp_path / "half").sample_tensor(LABELS, noise=NOISE).samples
    assert 0 < (half - ours).abs().max() < limit * float(ours.abs().max())
    assert fewstep.open_model(tmp_path / "half").info.stock["agrees"]
    command(capsys, "export", tmp_path / "half", tmp_path / "whole", "--dtype", "float32")  # the same numbers in more room
    assert torch.equal(fewstep.open_model(tmp_path / "whole").sample_tensor(LABELS, noise=NOISE).samples, half)


def test_a_network_in_shards_is_read_by_diffusers_and_by_us(tmp_path, capsys):
    """A sharded teacher, and a student of it in shards, in a stock pipeline."""
    whole = pipelines.text_pipeline(tmp_path / "whole")
    StableDiffusionPipeline.from_pretrained(whole, use_safetensors=True).save_pretrained(
        tmp_path / "teacher", max_shard_size="40KB"
    )
    assert len(list((tmp_path / "teacher" / "unet").glob("*-of-*.safetensors"))) > 1
    (teacher, student), (same, _) = (untrained(folder) for folder in (tmp_path / "teacher", whole))
    weights = teacher.denoiser.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in same.denoiser.network.state_dict().items())
    saved = student.save(tmp_path / "student")
    command(capsys, "export", saved, tmp_path / "out", "--max-shard-size", "40KB")
    shards = list((tmp_path / "out" / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1 and (tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    assert max(file.stat().st_size for file in shards) < 60_000
    opened = fewstep.open_model(tmp_path / "out")
    assert opened.info.stock["agrees"]
    drawn = [
        model.sample_tensor(model.example(2), guidance_scale=2.0, seed=3).samples for model in (opened, fewstep.open_model(saved))
    ]
    assert torch.equal(*drawn)
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "out", use_safetensors=True)
    assert all(torch.equal(value, stock.unet.state_dict()[name]) for name, value in opened.denoiser.network.state_dict().items())


def test_wrong_input_is_one_line_and_leaves_nothing(student, tmp_path, capsys):
    teacher, full = tiny_teacher().save(tmp_path / "teacher"), tmp_path / "full"
    encoder = tiny_student(2, kind="encoder").save(tmp_path / "encoder")
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    out = tmp_path / "out"
    for words, message in (
        ((teacher, out, "--guidance-scale", 2), "this is a teacher"),
        ((student, out, "--guidance-scale", 9), "guidance_scale 9 is outside the range 1 to 5"),
        ((student, out, "--guidance-scale", 2, "--guidance-scale", 3), "only a DiT holds several"),
        ((student, full), "holds something already"),
        ((student, out, "--format", "onxx"), "did you mean|known"),
        ((student, out, "--format", "lora", "--guidance-scale", 2), "adapters"),
        ((student, out, "--dtype", "float17"), "float17"),
        ((student, out, "--dtype", "float16", "--format", "onnx"), "dtype float16 is not for format onnx"),
        ((student, out, "--max-shard-size", "5 gigs"), "5 gigs"),
        ((student, out, "--max-shard-size", "5GB", "--format", "comfyui"), "max_shard_size is for format diffusers"),
        ((encoder, out), "this is an encoder"),
        ((encoder, out, "--format", "onnx"), "this is an encoder"),
        ((student,), "no folder to write"),
        ((student, "--push-to-hub", "not a name"), "no name on the hub"),
    ):
        assert re.search(message, refused(capsys, "export", *words))
        assert not out.exists()
    assert [path.name for path in full.iterdir()] == ["thesis.txt"]


def test_onnx_says_what_pytorch_says_and_its_table_draws_our_samples(student, tmp_path):
    """The numpy loop of the card, with onnx.json alone, for a batch size that the export did not see."""
    import numpy
    import onnxruntime

    model = fewstep.open_model(student)
    folder = export(model, tmp_path / "network", format="onnx")
    facts = json.loads((folder / "onnx.json").read_text())
    assert facts["largest_difference"] < facts["tolerance"] == 1e-4 and facts["opset"] == 18
    assert list(facts["inputs"]) == ["z", "timestep", "labels", "w"] and facts["inputs"]["z"]["shape"] == ["batch", 1, 8, 8]
    session, noise, labels = onnxruntime.InferenceSession(folder / "network.onnx"), NOISE.repeat(3, 1, 1, 1)[:7], torch.arange(7)
    z, fixed = noise.numpy(), {"labels": labels.numpy(), "w": numpy.full(7, 1.5, "float32")}
    for now, then in zip(facts["grid"], facts["grid"][1:], strict=False):
        output = session.run(None, {"z": z, "timestep": numpy.full(7, now["timestep"], "float32"), **fixed})[0]
        x = now["alpha"] * z - now["sigma"] * output
        z = then["alpha"] * x + then["sigma"] / now["sigma"] * (z - now["alpha"] * x)
    ours = model.sample_tensor(labels, noise=noise, guidance_scale=2.5).samples
    torch.testing.assert_close(torch.from_numpy(x).float(), ours, atol=1e-4, rtol=0)
    assert run_card(folder)["x"].shape == (2, 1, 8, 8)


def run_card(folder):
    """What the lines of code of an ONNX folder's card leave behind."""
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
    left: dict = {}
    exec(code.replace('"network"', f'"{folder}"'), left)
    return left


@pytest.mark.slow
def test_the_card_of_a_stochastic_student_as_onnx_draws_as_it_was_trained(tmp_path, monkeypatch):
    import numpy

    made = tiny_student(4)
    model = replace(made, info=made.info.model_copy(update={"sampler": "stochastic"}))
    folder = export(model, tmp_path / "network", guidance_scale=2.0, format="onnx")
    z, *fresh = torch.randn(4, *NOISE[:2].shape, generator=torch.Generator().manual_seed(3))
    draws, again = iter([z, *fresh]), iter(fresh)
    monkeypatch.setattr(numpy.random, "randn", lambda *shape: next(draws).numpy())
    drawn = run_card(folder)
    assert next(draws, None) is None
    baked, labels = model.bake(2.0).denoiser, torch.arange(2)
    ours = stochastic(baked, z, 4, labels, None, baked.process, lambda z: next(again))
    torch.testing.assert_close(torch.from_numpy(drawn["x"]).double(), ours, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_onnx_of_a_baked_text_student_takes_no_w(tmp_path):
    folder = export(text_student(tmp_path / "pipeline"), tmp_path / "network", guidance_scale=2.0, format="onnx")
    facts = json.loads((folder / "onnx.json").read_text())
    assert list(facts["inputs"]) == ["z", "timestep", "text"] and facts["model"]["baked"]


def cannot_export(model, n):
    raise RuntimeError("no such operator\nand more")


@pytest.mark.parametrize(
    ("name", "replacement", "message"),
    [
        ("find_spec", {"onnx": 1, "onnxruntime": 1}.get, r"needs onnxscript; install it: pip install 'fewstep\[onnx\]'"),
        ("exported", cannot_export, r"cannot export this network of class_conditional to ONNX \(no such operator\); use"),
    ],
)
def test_what_onnx_cannot_do_here_is_one_line_and_leaves_nothing(student, tmp_path, monkeypatch, name, replacement, message):
    monkeypatch.setattr(onnx_file, name, replacement)
    with pytest.raises(InputError, match=message):
        export(fewstep.open_model(student), tmp_path / "out", format="onnx")
    assert not (tmp_path / "out").exists()


def test_a_model_is_pushed_to_the_hub_whole(student, monkeypatch, capsys):
    asked, hub = [], SimpleNamespace()

    def create(repo_id, private, exist_ok):
        asked.append((repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def upload(repo_id, folder_path, commit_message):
        files = {str(file.relative_to(folder_path)) for file in Path(folder_path).rglob("*") if file.is_file()}
        asked.append((repo_id, files, (Path(folder_path) / "README.md").read_text()))

    hub.create_repo, hub.upload_folder = create, upload
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token=None: asked.append(token) or hub)
    assert fewstep.open_model(student).push_to_hub("me/owls", private=True, token="secret") == "https://huggingface.co/me/owls"
    token, created, (_, files, card) = asked
    assert (token, created) == ("secret", ("me/owls", True, True))
    assert {"fewstep.json", "model_index.json", "README.md", "unet/config.json", "scheduler/scheduler_config.json"} <= files
    assert 'from_pretrained("me/owls", subfolder="unet")' in card
    out, _ = command(capsys, "export", student, "--guidance-scale", 2, "--push-to-hub", "me/plain")
    assert out.strip() == "https://huggingface.co/me/plain" and asked[4] == ("me/plain", False, True)
    assert "2, baked into the weights" in asked[5][2]

    def refuse(*_, **__):
        raise OSError("401 Client Error\nmore")

    hub.create_repo = refuse
    with pytest.raises(InputError, match=r"cannot upload to 'me/owls': 401 Client Error; .*hf auth login"):
        fewstep.open_model(student).push_to_hub("me/owls")


def test_show_tells_of_a_folder_of_configs_what_distilling_it_takes(tmp_path, capsys):
    folder = pipelines.text_pipeline(tmp_path / "pipeline")
    whole = describe(str(folder))
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    out, _ = command(capsys, "show", folder, "--images-per-second", 40, "--batch-size", 32, "--devices", 4, "--json")
    facts = json.loads(out)
    assert facts["parameters"] == whole["parameters"] and "configs alone" in facts["weights"]
    memory, per, flops = facts["memory_bytes"], facts["per_1000_updates"], facts["flops"]
    assert memory["weights"] == 4 * facts["parameters"]
    assert memory["weights"] < memory["full training sharded over 4"] < memory["full training"]
    lora = memory["weights"] + 20 * facts["lora_parameters"] + facts["activations_of_one_image"]
    assert memory["LoRA training of rank 64"] == lora
    assert (per["images"], per["evaluations"]) == (32_000, 96_000)
    assert per["seconds"] == pytest.approx(32_000 / 40 * (1 + 2 * flops["forward"] / flops["trained"]))
    text = describe_text(describe(str(folder)))
    assert "LoRA training" in text and "evaluations 384,000" in text and "seconds" not in text
    with pytest.raises(InputError, match="not distilled again"):
        distillation_size(tiny_student(2))
