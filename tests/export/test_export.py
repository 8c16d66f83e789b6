"""Export: baked and plain folders, the network as ONNX against PyTorch, the hub, and what a folder of configs tells."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_model_card import text_student

import fewstep
import pipelines
from command_line import command, refused
from fewstep import InputError
from fewstep.export import onnx as onnx_file
from fewstep.export.formats import export
from fewstep.method.samplers import stochastic
from fewstep.training.cost_estimate import distillation_size
from fewstep.training.describe import describe, describe_text
from tiny import LABELS, tiny_student, tiny_teacher
from transformer_pipelines import dit_pipeline

NOISE = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The folder of a tiny student of two steps."""
    return tiny_student(2).save(tmp_path_factory.mktemp("export") / "student")


def samples(folder, **choices):
    return fewstep.open_model(folder).sample_tensor(LABELS, noise=NOISE, **choices).samples


def test_export_copies_or_bakes(student, tmp_path, capsys):
    out, _ = command(capsys, "export", student, tmp_path / "copy")
    assert out.strip() == str(tmp_path / "copy")
    assert torch.equal(samples(tmp_path / "copy", guidance_scale=2.5), samples(student, guidance_scale=2.5))
    command(capsys, "export", student, tmp_path / "plain", "--guidance-scale", "2.5", "--device", "cpu")
    torch.testing.assert_close(samples(tmp_path / "plain"), samples(student, guidance_scale=2.5), atol=1e-5, rtol=0)
    assert fewstep.open_model(tmp_path / "plain").info.baked
    assert "# plain" in (tmp_path / "plain" / "README.md").read_text()


def test_wrong_input_is_one_line_and_leaves_nothing(student, tmp_path, capsys):
    teacher, full = tiny_teacher().save(tmp_path / "teacher"), tmp_path / "full"
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
        ((student,), "no folder to write"),
        ((student, "--push-to-hub", "not a name"), "no name on the hub"),
    ):
        assert re.search(message, refused(capsys, "export", *words))
        assert not out.exists()
    assert [path.name for path in full.iterdir()] == ["thesis.txt"]


def test_several_scales_of_a_dit_become_labels(tmp_path):
    from fewstep.training.distill import next_student, student_of
    from fewstep.training.recipe import load_recipe

    made = next_student(student_of(load_recipe(None), fewstep.open_model(dit_pipeline(tmp_path / "dit"))), 2)
    torch.nn.init.normal_(made.denoiser.network.get_parameter("w_embedding.weight"), std=0.3)
    made.denoiser.network.requires_grad_(False)
    folder = export(made, tmp_path / "scales", guidance_scale=[1.5, 4.0])
    noise, to_float64 = torch.randn(2, 4, 8, 8), fewstep.open_model(folder)
    assert to_float64.info.classes[5] == "0 at 4"
    one = to_float64.sample_tensor(torch.tensor([2, 7]), noise=noise).samples
    other = [
        made.sample_tensor(torch.tensor([2]), noise=noise[i : i + 1], guidance_scale=s).samples for i, s in ((0, 1.5), (1, 4.0))
    ]
    torch.testing.assert_close(one, torch.cat(other), atol=1e-4, rtol=0)
    assert "baked into the class labels" in (folder / "README.md").read_text()


def test_onnx_says_what_pytorch_says_and_its_table_draws_our_samples(student, tmp_path):
    """The numpy loop of the card, with onnx.json alone, for a batch size that the export did not see."""
    import numpy
    import onnxruntime

    model = fewstep.open_model(student)
    folder = export(model, tmp_path / "network", format="onnx")
    facts = json.loads((folder / "onnx.json").read_text())
    assert facts["largest_difference"] < facts["tolerance"] == 1e-4 and facts["opset"] == 18
    assert list(facts["inputs"]) == ["z", "timestep", "labels", "w"] and facts["inputs"]["z"]["shape"] == ["batch", 1, 8, 8]
    session, z, n = onnxruntime.InferenceSession(folder / "network.onnx"), NOISE.repeat(3, 1, 1, 1)[:7].numpy(), 7
    labels = torch.arange(n)
    fixed = {"labels": labels.numpy(), "w": numpy.full(n, 1.5, "float32")}
    for now, then in zip(facts["grid"], facts["grid"][1:], strict=False):
        output = session.run(None, {"z": z, "timestep": numpy.full(n, now["timestep"], "float32"), **fixed})[0]
        x = now["alpha"] * z - now["sigma"] * output
        z = then["alpha"] * x + then["sigma"] / now["sigma"] * (z - now["alpha"] * x)
    ours = model.sample_tensor(labels, noise=NOISE.repeat(3, 1, 1, 1)[:7], guidance_scale=2.5).samples
    torch.testing.assert_close(torch.from_numpy(x).float(), ours, atol=1e-4, rtol=0)
    assert run_card(folder)["x"].shape == (2, 1, 8, 8)


def run_card(folder):
    """What the lines of code of an ONNX folder's card leave behind."""
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
    left: dict = {}
    exec(code.replace('"network"', f'"{folder}"'), left)
    return left


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


def test_onnx_of_a_baked_text_student_takes_no_w(tmp_path):
    folder = export(text_student(tmp_path / "pipeline"), tmp_path / "network", guidance_scale=2.0, format="onnx")
    facts = json.loads((folder / "onnx.json").read_text())
    assert list(facts["inputs"]) == ["z", "timestep", "text"] and facts["model"]["baked"]


def test_onnx_without_its_extra_says_how_to_install_it(student, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(InputError, match=r"needs onnxscript; install it: pip install 'fewstep\[onnx\]'"):
        export(fewstep.open_model(student), tmp_path / "out", format="onnx")
    assert not (tmp_path / "out").exists()


def test_a_network_that_cannot_be_exported_is_one_line(student, tmp_path, monkeypatch):
    def fails(model, n):
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(onnx_file, "exported", fails)
    with pytest.raises(InputError, match=r"cannot export this network of class_conditional to ONNX \(no such operator\); use"):
        export(fewstep.open_model(student), tmp_path / "out", format="onnx")
    assert not (tmp_path / "out").exists()


class Hub:
    """Stands for HfApi: keeps what it is told."""

    told: list = []  # noqa: RUF012

    def __init__(self, token=None):
        self.told.append(("token", token))

    def create_repo(self, repo_id, private, exist_ok):
        self.told.append(("create", repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, repo_id, folder_path, commit_message):
        files = {str(file.relative_to(folder_path)) for file in Path(folder_path).rglob("*") if file.is_file()}
        self.told.append(("upload", repo_id, files, (Path(folder_path) / "README.md").read_text()))


def test_a_model_is_pushed_to_the_hub_whole(student, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    Hub.told.clear()
    assert fewstep.open_model(student).push_to_hub("me/owls", private=True, token="secret") == "https://huggingface.co/me/owls"
    token, create, upload = Hub.told
    assert (token, create) == (("token", "secret"), ("create", "me/owls", True, True))
    assert {"fewstep.json", "model_index.json", "README.md", "unet/config.json", "scheduler/scheduler_config.json"} <= upload[2]
    assert 'from_pretrained("me/owls", subfolder="unet")' in upload[3]
    Hub.told.clear()
    out, _ = command(capsys, "export", student, "--guidance-scale", 2, "--push-to-hub", "me/plain")
    assert out.strip() == "https://huggingface.co/me/plain" and Hub.told[1] == ("create", "me/plain", False, True)
    assert "2, baked into the weights" in Hub.told[2][3]


def test_what_the_hub_refuses_is_one_line(student, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError("401 Client Error\nmore")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "create_repo", refuse)
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
    assert (
        memory["LoRA training of rank 64"] == memory["weights"] + 20 * facts["lora_parameters"] + facts["activations_of_one_image"]
    )
    assert (per["images"], per["evaluations"]) == (32_000, 96_000)
    assert per["seconds"] == pytest.approx(32_000 / 40 * (1 + 2 * flops["forward"] / flops["trained"]))
    text = describe_text(describe(str(folder)))
    assert "LoRA training" in text and "evaluations 384,000" in text and "seconds" not in text


def test_a_student_is_not_sized_up(student):
    with pytest.raises(InputError, match="not distilled again"):
        distillation_size(fewstep.open_model(student))
