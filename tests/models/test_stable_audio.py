"""Stable Audio: whole-numbered times, what the stock pipeline is guided away from, sounds of a length, WAV files, prompts as data."""

import json
import math
import shutil
import wave

import diffusers
import numpy as np
import pytest
import torch

import fewstep
from alone import untrained
from command_line import command, refused
from fewstep.export.model_card import why_not
from fewstep.models.families.pipeline_folder import quiet
from fewstep.models.sizes import at_length
from fewstep.models.sounds import Sound
from fewstep.training.examples import prepared
from fewstep.training.new_recipe import usual
from fewstep.training.recipe import load_recipe
from sound_pipelines import LENGTH, RATE, SAMPLES, stable_audio_pipeline
from tiny import CHANGES, awake

SECONDS = LENGTH * SAMPLES / RATE


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """(folder of the teacher, teacher, student of 2 steps)."""
    torch.set_num_threads(1)
    folder = stable_audio_pipeline(tmp_path_factory.mktemp("audio") / "teacher")
    return folder, *untrained(folder)


def stock(folder):
    with quiet():
        pipeline = diffusers.StableAudioPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise_of(model, n=1):
    return torch.randn(n, *model.info.shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_teacher_is_the_published_network_on_the_cosine_process(opened):
    folder, teacher, _ = opened
    published = diffusers.StableAudioDiTModel.from_pretrained(folder / "transformer")
    t, z, condition = torch.tensor([1 / 1024, 0.25, 731 / 1024, 1.0]).double(), noise_of(teacher, 4), teacher.example(4)
    given = teacher.family.inputs(z, t.float(), condition)
    v, angle = published(**given, return_dict=False)[0], (math.pi / 2 * t)[:, None, None]
    torch.testing.assert_close(teacher.denoiser(z, t, condition), angle.cos() * z - angle.sin() * v, atol=1e-5, rtol=1e-5)
    assert teacher.denoiser.process.at(t[-1:], z[:1])[0].abs().max() < 1e-9  # it ends in noise alone


@pytest.mark.slow
@pytest.mark.parametrize("negative", [None, "dog"])
def test_a_teacher_is_guided_as_its_stock_pipeline_guides(opened, tmp_path, negative):
    teacher = opened[1]
    noise, condition = noise_of(teacher), at_length(teacher, 1.5).condition(prompts=["a cat"])
    ours = teacher.with_negative_prompt(negative).sample_tensor(condition, steps=4, guidance_scale=3.0, noise=noise).samples
    given = {"num_inference_steps": 4, "guidance_scale": 3.0, "negative_prompt": negative, "latents": noise, "audio_end_in_s": 1.5}
    theirs = stock(teacher.save(tmp_path / "teacher"))("a cat", **given, output_type="latent").audios
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    whole = teacher.sample_tensor(teacher.condition(prompts=["a cat"]), steps=4, guidance_scale=3.0, noise=noise).samples
    assert (whole - ours).abs().max() > 1e-3  # the network is told how long


@pytest.mark.slow
def test_a_sound_of_a_length_is_what_the_stock_pipeline_makes_of_it(opened, tmp_path):
    baked = opened[2].bake(2.5)
    short, noise = at_length(baked, 1.3), noise_of(baked)
    (sound,) = short.sample_tensor(short.condition(prompts=["a cat"]), noise=noise).images()
    given = {"num_inference_steps": 2, "guidance_scale": 1.0, "latents": noise, "audio_end_in_s": 1.3}
    theirs = stock(baked.save(tmp_path / "baked"))("a cat", **given).audios[0]
    assert sound.samples.shape == (2, 10) and sound.seconds == 1.25 and sound.samples.std() > 1e-3
    torch.testing.assert_close(sound.samples, theirs, atol=1e-4, rtol=1e-4)


def test_a_sound_is_written_as_16_bits(tmp_path):
    samples = torch.tensor([[0.0, 0.5, 1.0, -1.0, 2.0], [-0.25, 0.0, 0.0, 0.0, math.nan]])
    Sound(samples, 44100).save(tmp_path / "one.wav")
    with wave.open(str(tmp_path / "one.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (2, 2, 44100, 5)
        read = np.frombuffer(file.readframes(5), "<i2").reshape(5, 2).T
    assert read.tolist() == [[0, 16384, 32767, -32767, 32767], [-8192, 0, 0, 0, 0]]


def test_the_command_writes_sounds(opened, tmp_path, capsys):
    words = ["sample", opened[0], "--prompt", "a cat", "--prompt", "dog", "--guidance-scale", 2, "--steps", 2, "--device", "cpu"]
    said, _ = command(capsys, *words, "--seconds", 1.5, "--out", tmp_path / "out")
    assert said.startswith("2 sounds, 4 evaluations")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"00000.wav", "00001.wav", "samples.json"}
    with wave.open(str(tmp_path / "out" / "00001.wav")) as file:
        assert (file.getframerate(), file.getnframes()) == (RATE, 1.5 * RATE)
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["seconds_of_sound"] == 1.5
    assert "seconds is 60.0; give a number from 0.125 to 3" in refused(capsys, *words, "--seconds", 60, "--out", tmp_path / "other")
    assert "neither height nor width" in refused(capsys, *words, "--height", 64, "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_what_is_for_pictures_is_refused(opened, tmp_path, capsys):
    model, picture, out = opened[0], tmp_path / "one.png", tmp_path / "out"
    for words in (
        ["evaluate", model, "--data", "digits"],
        ["compare", model, model, "--prompt", "a"],
        ["edit", model, "--image", picture, "--prompt", "a", "--strength", "0.5"],
        ["inpaint", model, "--image", picture, "--mask", picture, "--prompt", "a"],
        ["translate", model, "--image", picture, "--from", "a", "--to", "b"],
        ["distill", "--teacher", model, "--data", tmp_path, "--steps", 2],
        ["cache", "--teacher", model, "--data", tmp_path],
        ["new", "--teacher", model, "--data", tmp_path],
    ):
        assert "makes sounds" in refused(capsys, *words, "--out", out), words
    assert "makes sounds" in refused(capsys, "playground", model)
    assert not (out / "teacher").exists()
    assert "pictures or videos" in refused(capsys, "sample", "digits", "--seconds", 2, "--out", out)


def test_prompts_are_data_of_sounds_of_different_lengths(opened, tmp_path):
    """Half of the teacher's samples are as long as can be, the others shorter; on the fly as in a cache."""
    teacher, file = opened[1], tmp_path / "prompts.txt"
    file.write_text("a cat\ndog\nab\n")
    changes = {"data.prompts": str(file), "data.samples_per_prompt": 4, "data.sampling_steps": 2}
    to_cache, recipe = prepared(None, load_recipe(None, changes), teacher), load_recipe(None, changes | {"data.on_the_fly": True})
    cached, flying = to_cache.written(tmp_path / "cache", recipe, "cpu", True), prepared(None, recipe, teacher)
    (x, condition), (same, others) = cached.batch(0, 12), flying.batch(0, 12)
    torch.testing.assert_close(x, same, atol=1e-5, rtol=1e-5)
    assert all(torch.allclose(value, others[leaf], atol=1e-5) for leaf, value in condition.items())
    longest = teacher.condition(prompts=["a cat"])["seconds"].expand(12, -1, -1)
    assert 0 < sum(map(torch.allclose, condition["seconds"], longest)) < 12
    torch.testing.assert_close(condition["seconds"][:, 0], longest[:, 0])  # they begin at 0


@pytest.mark.slow
def test_prompts_alone_are_distilled(opened, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\ndog\n")
    changes = CHANGES | {"data.prompts": str(tmp_path / "prompts.txt"), "data.samples_per_prompt": 2, "data.sampling_steps": 2}
    student = fewstep.distill(opened[0], out=tmp_path / "run", changes=changes, device="cpu", quiet=True)
    assert student.info.steps == 2 and student.info.stock["agrees"] and not list((tmp_path / "run").rglob("*.png"))
    (sound,) = student.sample(prompts=["a cat"], guidance_scale=3.0)
    assert sound.seconds == SECONDS


def test_steps_are_powers_of_two(opened, tmp_path):
    _, teacher, student = opened
    folder = student.bake(2.5).save(tmp_path / "student")
    reasons = [why_not(fewstep.open_model(folder).info.model_copy(update={"steps": steps}), folder) for steps in (16, 1024, 5)]
    assert reasons[:2] == [None, None] and "5 does not divide 1024" in (reasons[2] or "")
    assert usual(teacher, "cpu")["stage_two.ladder"].value == [64, 16, 8, 4, 2, 1]


@pytest.mark.parametrize(
    ("part", "changed", "message"),
    [
        ("scheduler/scheduler_config", {"_class_name": "EDMDPMSolverMultistepScheduler"}, "the scheduler is EDM.*CosineDPM"),
        ("scheduler/scheduler_config", {"sigma_data": 0.5}, "sigma_data 0.5"),
        ("projection_model/config", {"text_encoder_dim": 16}, "text encoder's features .*12.*16"),
        ("transformer/config", {"global_states_input_dim": 20}, "both seconds are 24.*20"),
        ("vae/config", {"decoder_input_channels": 8}, "VAE's channels are 8"),
        ("transformer/config", {"num_layers": "two"}, "transformer is damaged"),  # and not the scheduler, which needs torchsde
    ],
)
def test_teachers_that_do_not_fit_are_refused(opened, tmp_path, part, changed, message):
    made = tmp_path / "teacher"
    shutil.copytree(opened[0], made)
    file = made / f"{part}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(fewstep.InputError, match=message):
        fewstep.open_model(made)


def test_half_precision_keeps_the_times(opened, tmp_path):
    """Frequencies are divided by a power of two, and whole numbers up to 1023 are exact where fractions are not."""
    made = tmp_path / "teacher"
    shutil.copytree(opened[0], made)
    network = diffusers.StableAudioDiTModel.from_pretrained(made / "transformer").to(torch.bfloat16)
    network.save_pretrained(made / "transformer")
    frequencies = network.time_proj.weight
    kept = fewstep.models.pretrained.open_model(made, dtype=None).denoiser.network.time_proj.weight
    assert torch.equal(kept * 1024, frequencies)


@pytest.mark.slow
def test_a_teacher_saved_is_opened_as_it_was(opened, tmp_path):
    teacher = opened[1]
    again = fewstep.open_model(teacher.save(tmp_path / "again"))
    condition, noise = teacher.example(2), noise_of(teacher, 2)
    one, other = (model.sample_tensor(condition, steps=3, guidance_scale=2.0, noise=noise).samples for model in (teacher, again))
    assert torch.equal(one, other)
    assert awake(teacher.family.student_of(again.denoiser.network)).w_embedding.weight.std() > 0.1
