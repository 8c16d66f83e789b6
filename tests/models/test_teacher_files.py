"""Teachers' files as people have them: variants alone, tokenizers without a limit, LoRA files, weights that are not finite."""

import json
import shutil
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file, save_file

import fewstep
import pipelines
from command_line import command, refused
from fewstep.errors import InputError

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.set_num_threads(1)
    return pipelines.text_pipeline(tmp_path_factory.mktemp("files") / "pipeline")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "teacher")


def change_weights(file, change):
    save_file({name: change(value) for name, value in load_file(file).items()}, file, {"format": "pt"})


def as_variant(folder, variant="fp16", parts=("unet", "vae", "text_encoder"), keep=False):
    """Write the weights of some parts in half precision under a variant's name, in place of the plain ones or besides."""
    for part in parts:
        file = folder / part / f"{WEIGHTS[part]}.safetensors"
        half = {name: value.half() if value.is_floating_point() else value for name, value in load_file(file).items()}
        save_file(half, file.with_name(f"{WEIGHTS[part]}.{variant}.safetensors"), {"format": "pt"})
    for part in () if keep else parts:
        (folder / part / f"{WEIGHTS[part]}.safetensors").unlink()


@pytest.mark.parametrize("asked", [None, "fp16"])
@pytest.mark.parametrize("parts", [("unet", "vae", "text_encoder"), ("vae",), ("unet",)])
def test_a_folder_of_variants_alone_opens_and_says_so(folder, asked, parts):
    as_variant(folder, parts=parts)
    with pytest.warns(UserWarning, match="fp16 weights alone") if asked is None else nullcontext():
        model = fewstep.open_model(folder, variant=asked)
    assert {p.dtype for p in model.denoiser.network.parameters()} == {torch.float32}
    assert len(model.sample(prompts="a", num_images=1, steps=1)) == 1
    saved = model.save(folder.parent / "saved")  # its parts come along, under their plain names
    assert all((saved / part / f"{name}.safetensors").is_file() for part, name in WEIGHTS.items())


def test_the_variant_that_is_asked_for_is_opened_and_a_wrong_one_is_named(folder):
    as_variant(folder, keep=True)
    plain, half = (dict(fewstep.open_model(folder, variant=v).denoiser.network.named_parameters()) for v in (None, "fp16"))
    assert all(torch.equal(half[name], plain[name].half().float()) for name in plain)
    assert any(not torch.equal(half[name], plain[name]) for name in plain)
    with pytest.raises(InputError, match=r"'bf16', but fp16, plain"):
        fewstep.open_model(folder, variant="bf16")
    with pytest.raises(InputError, match="'fp16', but plain"):
        fewstep.open_model("digits", variant="fp16")


def test_several_variants_without_plain_weights_are_a_choice(folder):
    as_variant(folder, "bf16", keep=True)
    as_variant(folder, "fp16")
    with pytest.raises(InputError, match=r"variants bf16, fp16; name one: --variant"):
        fewstep.open_model(folder)
    assert fewstep.open_model(folder, variant="bf16").info.kind == "teacher"


def test_commands_take_a_variant(folder, tmp_path, capsys):
    as_variant(folder)
    drawn = ["sample", folder, "--prompt", "a", "--steps", 1, "--device", "cpu", "--out", tmp_path / "out"]
    for words in (drawn, ["show", folder], ["export", folder, tmp_path / "exported"]):
        command(capsys, *words, "--variant", "fp16")
        assert "no weights of the variant 'int8'" in refused(capsys, *words, "--variant", "int8")
    assert (tmp_path / "out" / "00000.png").is_file()
    (tmp_path / "prompts.txt").write_text("a\n")
    shown, _ = command(
        capsys,
        "distill",
        "--teacher",
        folder,
        "--variant",
        "fp16",
        "--prompts",
        tmp_path / "prompts.txt",
        "--out",
        tmp_path / "run",
        "--dry-run",
    )
    assert 'variant = "fp16"' in shown


def test_a_tokenizer_without_a_limit_takes_that_of_its_text_encoder(folder):
    file = folder / "tokenizer" / "tokenizer_config.json"
    known = json.loads(file.read_text())
    expected = fewstep.open_model(folder).condition(prompts=["a b"])
    del known["model_max_length"]
    file.write_text(json.dumps(known))
    model = fewstep.open_model(folder)
    torch.testing.assert_close(model.condition(prompts=["a b"])["text"], expected["text"], rtol=0, atol=0)
    with pytest.warns(UserWarning, match="cut to 8"):
        assert model.condition(prompts=["a b c d e f g h i"])["text"].shape[1] == pipelines.TOKENS
    saved = model.save(folder.parent / "saved")
    assert json.loads((saved / "tokenizer" / "tokenizer_config.json").read_text())["model_max_length"] == pipelines.TOKENS


@pytest.mark.parametrize(
    "name",
    [
        "unet.down_blocks.0.attentions.0.to_q.lora_A.weight", "lora_unet_down_blocks_0_attentions_0_to_q.lora_down.weight",
        "unet.down_blocks.0.attn1.processor.to_q_lora.lora_linear_layer.up.weight", "block.hada_w1_a",
    ],
)  # fmt: skip
def test_a_lora_file_says_what_it_is(tmp_path, capsys, name):
    file = tmp_path / "style" / "pytorch_lora_weights.safetensors"
    file.parent.mkdir()
    save_file({name: torch.zeros(2, 2)}, file)
    for given in (file, file.parent):
        line = refused(capsys, "sample", given, "--prompt", "a", "--out", tmp_path / "out")
        assert "is a LoRA" in line and f"--lora {file}" in line


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("part", "tensor"), [("unet", "conv_in.bias"), ("vae", "decoder.conv_in.bias"), ("text_encoder", "embeddings")]
)
def test_weights_that_are_not_finite_are_named(folder, tmp_path, capsys, part, tensor, value):
    file = folder / part / f"{WEIGHTS[part]}.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if tensor in name and weights[name].is_floating_point())
    weights[name].view(-1)[0] = value
    save_file(weights, file, {"format": "pt"})
    line = refused(capsys, "sample", folder, "--prompt", "a", "--steps", 1, "--device", "cpu", "--out", tmp_path / "out")
    assert str(folder) in line and name.removeprefix("text_model.") in line and "not finite" in line
    assert part == "unet" or f"{folder / part}" in line
    assert not list((tmp_path / "out").glob("*.png"))


def test_a_network_of_ones_own_with_weights_that_are_not_finite_is_refused():
    network = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(network.weight, float("nan"))
    data = fewstep.open_data(name="digits")
    with pytest.raises(InputError, match=r"teacher's network: weight.*not finite"):
        fewstep.distill(fewstep.Denoiser(network, null=10), data, out="nowhere")
