"""The scripts of the emoji at tiny sizes: network and text encoder trained together become a stock pipeline that can be distilled."""

import json
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch

import fewstep
from benchmarks.quality import emoji, emoji_autoencoder, emoji_judge, emoji_teacher
from benchmarks.uses import editing, emoji_editing

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


@pytest.mark.slow
def test_edits_by_text_are_measured_at_equal_strength_and_noise(run, tmp_path, monkeypatch):
    changes = dict.fromkeys(("stage_one.updates", "stage_two.updates", "stage_two.last_updates"), 1)
    changes |= {"stage_two.ladder": [8, 4, 2], "train.batch_size": 2, "train.warmup": 0}
    data, out, picture = str(run / "data/train.npz"), tmp_path / "out.json", tmp_path / "out.png"
    fewstep.distill(run / "teacher", data, out=tmp_path / "students", changes=changes, device="cpu", quiet=True)
    monkeypatch.setattr(editing, "REFERENCE", 16)
    words = ["--teacher", str(run / "teacher"), "--run", str(tmp_path / "students"), "--data", str(run / "data"), "--images", "3"]
    emoji_editing.main([*words, "--judge", str(run / "judge/judge"), "--out", str(out), "--picture", str(picture)])
    rows = json.loads(out.read_text())["rows"]
    taken = {(r["model"], r["steps"], r["strength"]): r["evaluations"] for r in rows}
    assert taken["student", 4, 0.5] == 2 and taken["teacher", 16, 0.5] == 16 and taken["teacher, not guided", 4, 0.5] == 2
    assert all(0 <= r["found"] <= 1 for r in rows)
    assert [r["rms_to_teacher"] for r in rows if r["steps"] == 16] == [0.0] * 8
    assert picture.stat().st_size > 1000
