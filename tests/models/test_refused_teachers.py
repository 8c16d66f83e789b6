"""What is no teacher, of each family, and as a user meets it: one line from the command, exit code 2, nothing written."""

import shutil
from functools import cache
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from test_open_teachers import change

import fewstep
import pipelines
import unet_pipelines
from command_line import command, refused
from conftest import run_command
from family_cases import CASES
from fewstep.method.conditioning import take
from fewstep.models.shapes import open_shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return pipelines.text_pipeline(tmp_path_factory.mktemp("refused") / "pipeline")


@pytest.fixture
def distill(tmp_path, capsys):
    """A function that gives the one line with which `fewstep distill` refuses a teacher."""
    (tmp_path / "prompts.txt").write_text("a cat\n")

    def words(teacher, *more):
        out = tmp_path / "run"
        line = refused(capsys, "distill", "--teacher", teacher, "--prompts", tmp_path / "prompts.txt", "--out", out, *more)
        assert not out.exists()
        return line

    return words


def pickle(copy):
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda copy: change(copy / "model_index.json", _class_name="AudioLDMPipeline"),
         ("AudioLDMPipeline", "StableDiffusionXLPipeline", "FluxPipeline", "fewstep.Denoiser(network")),
        (lambda copy: change(copy / "unet" / "config.json", time_cond_proj_dim=256), ("guidance-distilled already", "name its teacher")),
        (lambda copy: change(copy / "text_encoder" / "config.json", hidden_size=16),
         ("text encoder's features are 16, the network takes 12",)),
        (lambda copy: change(copy / "vae" / "config.json", latent_channels=16), ("VAE's latents are 16, the network takes 4",)),
        (lambda copy: (copy / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "KarrasVeScheduler"}'),
         ("KarrasVeScheduler", "continuous times")),
        (lambda copy: change(copy / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler", rescale_betas_zero_snr=True),
         ("terminal SNR of zero",)),
        (pickle, ("pickled", "use_safetensors=False", "save_pretrained('converted')")),
        (lambda copy: shutil.rmtree(copy / "unet"), ("unet/config.json",)),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_teacher(folder, tmp_path, distill, damage, parts):
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy)
    line = distill(copy)
    assert all(part in line for part in parts), line


def test_pickled_files_and_names_of_nothing(tmp_path, distill):
    for name in ("old.ckpt", "old.bin", "old.pt"):
        (tmp_path / name).write_bytes(b"")
        line = distill(tmp_path / name)
        assert "pickled" in line and "StableDiffusionPipeline.from_single_file" in line
    assert "is not a folder" in distill("no such thing")


def test_a_prior_and_a_distilled_student_are_no_teachers(folder, tmp_path, distill):
    diffusers.KandinskyV22PriorPipeline(**unet_pipelines.prior_parts()).save_pretrained(tmp_path / "prior")
    assert "distil the decoder" in distill(tmp_path / "prior")
    lcm = shutil.copytree(folder, tmp_path / "lcm")
    change(lcm / "scheduler" / "scheduler_config.json", _class_name="LCMScheduler")
    assert "distilled already (its scheduler is LCMScheduler)" in distill(lcm)


@pytest.mark.parametrize(
    ("name", "mark"), [("sdxl-turbo", "turbo"), ("models--me--sd3.5-Large-Turbo/snapshots/ab12", "Turbo"), ("x_4-steps", "4-steps")]
)
def test_a_pipeline_that_is_distilled_by_its_name_is_refused_unless_it_is_forced(folder, tmp_path, distill, name, mark):
    copy = shutil.copytree(folder, tmp_path / name)
    line = distill(copy)
    assert f"'{mark}'" in line and "--force" in line
    with pytest.raises(fewstep.InputError, match="distilled already"):
        fewstep.open_model(copy)
    assert fewstep.open_model(copy, force=True).info.kind == "teacher"
    assert fewstep.open_model(shutil.copytree(folder, tmp_path / "turbocharged")).info.kind == "teacher"


@pytest.mark.parametrize("name", ["kolors", "prx"])
def test_a_family_whose_package_is_not_installed_names_the_extra(monkeypatch, name):
    monkeypatch.setattr(f"fewstep.models.families.{name}.find_spec", lambda package: None)
    with pytest.raises(fewstep.InputError, match=rf"fewstep\[{name}\]"):
        open_shapes(Path(__file__).parents[1] / "configs" / name)


@pytest.mark.slow
def test_a_hub_id_without_a_connection_is_one_line(tmp_path):
    """In a process of its own, which is told at its start that there is no network."""
    words = ["sample", "someone/something", "--prompt", "a", "--out", tmp_path / "out", "--device", "cpu"]
    _, said = run_command(*words, expect=2)
    assert said.count("\n") == 1 and "'someone/something' is not a folder here, and as a hub id it gives no pipeline" in said


def test_a_prompt_that_is_cut_is_a_warning_with_the_cut(folder, tmp_path, capsys):
    words = ["--prompt", "a b c d e f g h i", "--steps", 2, "--device", "cpu", "--out", tmp_path / "out"]
    with pytest.warns(UserWarning, match=r"a prompt of 11 tokens is cut to 8; not read: 'g h i'"):
        command(capsys, "sample", folder, *words)
    assert (tmp_path / "out" / "00000.png").is_file()


def test_a_negative_prompt_is_for_teachers_and_a_class_for_models_of_classes(folder, tmp_path, capsys):
    classes = pipelines.class_pipeline(tmp_path / "classes", latent=True)
    words = ["--steps", 2, "--device", "cpu", "--out"]
    assert "negative prompt" in refused(capsys, "sample", classes, "--negative-prompt", "a", *words, tmp_path / "one")
    assert "takes class labels" in refused(capsys, "sample", classes, "--prompt", "a", *words, tmp_path / "two")
    assert "takes prompts" in refused(capsys, "sample", folder, "--class-label", "1", *words, tmp_path / "three")
    assert not [path for path in tmp_path.iterdir() if path.name in ("one", "two", "three")]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A function that gives the folder of a family's tiny teacher, made once."""
    root = tmp_path_factory.mktemp("teachers")
    return cache(lambda name: CASES[name].build(root / name))


@pytest.mark.parametrize(
    ("name", "file", "keys", "message"),
    [
        ("SDXL", "unet", {"time_cond_proj_dim": 256}, "guidance-distilled already"),
        ("SDXL", "scheduler", {"_class_name": "LCMScheduler"}, r"distilled already \(its scheduler is LCMScheduler\)"),
        ("SDXL", "", {"requires_aesthetics_score": True}, "is a refiner"),
        ("SDXL", "text_encoder", {"hidden_size": 16}, "text encoders' features are 24, the network takes 20"),
        ("SDXL", "text_encoder_2", {"projection_dim": 12}, "pooled text's features are 12, the network takes 10"),
        ("SDXL", "vae", {"latent_channels": 16}, "latents are 16, the network takes 4"),
        ("SDXL", "vae", {"latents_mean": [0, 0, 0, 0]}, "latents_mean is not known"),
        ("DeepFloyd IF", "unet", {"time_cond_proj_dim": 256}, "guidance-distilled already"),
        ("DeepFloyd IF", "unet", {"out_channels": 3}, "takes 3 channels and gives 3; IFPipeline needs one that gives 6"),
        ("DeepFloyd IF, super-resolution", "unet", {"in_channels": 3}, "takes 3 channels and gives 6"),
        ("DeepFloyd IF", "text_encoder", {"d_model": 16}, "features are 16, the network takes 12"),
        ("Kandinsky 2.2 decoder", "unet", {"time_cond_proj_dim": 256}, "guidance-distilled already"),
        ("Kandinsky 2.2 decoder", "unet", {"addition_embed_type": "text_image"}, "name a Kandinsky 2.2 decoder"),
        ("Kandinsky 2.2 decoder", "unet", {"in_channels": 9}, "takes 9 channels and gives 8; KandinskyV22Pipeline needs one that gives 18"),
        ("Kandinsky 2.2 decoder", "movq", {"vq_embed_dim": 3}, "movq's latents are 3, the network takes 4"),
        ("Kandinsky 2.2 decoder", "prior_image_encoder", {"projection_dim": 16}, "embeddings are 16, the network takes 12"),
        ("DiT", "transformer", {"num_embeds_ada_norm": None}, "takes no class"),
        ("DiT", "vae", {"latent_channels": 16}, "VAE's channels are 16, the network takes 4"),
        ("PixArt", "text_encoder", {"d_model": 16}, "text encoder's features are 16, the network takes 10"),
        ("PixArt", "scheduler", {"_class_name": "LCMScheduler"}, "distilled already"),
        ("Stable Diffusion 3", "text_encoder_3", {"d_model": 16}, "third text encoder's features are 16, the network takes 24"),
        ("Stable Diffusion 3", "text_encoder_2", {"projection_dim": 4}, "projections are 12, the network takes 16"),
        ("Stable Diffusion 3", "transformer", {"in_channels": 9}, "no family that is known"),
        ("Flux", "transformer", {"guidance_embeds": True}, r"guidance-distilled already.*true_cfg_scale"),
        ("Flux", "text_encoder_2", {"d_model": 16}, "16, the network takes 12"),
        ("Flux", "vae", {"latent_channels": 16}, "64, the network takes 16"),
        ("Flux", "transformer", {"sample_size": 7}, r"sample_size 7 makes no patches; 2 multiples of \[2, 2\]"),
        ("Qwen-Image", "transformer", {"guidance_embeds": True}, "guidance-distilled already"),
        ("Qwen-Image", "transformer", {"zero_cond_t": True}, "zero_cond_t"),
        ("Qwen-Image", "text_encoder", {"text_config": {"hidden_size": 8}}, "8, the network takes 16"),
        ("Wan", "", {"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "transformer_2/config.json"),
        ("Wan 2.2 A14B", "", {"boundary_ratio": None}, "boundary_ratio is None"),
        ("Wan 2.2 A14B", "transformer_2", {"num_attention_heads": 4}, "num_attention_heads of the second network are 4, the network takes 2"),
        ("Wan", "transformer", {"in_channels": 12}, "begins from a picture"),
        ("Wan", "text_encoder", {"d_model": 16}, "16, the network takes 12"),
        ("Wan", "transformer", {"sample_size": [3, 4]}, "3 multiples"),
        ("FLUX.2 klein", "", {"is_distilled": True}, r"guidance-distilled already \(is_distilled is set\)"),
        ("FLUX.2 klein", "transformer", {"guidance_embeds": True}, "guidance-distilled already"),
        ("FLUX.2 klein", "text_encoder", {"hidden_size": 12}, "36, the network takes 24"),
        ("CogVideoX", "transformer", {"patch_size_t": 2}, "CogVideoX 1.5"),
        ("CogVideoX", "transformer", {"in_channels": 8}, "begins from a picture"),
        ("Krea 2", "", {"is_distilled": True}, r"guidance-distilled already \(is_distilled is set\)"),
        ("Krea 2", "", {"text_encoder_select_layers": [0]}, "selected layers of the text encoder are 1, the network takes 2"),
        ("Sana", "transformer", {"timestep_scale": 1000.0}, "timestep_scale is 1000.0, of SANA-Sprint"),
        ("Z-Image", "transformer", {"cap_feat_dim": 12}, "16, the network takes 12"),
        ("HunyuanDiT", "text_encoder_2", {"d_model": 12}, "second text encoder's features are 12, the network takes 16"),
    ],
)  # fmt: skip
def test_a_folder_whose_parts_do_not_fit_is_refused_in_one_line(built, tmp_path, name, file, keys, message):
    copy = shutil.copytree(built(name), tmp_path / "copy")
    (copy / "transformer_2").mkdir(exist_ok=True)
    names = {"": "model_index.json", "scheduler": "scheduler/scheduler_config.json"}
    change(copy / names.get(file, f"{file}/config.json"), **keys)
    with pytest.raises(fewstep.InputError, match=message) as error:
        fewstep.open_model(copy)
    assert "\n" not in str(error.value)


def test_a_folder_without_its_text_encoder_takes_embeddings_that_were_made_elsewhere(built, tmp_path):
    copy = shutil.copytree(built("DeepFloyd IF"), tmp_path / "copy")
    change(copy / "model_index.json", text_encoder=[None, None])
    model = fewstep.open_model(copy)
    assert model.sample_tensor(take(model.example(2), slice(1)), steps=2).samples.shape == (1, 3, 8, 8)
    with pytest.raises(fewstep.InputError, match="no text_encoder and tokenizer"):
        model.condition(prompts="a")
