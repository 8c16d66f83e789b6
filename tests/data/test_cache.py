"""A cache stands for the encoders to the bit: whole or mended, interrupted, shared by processes; another's is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import fewstep
import pipelines
from conftest import TINY
from fewstep.data.cache_writer import Writer, processes
from fewstep.data.encoding import PictureRows, source_of
from fewstep.data.fingerprints import whole
from fewstep.data.latent_cache import CachedData
from fewstep.data.loading import Data
from fewstep.data.prompts import PromptRows
from fewstep.errors import InputError
from fewstep.method.samplers import deterministic
from fewstep.training.recipe import load_recipe
from fewstep.training.run_folder import write_cache

CAPTIONS = ["a cat", "dog", "owl", "a cat", "fish", "dog", "bee"]
CHANGES = {k: v for k, v in TINY.items() if not k.startswith("network")}
CHANGES |= {"stage_one.updates": 4, "stage_two.ladder": [4, 2], "stage_two.last_updates": 3}
CHANGES |= {"data.shard_size": 3, "data.encode_batch": 2, "data.sampling_steps": 3}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    torch.set_num_threads(1)
    return pipelines.text_pipeline(tmp_path_factory.mktemp("cache") / "pipeline")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for k, caption in enumerate(CAPTIONS):
        noise = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(k))
        Image.fromarray(noise.numpy()).save(root / f"{k}.png")
        (root / f"{k}.txt").write_text(caption)
    return root


@pytest.fixture
def recipe(pipeline, pictures):
    def make(**changes):
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        known = CHANGES | {"teacher.path": str(pipeline), "data.path": str(pictures)} | dotted
        return load_recipe(None, {key: value for key, value in known.items() if value is not None})

    return make


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\ndog\r\nowl\n")
    return str(tmp_path / "prompts.txt")


def written(recipe, folder):
    return write_cache(recipe, folder, device="cpu", quiet=True)


def distilled(recipe, out):
    fewstep.distill(recipe=recipe, out=out, device="cpu", quiet=True)
    return load_file(out / "steps-0002" / "unet" / "diffusion_pytorch_model.safetensors")


def all_rows(data):
    return data.batch(0, len(data))


def index_of(folder):
    return json.loads((folder / "index.json").read_text())


def test_a_cache_says_what_it_is_and_what_made_it(recipe, pipeline, pictures, tmp_path):
    data, index = written(recipe(), tmp_path / "cache"), index_of(tmp_path / "cache")
    assert index["complete"] and index["count"] == len(data) == 7 and [s["count"] for s in index["shards"]] == [3, 3, 1]
    assert index["leaves"]["x"] == [[4, 8, 8], "float32"] and index["leaves"]["condition.text"] == [[8, 12], "float32"]
    assert index["made_by"]["teacher"]["path"] == str(pipeline) and index["made_by"]["data"]["path"] == str(pictures)
    for shard in index["shards"]:
        assert whole(tmp_path / "cache" / shard["file"]) == shard["sha256"]
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == [*(s["file"] for s in index["shards"]), "index.json"]


@pytest.mark.parametrize("flip", [False, True])
def test_a_cache_gives_the_batches_that_encoding_on_the_fly_gives(recipe, tmp_path, flip):
    from fewstep.training.examples import on_the_fly

    chosen = recipe(data__flip=flip, train__seed=3)
    cached = written(chosen, tmp_path / "cache")
    asked = on_the_fly(chosen, fewstep.open_model(chosen.teacher.path))
    for start, count in ((0, 7), (5, 11)):
        torch.testing.assert_close(cached.batch(start, count), asked.batch(start, count))


def test_a_batch_depends_on_its_position_alone_and_an_epoch_has_each_example_once(recipe, tmp_path):
    written(recipe(), tmp_path / "cache")
    data, again = CachedData(tmp_path / "cache", seed=1), CachedData(tmp_path / "cache", seed=1)
    x, condition = data.batch(0, 14)
    y, part = again.batch(9, 4)
    assert torch.equal(y, x[9:13]) and torch.equal(part["text"], condition["text"][9:13])
    assert len(x[:7].unique(dim=0)) == len(x[7:].unique(dim=0)) == 7
    assert not torch.equal(x[:7], x[7:]) and not torch.equal(x[:7], CachedData(tmp_path / "cache", seed=2).batch(0, 7)[0])


def test_a_distillation_by_a_cache_equals_one_on_the_fly(recipe, tmp_path):
    own = distilled(recipe(), tmp_path / "own")
    assert index_of(tmp_path / "own" / "cache")["complete"]
    written(recipe(), tmp_path / "cache")
    given = distilled(recipe(data__cache=str(tmp_path / "cache"), data__path=None), tmp_path / "given")
    fly = distilled(recipe(data__on_the_fly=True), tmp_path / "fly")
    assert not (tmp_path / "fly" / "cache").exists() and not (tmp_path / "given" / "cache").exists()
    for key in own:
        assert torch.equal(own[key], given[key]), key
        torch.testing.assert_close(own[key], fly[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fly", [False, True])
def test_prompts_alone_suffice(recipe, prompts, tmp_path, fly):
    chosen = recipe(data__path=None, data__prompts=prompts, data__samples_per_prompt=2, data__on_the_fly=fly)
    student = fewstep.distill(recipe=chosen, out=tmp_path / "run", device="cpu", quiet=True)
    assert student.info.steps == 2 and len(student.sample(prompts=["a cat"])) == 1
    if not fly:
        assert index_of(tmp_path / "run" / "cache")["count"] == 6


def test_prompts_on_the_fly_are_those_of_the_cache(recipe, prompts, tmp_path):
    from fewstep.training.examples import on_the_fly

    chosen = recipe(data__path=None, data__prompts=prompts, data__samples_per_prompt=3)
    cached, asked = written(chosen, tmp_path / "cache"), on_the_fly(chosen, fewstep.open_model(chosen.teacher.path))
    torch.testing.assert_close(cached.batch(2, 11), asked.batch(2, 11), rtol=1e-4, atol=1e-4)
    assert len(all_rows(cached)[0].unique(dim=0)) == 9


def test_stand_ins_are_the_teachers_own_guided_samples(recipe, pipeline):
    teacher = fewstep.open_model(pipeline)
    rows = PromptRows(("a cat", "dog"), teacher, (3.0, 3.0), steps=4, seed=5)
    condition = teacher.condition(prompts=["a cat", "dog"])
    made = rows.encode(list(rows.items()), condition)[0]["x"]
    noise = torch.stack([rows.draw(row)[0] for row in range(2)])
    wanted = deterministic(teacher.denoiser.guided(), noise, 4, condition, torch.full((2,), 2.0), teacher.denoiser.process)
    torch.testing.assert_close(made, wanted.float())


def test_labels_of_latents_are_cached_too(tmp_path):
    teacher = fewstep.open_model(pipelines.class_pipeline(tmp_path / "pipeline", latent=True))
    pixels = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Data(pixels, torch.arange(9) % 3, ("cat", "dog", "owl"))
    fewstep.distill(teacher, data, out=tmp_path / "run", changes=CHANGES, device="cpu", quiet=True)
    cached = CachedData(tmp_path / "run" / "cache", seed=data.seed)
    (x, labels), (z, given) = data.batch(4, 6), cached.batch(4, 6)
    torch.testing.assert_close(z, teacher.family.to_latents(x))
    assert torch.equal(given, labels)
    swapped = Data(pixels, 2 - data.labels, data.classes[::-1])  # the same, with the classes in another order
    named = replace(teacher, info=teacher.info.model_copy(update={"classes": data.classes}))
    rows = PictureRows(source_of(swapped), named)
    Writer(rows, named, tmp_path / "swapped", 4, 4, processes("cpu"), quiet=True).write({"teacher": None, "data": {}}, print)
    assert torch.equal(CachedData(tmp_path / "swapped", seed=data.seed).batch(4, 6)[1], labels)
    other = Data(255 - pixels, data.labels, data.classes)
    with pytest.raises(InputError, match=r"made of other data: data.sha256"):
        fewstep.distill(teacher, other, out=tmp_path / "run", changes=CHANGES, device="cpu", quiet=True)


def test_the_encoders_leave_memory_and_the_null_condition_stays(recipe, tmp_path, monkeypatch):
    chosen = recipe()
    teacher = fewstep.open_model(chosen.teacher.path)
    seen = []
    monkeypatch.setattr(
        "fewstep.training.run_folder.distill_model", lambda settings, model, *rest: seen.append(dict(model.family._loaded)) or {}
    )
    with pytest.raises(KeyError):
        fewstep.distill(teacher, recipe=chosen, out=tmp_path / "run", device="cpu", quiet=True)
    assert seen == [{}]
    null = teacher.denoiser.null_condition(teacher.example(2))
    assert null["text"].shape == (2, 8, 12) and teacher.family._loaded == {}


def written_at(folder):
    return {file.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in sorted(folder.glob("*.safetensors"))}


def test_the_same_command_keeps_whole_shards_and_mends_the_others(recipe, tmp_path):
    first = all_rows(written(recipe(), tmp_path / "cache"))
    cut, changed = tmp_path / "cache" / "00000.safetensors", tmp_path / "cache" / "00002.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=r"00000.safetensors has \d+ bytes in place of \d+: run `fewstep cache`"):
        CachedData(tmp_path / "cache")
    before = written_at(tmp_path / "cache")
    torch.testing.assert_close(all_rows(written(recipe(), tmp_path / "cache")), first, rtol=0, atol=0)
    after = written_at(tmp_path / "cache")
    assert [name for name in after if after[name] != before[name]] == ["00000.safetensors", "00002.safetensors"]
    written(recipe(), tmp_path / "cache")
    assert written_at(tmp_path / "cache") == after


def test_a_full_disk_leaves_whole_shards(recipe, tmp_path, monkeypatch):
    import safetensors.torch

    real, calls = safetensors.torch.save_file, []

    def full(tensors, path, *rest):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path, *rest)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(InputError, match=r"No space left on device.*run the same command again"):
        written(recipe(), tmp_path / "cache")
    assert [p.name for p in sorted((tmp_path / "cache").glob("*.safetensors"))] == ["00000.safetensors"]
    with pytest.raises(InputError, match="is not finished"):
        CachedData(tmp_path / "cache")
    assert len(written(recipe(), tmp_path / "cache")) == 7 and len(calls) == 4


def test_pictures_that_cannot_be_read_are_left_out_and_named(recipe, pictures, tmp_path, capsys):
    copy = shutil.copytree(pictures, tmp_path / "copy")
    (copy / "1.png").write_bytes(b"no picture")
    (copy / "4.txt").unlink()
    data = write_cache(recipe(data__path=str(copy)), tmp_path / "cache", device="cpu")
    said = capsys.readouterr().err
    assert len(data) == 5 and "skipped 2 of 7 pictures: 1.png: " in said and "4.png: it has no caption" in said
    assert "cache  7/7" in said
    for file in copy.glob("*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"none of the 7 pictures can be used \(0.png: "):
        written(recipe(data__path=str(copy)), tmp_path / "none")


def test_prompts_that_are_too_long_are_told_of(recipe, tmp_path, capsys):
    (tmp_path / "long.txt").write_text("a cat\nabcdefghijkl\n")
    write_cache(recipe(data__path=None, data__prompts=str(tmp_path / "long.txt")), tmp_path / "cache", device="cpu")
    assert "1 prompt cut: a prompt of 14 tokens is cut to 8; not read: " in capsys.readouterr().err


def other_teacher(recipe, pipeline, pictures, root):
    copy = shutil.copytree(pipeline, root / "other")
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    return recipe(teacher__path=str(copy)), "by another teacher: teacher.parts.vae was"


def other_caption(recipe, pipeline, pictures, root):
    copy = shutil.copytree(pictures, root / "copy")
    (copy / "2.txt").write_text("hen")
    return recipe(data__path=str(copy)), "of other data: data.sha256 was"


def other_flip(recipe, pipeline, pictures, root):
    return recipe(data__flip=True), "of other data: data.flip was False and is True"


@pytest.mark.parametrize("change", [other_teacher, other_caption, other_flip])
def test_a_cache_of_another_teacher_or_other_data_is_refused(recipe, pipeline, pictures, tmp_path, change):
    written(recipe(), tmp_path / "cache")
    other, message = change(recipe, pipeline, pictures, tmp_path)
    with pytest.raises(InputError, match=message):
        written(other, tmp_path / "cache")
    with pytest.raises(InputError, match=message):
        distilled(
            other.model_copy(update={"data": other.data.model_copy(update={"cache": str(tmp_path / "cache")})}), tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_a_cache_may_move_with_its_teacher_and_data(recipe, pipeline, pictures, tmp_path):
    written(recipe(), tmp_path / "cache")
    moved = tmp_path / "cache", pipeline, pictures
    cache, teacher, data = (str(shutil.copytree(place, tmp_path / f"moved-{k}")) for k, place in enumerate(moved))
    assert len(CachedData(cache)) == 7
    distilled(recipe(teacher__path=teacher, data__path=data, data__cache=cache), tmp_path / "run")
