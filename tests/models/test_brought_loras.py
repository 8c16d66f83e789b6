"""LoRA files that people bring: merged into teachers and students as the stock pipeline merges them, or refused in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import fewstep
import pipelines
import transformer_pipelines
from alone import untrained
from command_line import command, refused
from fewstep import InputError
from fewstep.models.lora_files import loras_of

BUILD = {"text": pipelines.text_pipeline, "sd3": transformer_pipelines.sd3_pipeline}
RANK = 2


def lora_file(folder, out, layout="diffusers", also_text=True, seed=3):
    """A LoRA for the pipeline in a folder: adapters of its network's attention and of its text encoder, as trainers write them."""
    import diffusers

    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    component = "unet" if hasattr(pipeline, "unet") else "transformer"
    generator, tensors = torch.Generator().manual_seed(seed), {}
    parts = {component: getattr(pipeline, component), "text_encoder": pipeline.text_encoder if also_text else torch.nn.Module()}
    for part, network in parts.items():
        for name, layer in network.named_modules():
            if name.endswith(("to_q", "to_v", "q_proj", "v_proj", "out_proj")) and "add_" not in name:
                down = torch.randn(RANK, layer.in_features, generator=generator)
                up = torch.randn(layer.out_features, RANK, generator=generator) * 0.2
                name = name if part != "text_encoder" or name.startswith("text_model") else f"text_model.{name}"
                if layout == "kohya":
                    start = f"{'lora_te' if part == 'text_encoder' else 'lora_unet'}_{name.replace('.', '_')}"
                    tensors |= {
                        f"{start}.lora_down.weight": down,
                        f"{start}.lora_up.weight": up,
                        f"{start}.alpha": torch.tensor(1.0),
                    }
                else:
                    tensors |= {f"{part}.{name}.lora_A.weight": down, f"{part}.{name}.lora_B.weight": up}
    save_file(tensors, out, {"format": "pt"})
    return out


@pytest.fixture(scope="module", params=["text", pytest.param("sd3", marks=pytest.mark.slow)])
def teacher(request, tmp_path_factory):
    return BUILD[request.param](tmp_path_factory.mktemp("base") / request.param)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_teacher_with_a_lora_is_what_the_stock_pipeline_makes_of_both(teacher, tmp_path, layout):
    import diffusers

    if layout == "kohya" and teacher.name != "text":
        pytest.skip("kohya's names of a transformer are those of its authors' network")
    file = lora_file(teacher, tmp_path / "style.safetensors", layout, also_text=teacher.name == "text")
    ours, plain = fewstep.open_model(teacher, lora=f"{file}:0.5"), fewstep.open_model(teacher)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(teacher)
    pipeline.load_lora_weights(file)
    pipeline.fuse_lora(lora_scale=0.5, components=[part for part, names in pipeline.get_list_adapters().items() if names])
    pipeline.unload_lora_weights()
    stock = getattr(pipeline, ours.family.component).state_dict()
    for name, value in ours.denoiser.network.state_dict().items():
        torch.testing.assert_close(value, stock[name], atol=1e-6, rtol=0)
    assert any(not torch.equal(value, plain.denoiser.network.state_dict()[name]) for name, value in stock.items())
    if teacher.name == "text":
        (one,), (other,) = ({**m.family.encode(["a cat"], torch.device("cpu"))}.values() for m in (ours, plain))
        assert (one - other).abs().max() > 1e-3


def test_it_is_distilled_by_command_and_its_student_keeps_the_text_encoder(tmp_path, capsys):
    folder = pipelines.text_pipeline(tmp_path / "base")
    lora_file(folder, tmp_path / "style.safetensors")
    (tmp_path / "cats.txt").write_text("a cat\na dog\n")
    (tmp_path / "r.toml").write_text('[teacher]\npath = "base"\nlora = ["style.safetensors:2"]\n[data]\nprompts = "cats.txt"\n')
    small = ("stage_one.updates=1", "stage_two.ladder=[2]", "train.batch_size=2")
    words = (
        "distill",
        tmp_path / "r.toml",
        *(word for text in small for word in ("--set", text)),
        "--out",
        tmp_path / "run",
        "--device",
        "cpu",
    )
    command(capsys, *words)
    assert "style.safetensors:2" in (tmp_path / "run" / "recipe.toml").read_text()
    teacher = fewstep.open_model(folder, lora=[f"{tmp_path / 'style.safetensors'}:2"])
    student = load_file(tmp_path / "run" / "stage-one" / "text_encoder" / "model.safetensors")
    merged = load_file(teacher.family.folder / "text_encoder" / "model.safetensors")
    assert all(torch.equal(value, merged[name]) for name, value in student.items())
    assert any(
        not torch.equal(value, student[name]) for name, value in load_file(folder / "text_encoder" / "model.safetensors").items()
    )
    command(capsys, *words)  # the same command finds its run


def test_the_bases_lora_in_a_student_changes_it_as_it_does_the_teacher(teacher, tmp_path, capsys):
    """A student has its base's layers, so that the same file fits it: its adapters are added to its own weights."""
    file = lora_file(teacher, tmp_path / "style.safetensors", also_text=False)
    saved = untrained(teacher)[1].save(tmp_path / "student")
    plain, styled = fewstep.open_model(saved), fewstep.open_model(saved, lora=file)
    base, changed = fewstep.open_model(teacher), fewstep.open_model(teacher, lora=file)
    for name, value in base.denoiser.network.state_dict().items():
        added = changed.denoiser.network.state_dict()[name] - value
        ours = styled.denoiser.network.state_dict()[name] - plain.denoiser.network.state_dict()[name]
        torch.testing.assert_close(ours, added, atol=2e-6, rtol=0)
    assert styled.info.takes_w and styled.info.history[-1]["stage"].startswith("lora: style.safetensors")
    words = ("sample", saved, "--prompt", "a", "--guidance-scale", 2, "--device", "cpu", "--lora", f"{file}:0.5")
    command(capsys, *words, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["lora"] == [f"{file}:0.5"]


def test_what_does_not_fit_is_refused_in_one_line(tmp_path, capsys):
    folder, other = pipelines.text_pipeline(tmp_path / "base"), transformer_pipelines.sd3_pipeline(tmp_path / "sd3")
    wrong = lora_file(other, tmp_path / "wrong.safetensors", also_text=False)
    digits = lora_file(folder, tmp_path / "right.safetensors")
    (tmp_path / "x.pt").write_bytes(b"pickled")
    words = ("sample", folder, "--prompt", "a", "--out", tmp_path / "out", "--device", "cpu", "--lora")
    assert "another base" in refused(capsys, *words, wrong)
    for value in (tmp_path / "none.safetensors", tmp_path / "x.pt", f"{digits}:nan", f"{digits}:inf"):
        assert "lora" in refused(capsys, *words, value)
    assert not (tmp_path / "out").exists()
    for value in (3, [3], {"a": 1}):
        with pytest.raises(InputError, match="lora"):
            loras_of(value)
    with pytest.raises(InputError, match="no LoRA"):
        fewstep.open_model("digits", lora=digits)
