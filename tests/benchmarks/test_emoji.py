"""The scripts of the emoji at tiny sizes: network and text encoder trained together become a stock pipeline that can be distilled."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.training.trainer import Interrupted

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CAPTIONS = ["red heart", "cat face", "cat face with tears of joy", "left arrow", "heart with arrow", "face with red heart"]
TINY = [
    "--channels",
    "8",
    "12",
    "--features",
    "12",
    "--updates",
    "4",
    "--batch-size",
    "4",
    "--checkpoint-every",
    "3",
    "--device",
    "cpu",
    "--quiet",
]


@pytest.fixture
def emoji(tmp_path):
    """(data folder, autoencoder folder): six random pictures in two kinds, and a tiny stock autoencoder with random weights."""
    from diffusers import AutoencoderTiny

    data = tmp_path / "given"
    data.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    kinds = np.array(["base"] * 5 + ["skin_tone"])
    for split in ("train", "test"):
        np.savez(data / f"{split}.npz", images=images, captions=np.array(CAPTIONS), kind=kinds)
    torch.manual_seed(0)
    sizes = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
    AutoencoderTiny(
        **sizes, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=5, scaling_factor=1.5
    ).save_pretrained(tmp_path / "vae")
    return data, tmp_path / "vae"


@pytest.fixture
def teacher(emoji, tmp_path):
    from benchmarks.quality import emoji_teacher

    data, vae = emoji
    words = ["--data", str(data), "--vae", str(vae), "--out", str(tmp_path / "run"), *TINY]
    emoji_teacher.main(words)
    return tmp_path / "run", words


def test_the_teacher_is_a_stock_pipeline_whose_text_encoder_was_trained(teacher):
    import diffusers
    from benchmarks.quality import emoji_teacher

    import fewstep

    run, words = teacher
    model = fewstep.open_model(run / "teacher")
    assert (model.info.family, model.info.kind, model.info.prediction) == ("stable_diffusion", "teacher", "v")
    assert (model.info.shape, model.info.picture) == ((5, 8, 8), (3, 16))
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(run / "teacher")
    torch.manual_seed(0)
    fresh = emoji_teacher.new_network(pipeline.vae, len(pipeline.tokenizer), 8, 12, (8, 12)).text_encoder.state_dict()
    moved = {name for name, value in pipeline.text_encoder.state_dict().items() if not torch.equal(value, fresh[name])}
    assert len(moved) > 10
    tokens = emoji_teacher.tokens_of(pipeline.tokenizer, CAPTIONS)
    with torch.no_grad():
        trained_on = pipeline.text_encoder(tokens)[0]
    torch.testing.assert_close(model.condition(prompts=CAPTIONS)["text"], trained_on)
    ours = model.sample(prompts=["cat face", "red heart"], steps=4, guidance_scale=3.0, seed=1)
    assert [image.size for image in ours] == [(16, 16)] * 2
    emoji_teacher.main(words)  # finished: it does nothing


def test_the_stock_pipeline_draws_what_fewstep_draws(teacher):
    import diffusers

    import fewstep

    run, _ = teacher
    model = fewstep.open_model(run / "teacher")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(run / "teacher")
    pipeline.set_progress_bar_config(disable=True)
    z = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    stock = pipeline("cat face", latents=z, num_inference_steps=4, guidance_scale=3.0, output_type="pt").images
    ours = model.sample_tensor(model.condition(prompts=["cat face"]), noise=z, steps=4, guidance_scale=3.0).pictures()
    torch.testing.assert_close((ours.clamp(-1, 1) + 1) / 2, stock, atol=1e-4, rtol=0)
    half = diffusers.StableDiffusionPipeline.from_pretrained(run / "teacher-half")  # of half the size, opened as any other
    half.set_progress_bar_config(disable=True)
    nearly = half("cat face", latents=z, num_inference_steps=4, guidance_scale=3.0, output_type="pt").images
    torch.testing.assert_close(nearly, stock, atol=0.05, rtol=0)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(teacher, emoji, tmp_path, monkeypatch):
    from benchmarks.quality import emoji_teacher
    from safetensors.torch import load_file

    data, vae = emoji
    words = ["--data", str(data), "--vae", str(vae), "--out", str(tmp_path / "stopped"), *TINY]
    save, saved = emoji_teacher.Trainer._save, []

    def save_and_stop(trainer, stage, state):
        save(trainer, stage, state)
        saved.append(state.update)
        raise Interrupted("stopped")

    monkeypatch.setattr(emoji_teacher.Trainer, "_save", save_and_stop)
    with pytest.raises(Interrupted):
        emoji_teacher.main(words)
    monkeypatch.setattr(emoji_teacher.Trainer, "_save", save)
    emoji_teacher.main([*words, "--snapshot"])
    early = load_file(tmp_path / "stopped" / "teacher" / "unet" / "diffusion_pytorch_model.safetensors")
    emoji_teacher.main(words)
    assert saved == [3]
    for part, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        one, other = (load_file(run / "teacher" / part / f"{file}.safetensors") for run in (teacher[0], tmp_path / "stopped"))
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert part == "text_encoder" or not torch.equal(
            early["conv_in.weight"], other["conv_in.weight"]
        )  # the snapshot of update 3


def test_only_pictures_of_the_chosen_kinds_are_used(teacher):
    arrays = np.load(teacher[0] / "data" / "train.npz")
    assert arrays["captions"].tolist() == CAPTIONS[:5]


def test_the_stock_autoencoder_of_taef2_is_taef2_but_for_its_pooled_branches():
    from benchmarks.quality import emoji_autoencoder as script

    torch.manual_seed(0)
    encoder, decoder = script.networks()
    for network in (encoder, decoder):
        for block in network:
            if isinstance(block, script.Block) and block.pool is not None:
                torch.nn.init.zeros_(block.pool[3].weight)  # what the branches add is nothing: then all is the same
    made, x = script.stock(encoder, decoder), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(made.encode(x * 2 - 1).latents, encoder(x))
        torch.testing.assert_close((made.decode(encoder(x)).sample + 1) / 2, decoder(encoder(x)))


def test_the_judge_is_a_clip_model_and_the_benchmark_measures_and_draws(teacher, tmp_path):
    import json

    from benchmarks.quality import emoji, emoji_judge
    from benchmarks.quality import tables as emoji_table

    run, _ = teacher
    words = ["--data", str(run / "data"), "--tokenizer", str(run / "teacher"), "--out", str(tmp_path / "judge"), "--quiet"]
    emoji_judge.main([*words, "--updates", "3", "--batch-size", "4"])
    found = json.loads((tmp_path / "judge" / "RESULT.json").read_text())
    assert 0 <= found["train_first"] <= found["train_first_five"] == 1  # of five captions and one more
    out, grid = tmp_path / "emoji.json", tmp_path / "emoji.png"
    words = ["--teacher", str(run / "teacher"), "--data", str(run / "data"), "--judge", str(tmp_path / "judge" / "judge")]
    chosen = ["--guidance-scale", "1", "4", "--baselines", "dpm++", "--budgets", "8", "--reference-steps", "5", "--samples", "6"]
    emoji.main([*words, *chosen, "--prompts", "cat face", "red heart", "--out", str(out), "--grid", str(grid)])
    result = json.loads(out.read_text())
    assert "| teacher, dpm++ | 8 |" in emoji_table.emoji(result)
    rows = result["rows"]
    assert len(rows) == 2 * 2 * 2  # scales, ways to draw, sets of captions
    assert {(row["steps"], row["evaluations"]) for row in rows if row["guidance_scale"] == 4} == {(5, 10), (4, 8)}
    assert [row["rms_to_teacher"] is None for row in rows] == [row["sampler"] == "ddim" for row in rows]
    assert all(0 <= row["found"] <= row["found_among_five"] <= 1 and row["frechet"] >= 0 for row in rows)
    assert grid.stat().st_size > 1000


def test_a_batch_in_which_all_find_each_other_has_the_least_error():
    from benchmarks.quality import emoji_judge

    class Perfect(torch.nn.Module):
        def forward(self, input_ids, pixel_values):
            from types import SimpleNamespace

            return SimpleNamespace(logits_per_image=100 * (input_ids[:, None] == input_ids[None]).all(2).float())

    x, tokens = torch.zeros(3, 3, 4, 4), torch.tensor([[1, 2], [3, 4], [1, 2]])
    torch.testing.assert_close(emoji_judge.contrast(Perfect(), x, tokens), torch.tensor([1.0, 0.0, 1.0]) * float(np.log(2)))


def test_edits_by_text_are_judged_by_the_captions_that_are_found(teacher, tmp_path, monkeypatch):
    import json

    from benchmarks.quality import emoji_judge
    from benchmarks.uses import editing, emoji_editing

    import fewstep

    run, _ = teacher
    words = ["--data", str(run / "data"), "--tokenizer", str(run / "teacher"), "--out", str(tmp_path / "judge"), "--quiet"]
    emoji_judge.main([*words, "--updates", "1", "--batch-size", "4"])
    changes = {"stage_one.updates": 1, "stage_two.updates": 1, "stage_two.last_updates": 1, "stage_two.ladder": [8, 4, 2]}
    changes |= {"train.batch_size": 2, "train.warmup": 0}
    fewstep.distill(
        run / "teacher", str(run / "data" / "train.npz"), out=tmp_path / "students", changes=changes, device="cpu", quiet=True
    )
    monkeypatch.setattr(editing, "REFERENCE", 16)
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    words = ["--teacher", str(run / "teacher"), "--run", str(tmp_path / "students"), "--data", str(run / "data"), "--images", "3"]
    emoji_editing.main([*words, "--judge", str(tmp_path / "judge" / "judge"), "--out", str(out), "--picture", str(picture)])
    rows = json.loads(out.read_text())["rows"]
    assert rows[0]["model"] == "the picture itself"
    taken = {(r["model"], r["steps"], r["strength"]): r["evaluations"] for r in rows}
    assert taken["student", 4, 0.5] == 2
    assert taken["teacher", 16, 0.5] == 16
    assert taken["teacher, not guided", 4, 0.5] == 2
    assert all(0 <= r["found"] <= 1 for r in rows)
    assert [r["rms_to_teacher"] for r in rows if r["steps"] == 16] == [0.0] * 8
    assert picture.stat().st_size > 1000
