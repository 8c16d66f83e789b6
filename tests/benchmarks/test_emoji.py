"""The scripts of the emoji at tiny sizes: network and text encoder trained together become a stock pipeline that can be distilled."""

import json
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch

import fewstep
from benchmarks.quality import emoji, emoji_autoencoder, emoji_judge, emoji_paths, emoji_teacher
from benchmarks.quality.ladders import cost
from benchmarks.uses import base_lora, editing, emoji_editing, emoji_lora
from fewstep.training.recipe import load_recipe

CAPTIONS = ["red heart", "cat face", "cat face with tears of joy", "left arrow", "heart with arrow", "face with red heart"]
TINY = "--channels 8 12 --features 12 --updates 4 --batch-size 4 --checkpoint-every 3 --device cpu --quiet".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The teacher's run folder, of six random pictures in two kinds and a tiny stock autoencoder; `judge` is in it."""
    root = tmp_path_factory.mktemp("emoji")
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    (root / "given").mkdir()
    for split in ("train", "test"):
        np.savez(
            root / f"given/{split}.npz", images=images, captions=np.array(CAPTIONS), kind=np.array(["base"] * 5 + ["skin_tone"])
        )
    torch.manual_seed(0)
    channels = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
    sizes = channels | {"latent_channels": 5, "scaling_factor": 1.5}
    diffusers.AutoencoderTiny(**sizes, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).save_pretrained(root / "vae")
    words = ["--data", str(root / "given"), "--vae", str(root / "vae"), "--out", str(root / "run"), *TINY]
    for _ in range(2):  # the second time it is finished
        emoji_teacher.main(words)
    words = [
        "--data",
        str(root / "run/data"),
        "--tokenizer",
        str(root / "run/teacher"),
        "--out",
        str(root / "run/judge"),
        "--quiet",
    ]
    emoji_judge.main([*words, "--updates", "3", "--batch-size", "4"])
    return root / "run"


@pytest.fixture(scope="module")
def pipeline(run):
    found = diffusers.StableDiffusionPipeline.from_pretrained(run / "teacher")
    found.set_progress_bar_config(disable=True)
    return found


def test_the_teacher_is_a_stock_pipeline_whose_text_encoder_was_trained(run, pipeline):
    assert np.load(run / "data/train.npz")["captions"].tolist() == CAPTIONS[:5]  # pictures of the chosen kinds alone
    model = fewstep.open_model(run / "teacher")
    assert (model.info.family, model.info.kind, model.info.prediction) == ("stable_diffusion", "teacher", "v")
    assert (model.info.shape, model.info.picture) == ((5, 8, 8), (3, 16))
    torch.manual_seed(0)
    fresh = emoji_teacher.new_network(pipeline.vae, len(pipeline.tokenizer), 8, 12, (8, 12)).text_encoder.state_dict()
    moved = [name for name, value in pipeline.text_encoder.state_dict().items() if not torch.equal(value, fresh[name])]
    assert len(moved) > 10
    with torch.no_grad():
        trained_on = pipeline.text_encoder(emoji_teacher.tokens_of(pipeline.tokenizer, CAPTIONS))[0]
    torch.testing.assert_close(model.condition(prompts=CAPTIONS)["text"], trained_on)


def test_the_stock_autoencoder_of_taef2_is_taef2_but_for_its_pooled_branches():
    torch.manual_seed(0)
    encoder, decoder = emoji_autoencoder.networks()
    for block in [*encoder, *decoder]:
        if isinstance(block, emoji_autoencoder.Block) and block.pool is not None:
            torch.nn.init.zeros_(block.pool[3].weight)  # what the branches add is nothing: then all is the same
    made, x = emoji_autoencoder.stock(encoder, decoder), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(made.encode(x * 2 - 1).latents, encoder(x))
        torch.testing.assert_close((made.decode(encoder(x)).sample + 1) / 2, decoder(encoder(x)))


def test_the_judge_is_a_clip_model_and_the_benchmark_measures_and_draws(run, tmp_path):
    found = json.loads((run / "judge/RESULT.json").read_text())
    assert 0 <= found["train_first"] <= found["train_first_five"] == 1  # of five captions and one more
    out, grid = tmp_path / "emoji.json", tmp_path / "emoji.png"
    words = ["--teacher", str(run / "teacher"), "--data", str(run / "data"), "--judge", str(run / "judge/judge")]
    words += "--guidance-scale 1 4 --baselines dpm++ --budgets 8 --reference-steps 5 --samples 6 --prompts cat heart".split()
    emoji.main([*words, "--out", str(out), "--grid", str(grid)])
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 2 * 2 * 2  # scales, samplers, sets of captions
    assert {(row["steps"], row["evaluations"]) for row in rows if row["guidance_scale"] == 4} == {(5, 10), (4, 8)}
    assert [row["rms_to_teacher"] is None for row in rows] == [row["sampler"] == "ddim" for row in rows]
    assert all(0 <= row["found"] <= row["found_among_five"] <= 1 and row["frechet"] >= 0 for row in rows)
    assert grid.stat().st_size > 1000


def test_a_batch_in_which_all_find_each_other_has_the_least_error():
    class Perfect(torch.nn.Module):
        def forward(self, input_ids, pixel_values):
            return SimpleNamespace(logits_per_image=100 * (input_ids[:, None] == input_ids[None]).all(2).float())

    x, tokens = torch.zeros(3, 3, 4, 4), torch.tensor([[1, 2], [3, 4], [1, 2]])
    torch.testing.assert_close(emoji_judge.contrast(Perfect(), x, tokens), torch.tensor([1.0, 0.0, 1.0]) * float(np.log(2)))


def test_the_ways_to_distil_have_nearly_as_many_evaluations():
    costs = [cost(load_recipe("emoji", emoji_paths.changes_of(way, 0.15))) for way in emoji_paths.VARIANTS]
    most, least = (f(cost["evaluations"] for cost in costs) for f in (max, min))
    assert most < 1.02 * least


@pytest.fixture(scope="module")
def students(run, tmp_path_factory):
    """A run folder of students of 4 and 2 steps."""
    changes = dict.fromkeys(("stage_one.updates", "stage_two.updates", "stage_two.last_updates"), 1)
    changes |= {"stage_two.ladder": [8, 4, 2], "train.batch_size": 2, "train.warmup": 0}
    out = tmp_path_factory.mktemp("students") / "run"
    fewstep.distill(run / "teacher", run / "data/train.npz", out=out, changes=changes, device="cpu", quiet=True)
    return out


@pytest.mark.slow
def test_students_by_paths_are_measured_against_pictures_kept_from_before(run, tmp_path):
    words = ["--teacher", str(run / "teacher"), "--data", str(run / "data"), "--judge", str(run / "judge/judge")]
    words += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "p.json"), "--only", "paths", "--times", "1"]
    words += "--steps 4 1 --guidance-scale 2 --reference-steps 8 --samples 6 --set stage_one.updates=1 stage_two.updates=1".split()
    words += "stage_two.last_updates=1 paths.updates=2 paths.count=16 train.batch_size=2 train.warmup=0".split()
    emoji_paths.main(words)
    first = json.loads((tmp_path / "p.json").read_text())["variants"]["paths, 1"]["rows"]
    assert {(row["captions"], row["steps"]) for row in first} == {(name, n) for name in emoji.SETS for n in (4, 1)}
    assert len(list((tmp_path / "work/references").iterdir())) == 1  # the captions of both sets are the same here
    emoji_paths.main(words)
    again = json.loads((tmp_path / "p.json").read_text())["variants"]["paths, 1"]["rows"]
    assert all(a["rms_to_teacher"] == b["rms_to_teacher"] > 0 < b["frechet_to_teacher"] for a, b in zip(again, first, strict=True))


@pytest.mark.slow
def test_the_lora_of_a_text_model_is_a_file_for_the_stock_pipeline_and_is_measured_on_students(run, students, tmp_path, pipeline):
    words = [
        "--teacher",
        str(run / "teacher"),
        "--run",
        str(students),
        "--data",
        str(run / "data"),
        "--judge",
        str(run / "judge/judge"),
    ]
    words += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "l.json"), "--lora-updates", "3", "--samples", "4"]
    emoji_lora.main(words)
    rows = {(row["style"], row["model"], row["steps"]): row for row in json.loads((tmp_path / "l.json").read_text())["rows"]}
    assert {key[1] for key in rows if key[0] != "none"} == {
        "teacher",
        "all scales",
        "one scale",
        "distilled again",
        "all scales, without it",
    }
    assert rows["other colours", "teacher", 64]["rms_to_teacher"] == 0 < rows["other colours", "all scales", 4]["rms_to_teacher"]
    stock, file = diffusers.StableDiffusionPipeline.from_pretrained(run / "teacher"), tmp_path / "work/lora" / base_lora.FILE
    stock.load_lora_weights(str(file.parent), weight_name=file.name)
    stock.fuse_lora()
    stock.unload_lora_weights()
    ours = fewstep.open_model(run / "teacher", lora=file).denoiser.network.state_dict()
    for name, value in stock.unet.state_dict().items():
        torch.testing.assert_close(ours[name], value)
    assert not torch.equal(ours["conv_in.weight"], pipeline.unet.state_dict()["conv_in.weight"])


def test_in_other_colours_red_is_green_and_white_stays():
    x = torch.tensor([[1.0, 0, 0], [1, 1, 1]])[:, :, None, None]
    assert emoji_lora.turned(x)[:, :, 0, 0].tolist() == [[0, 1, 0], [1, 1, 1]]


@pytest.mark.slow
def test_edits_by_text_are_measured_at_equal_strength_and_noise(run, students, tmp_path, monkeypatch):
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    monkeypatch.setattr(editing, "REFERENCE", 16)
    words = ["--teacher", str(run / "teacher"), "--run", str(students), "--data", str(run / "data"), "--images", "3"]
    emoji_editing.main([*words, "--judge", str(run / "judge/judge"), "--out", str(out), "--picture", str(picture)])
    rows = json.loads(out.read_text())["rows"]
    taken = {(r["model"], r["steps"], r["strength"]): r["evaluations"] for r in rows}
    assert taken["student", 4, 0.5] == 2 and taken["teacher", 16, 0.5] == 16 and taken["teacher, not guided", 4, 0.5] == 2
    assert all(0 <= r["found"] <= 1 for r in rows)
    assert [r["rms_to_teacher"] for r in rows if r["steps"] == 16] == [0.0] * 8
    assert picture.stat().st_size > 1000
