"""A cache stands for the encoders to the bit: whole or mended, interrupted, shared by processes; another's is refused."""

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import fewstep
import pipelines
from conftest import TINY
from fewstep.data import latent_cache
from fewstep.data.cache_writer import Writer, processes
from fewstep.data.encoding import PictureRows, source_of
from fewstep.data.fingerprints import whole
from fewstep.data.latent_cache import CachedData
from fewstep.data.loading import Data
from fewstep.data.prompts import PromptRows
from fewstep.data.summary import announce
from fewstep.errors import InputError
from fewstep.method.samplers import deterministic
from fewstep.training.examples import prepared
from fewstep.training.recipe import load_recipe
from fewstep.training.run_folder import write_cache
from tiny import watched_parts

CAPTIONS = ["a cat", "dog", "owl", "a cat", "fish", "dog", "bee"]
CHANGES = {k: v for k, v in TINY.items() if not k.startswith("network")}
CHANGES |= {"stage_one.updates": 4, "stage_two.ladder": [4, 2], "stage_two.last_updates": 3}
CHANGES |= {"data.shard_size": 3, "data.encode_batch": 2, "data.sampling_steps": 3}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return pipelines.text_pipeline(tmp_path_factory.mktemp("cache") / "pipeline")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for k, caption in enumerate(CAPTIONS):
        noise = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(k))
        Image.fromarray(noise.numpy()).save(root / f"{k}.png")
        (root / f"{k}.txt").write_text(caption)
    return root


@pytest.fixture(scope="module")
def recipe(pipeline, pictures):
    def make(**changes):
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        known = CHANGES | {"teacher.path": str(pipeline), "data.path": str(pictures)} | dotted
        return load_recipe(None, {key: value for key, value in known.items() if value is not None})

    return make


@pytest.fixture(scope="module")
def made(recipe, tmp_path_factory):
    """A cache that no test changes."""
    folder = tmp_path_factory.mktemp("made") / "cache"
    written(recipe(), folder)
    return folder


@pytest.fixture
def cache(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "cache")


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\ndog\r\nowl\n")
    return str(tmp_path / "prompts.txt")


def written(recipe, folder):
    return write_cache(recipe, folder, device="cpu", quiet=True)


def on_the_fly(recipe):
    data = recipe.data.model_copy(update={"on_the_fly": True})
    return prepared(None, recipe.model_copy(update={"data": data}), fewstep.open_model(recipe.teacher.path))


def distilled(recipe, out):
    fewstep.distill(recipe=recipe, out=out, device="cpu", quiet=True)
    return load_file(out / "steps-0002" / "unet" / "diffusion_pytorch_model.safetensors")


def all_rows(data):
    return data.batch(0, len(data))


def index_of(folder):
    return json.loads((folder / "index.json").read_text())


def test_a_cache_says_what_it_is_and_what_made_it(made, pipeline, pictures):
    index = index_of(made)
    assert index["complete"] and index["count"] == len(CachedData(made)) == 7 and [s["count"] for s in index["shards"]] == [3, 3, 1]
    assert index["leaves"]["x"] == [[4, 8, 8], "float32"] and index["leaves"]["condition.text"] == [[8, 12], "float32"]
    assert index["made_by"]["teacher"]["path"] == str(pipeline) and index["made_by"]["data"]["path"] == str(pictures)
    assert all(whole(made / shard["file"]) == shard["sha256"] for shard in index["shards"])
    assert sorted(p.name for p in made.iterdir()) == [*(s["file"] for s in index["shards"]), "index.json"]


def test_a_cache_says_what_it_holds(made, pictures, capsys):
    announce(CachedData(made))
    announce(CachedData(made), quiet=True)
    captions = sorted(file.read_text().strip() for file in pictures.glob("*.txt"))
    err = capsys.readouterr().err
    assert err.startswith(f"data {made}: 7 cached examples with captions (") and err.count("\n") == 1
    assert sum(repr(caption) in err for caption in captions) >= 3


@pytest.mark.parametrize("flip", [False, True])
def test_a_cache_gives_the_batches_that_encoding_on_the_fly_gives(recipe, tmp_path, flip):
    chosen = recipe(data__flip=flip, train__seed=3)
    cached, direct = written(chosen, tmp_path / "cache"), on_the_fly(chosen)
    for start, count in ((0, 7), (5, 11)):
        torch.testing.assert_close(cached.batch(start, count), direct.batch(start, count))


def test_a_batch_depends_on_its_position_alone_and_an_epoch_has_each_example_once(made):
    x, condition = CachedData(made, seed=1).batch(0, 14)
    y, part = CachedData(made, seed=1).batch(9, 4)
    assert torch.equal(y, x[9:13]) and torch.equal(part["text"], condition["text"][9:13])
    assert len(x[:7].unique(dim=0)) == len(x[7:].unique(dim=0)) == 7
    assert not torch.equal(x[:7], x[7:]) and not torch.equal(x[:7], CachedData(made, seed=2).batch(0, 7)[0])


def test_no_shard_is_opened_or_compared_twice_and_none_holds_a_file_open(tmp_path, monkeypatch):
    shards = 200  # more than the 64 that once were kept
    for k in range(shards):
        tensors = {"x": torch.full((2, 1), float(k)), "which": torch.zeros(2).long(), "condition": torch.tensor([k])}
        save_file(tensors, tmp_path / f"{k:05d}.safetensors")
    files = sorted(tmp_path.glob("*.safetensors"))
    rows = [{"file": file.name, "count": 2, "bytes": file.stat().st_size, "sha256": whole(file)} for file in files]
    index = {"what": "cache of fewstep", "made_by": {"data": {}}, "complete": True, "count": 2 * shards, "shards": rows}
    (tmp_path / "index.json").write_text(json.dumps(index))
    opened, compared = [], []
    real = latent_cache.mapped
    monkeypatch.setattr(latent_cache, "mapped", lambda file: (opened.append(file), real(file))[1])
    monkeypatch.setattr(latent_cache.fingerprints, "whole", lambda file: (compared.append(file), whole(file))[1])
    data, held = CachedData(tmp_path), len(list(Path("/proc/self/fd").iterdir()))
    for start in range(0, 6 * shards, 100):
        x, labels = data.batch(start, 100)
        assert torch.equal(x.flatten().long(), labels)
    assert sorted(opened) == sorted(compared) == files
    assert len(list(Path("/proc/self/fd").iterdir())) <= held + 2


def test_a_distillation_by_a_cache_equals_one_on_the_fly(recipe, made, tmp_path):
    own = distilled(recipe(), tmp_path / "own")
    assert index_of(tmp_path / "own" / "cache")["complete"]
    given = distilled(recipe(data__cache=str(made), data__path=None), tmp_path / "given")
    fly = distilled(recipe(data__on_the_fly=True), tmp_path / "fly")
    assert not (tmp_path / "fly" / "cache").exists() and not (tmp_path / "given" / "cache").exists()
    for key in own:
        assert torch.equal(own[key], given[key]), key
        torch.testing.assert_close(own[key], fly[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fly", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_prompts_alone_suffice(recipe, prompts, tmp_path, fly):
    chosen = recipe(data__path=None, data__prompts=prompts, data__samples_per_prompt=2, data__on_the_fly=fly)
    student = fewstep.distill(recipe=chosen, out=tmp_path / "run", device="cpu", quiet=True)
    assert student.info.steps == 2 and len(student.sample(prompts=["a cat"])) == 1
    if not fly:
        assert index_of(tmp_path / "run" / "cache")["count"] == 6


def test_prompts_on_the_fly_are_those_of_the_cache(recipe, prompts, tmp_path):
    chosen = recipe(data__path=None, data__prompts=prompts, data__samples_per_prompt=3)
    cached = written(chosen, tmp_path / "cache")
    torch.testing.assert_close(cached.batch(2, 11), on_the_fly(chosen).batch(2, 11), rtol=1e-4, atol=1e-4)
    assert len(all_rows(cached)[0].unique(dim=0)) == 9


def test_stand_ins_are_the_teachers_own_guided_samples(pipeline):
    teacher = fewstep.open_model(pipeline)
    rows = PromptRows(("a cat", "dog"), teacher, (3.0, 3.0), steps=4, seed=5)
    condition = teacher.condition(prompts=["a cat", "dog"])
    (made,), _ = rows.encode(list(rows.items()), condition)
    samples = made.tensors["x"]
    noise = torch.stack([rows.draw(row)[0] for row in range(2)])
    expected = deterministic(teacher.denoiser.guided(), noise, 4, condition, torch.full((2,), 2.0), teacher.denoiser.process)
    torch.testing.assert_close(samples, expected.float())


def test_labels_of_latents_are_cached_too(tmp_path):
    teacher = fewstep.open_model(pipelines.class_pipeline(tmp_path / "pipeline", latent=True))
    pixels = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Data(pixels, torch.arange(9) % 3, ("cat", "dog", "owl"))
    fewstep.distill(teacher, data, out=tmp_path / "run", changes=CHANGES, device="cpu", quiet=True)
    (x, labels), (z, given) = data.batch(4, 6), CachedData(tmp_path / "run" / "cache", seed=data.seed).batch(4, 6)
    torch.testing.assert_close(z, teacher.family.to_latents(x))
    assert torch.equal(given, labels)
    swapped = Data(pixels, 2 - data.labels, data.classes[::-1])  # the same, with the classes in another order
    named = replace(teacher, info=teacher.info.model_copy(update={"classes": data.classes}))
    rows = PictureRows(source_of(swapped), named)
    Writer(rows, named, tmp_path / "swapped", 4, 4, processes("cpu"), quiet=True).write({"teacher": None, "data": {}}, print)
    assert torch.equal(CachedData(tmp_path / "swapped", seed=data.seed).batch(4, 6)[1], labels)
    other = Data(255 - pixels, data.labels, data.classes)
    with pytest.raises(InputError, match=r"of other data: data.sha256"):
        fewstep.distill(teacher, other, out=tmp_path / "run", changes=CHANGES, device="cpu", quiet=True)


def test_the_encoders_leave_memory_and_the_null_condition_stays(recipe, tmp_path, monkeypatch):
    teacher, parts, alive = fewstep.open_model(recipe().teacher.path), watched_parts(monkeypatch), []

    def train(settings, model, *rest):
        gc.collect()
        alive.append([part() for part in parts if part() is not None])
        raise KeyError

    monkeypatch.setattr("fewstep.training.run_folder.distill_model", train)
    with pytest.raises(KeyError):
        fewstep.distill(teacher, recipe=recipe(), out=tmp_path / "run", device="cpu", quiet=True)
    loads = len(parts)
    null = teacher.denoiser.null_condition(teacher.example(2))
    assert loads and alive == [[]] and null["text"].shape == (2, 8, 12) and len(parts) == loads


def written_at(folder):
    return {file.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in sorted(folder.glob("*.safetensors"))}


def test_the_same_command_keeps_whole_shards_and_mends_the_others(recipe, made, cache):
    cut, changed = cache / "00000.safetensors", cache / "00002.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=r"00000.safetensors has \d+ bytes"):
        CachedData(cache)
    before = written_at(cache)
    torch.testing.assert_close(all_rows(written(recipe(), cache)), all_rows(CachedData(made)), rtol=0, atol=0)
    after = written_at(cache)
    assert [name for name in after if after[name] != before[name]] == ["00000.safetensors", "00002.safetensors"]
    written(recipe(), cache)
    assert written_at(cache) == after


def test_a_flipped_bit_of_a_shard_is_detected_when_it_is_read(cache, monkeypatch):
    file = cache / "00002.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"00002\.safetensors"):
        all_rows(CachedData(cache))
    monkeypatch.setenv("FEWSTEP_NO_VERIFY", "1")
    all_rows(CachedData(cache))


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
    with pytest.raises(InputError, match="No space left on device"):
        written(recipe(), tmp_path / "cache")
    assert [p.name for p in sorted((tmp_path / "cache").glob("*.safetensors"))] == ["00000.safetensors"]
    with pytest.raises(InputError, match="not finished"):
        CachedData(tmp_path / "cache")
    assert len(written(recipe(), tmp_path / "cache")) == 7 and len(calls) == 4


def test_pictures_and_words_that_are_left_out_are_counted_and_named(recipe, pictures, tmp_path, capsys):
    copy = shutil.copytree(pictures, tmp_path / "copy")
    (copy / "1.png").write_bytes(b"no picture")
    (copy / "4.txt").unlink()
    data = write_cache(recipe(data__path=str(copy)), tmp_path / "cache", device="cpu")
    report = capsys.readouterr().err
    assert len(data) == 5 and all(
        part in report
        for part in (
            ": 6 examples with captions",
            "1 pictures without a caption (4.png)",
            "skipped 1 of 6",
            "1.png: ",
            "cache  6/6",
        )
    )
    for file in copy.glob("*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"none of the 6 pictures.*0.png: "):
        written(recipe(data__path=str(copy)), tmp_path / "none")
    (tmp_path / "long.txt").write_text("a cat\nabcdefghijkl\n")
    write_cache(recipe(data__path=None, data__prompts=str(tmp_path / "long.txt")), tmp_path / "cut", device="cpu")
    assert "1 prompt cut: a prompt of 14 tokens is cut to 8" in capsys.readouterr().err


def other_teacher(recipe, pipeline, pictures, root):
    copy = shutil.copytree(pipeline, root / "other")
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    return recipe(teacher__path=str(copy)), "teacher.parts.vae was"


def other_caption(recipe, pipeline, pictures, root):
    copy = shutil.copytree(pictures, root / "copy")
    (copy / "2.txt").write_text("hen")
    return recipe(data__path=str(copy)), "data.sha256 was"


def other_flip(recipe, pipeline, pictures, root):
    return recipe(data__flip=True), "data.flip was False and is True"


@pytest.mark.parametrize("change", [other_teacher, other_caption, other_flip])
def test_a_cache_of_another_teacher_or_other_data_is_refused(recipe, pipeline, pictures, made, tmp_path, change):
    other, message = change(recipe, pipeline, pictures, tmp_path)
    with pytest.raises(InputError, match=message):
        written(other, made)
    with pytest.raises(InputError, match=message):
        distilled(other.model_copy(update={"data": other.data.model_copy(update={"cache": str(made)})}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cache_may_move_with_its_teacher_and_data(recipe, pipeline, pictures, cache, tmp_path):
    teacher, data = (str(shutil.copytree(place, tmp_path / f"moved-{place.name}")) for place in (pipeline, pictures))
    assert distilled(recipe(teacher__path=teacher, data__path=data, data__cache=str(cache)), tmp_path / "run")
