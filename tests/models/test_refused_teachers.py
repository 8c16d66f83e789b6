"""What is no teacher, as a user meets it: one line from the command, exit code 2, nothing written."""

import shutil

import diffusers
import pytest
import test_open_teachers as damages
import torch

import pipelines
import unet_pipelines
from command_line import command, refused
from conftest import run_command


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


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (damages.other_pipeline, ("AudioLDMPipeline", "StableDiffusionXLPipeline", "FluxPipeline", "fewstep.Denoiser(network")),
        (damages.distilled, ("guidance-distilled already", "name its teacher")),
        (damages.other_text, ("text encoder's features are 16, the network takes 12",)),
        (damages.other_vae, ("VAE's latents are 16, the network takes 4",)),
        (damages.unknown_scheduler, ("KarrasVeScheduler has no noise process that is known",)),
        (damages.nothing_said, ("terminal SNR of zero",)),
        (damages.pickled, ("pickled", "use_safetensors=False", "save_pretrained('converted')")),
        (damages.no_network, ("unet/config.json",)),
    ],
)
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
    damages.change(lcm / "scheduler" / "scheduler_config.json", _class_name="LCMScheduler")
    assert "distilled already (LCMScheduler)" in distill(lcm)


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
