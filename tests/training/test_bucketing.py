"""Training on pictures in buckets: what a batch is, from a cache and without one, stopped, on two processes."""

import json
from contextlib import closing

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

import fewstep
import pipelines
import unet_pipelines
from bucketed_pictures import BUCKETS, SIZES, SQUARE, TALL, WIDE, examples_of, pictures, recipe_of
from command_line import command
from conftest import run_command
from family_cases import CASES
from fewstep.data.latent_cache import CachedData, read_index
from fewstep.errors import InputError
from fewstep.training.batches import Batches, Split
from fewstep.training.bucketing import buckets_of
from fewstep.training.distill import distill_model
from fewstep.training.examples import prepared
from fewstep.training.memory_estimate import needed
from fewstep.training.recipe import load_recipe
from fewstep.training.sample_grids import read_grid
from fewstep.training.stage import Stage
from fewstep.training.trainer import Interrupted, Trainer

CPU = torch.device("cpu")
SHAPES = {(8, 8): SQUARE, (6, 12): WIDE, (12, 6): TALL}  # of latents


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures") / "data")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return pipelines.text_pipeline(tmp_path_factory.mktemp("teacher") / "sd")


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return unet_pipelines.xl_pipeline(tmp_path_factory.mktemp("teacher") / "xl")


@pytest.fixture(scope="module")
def cached(tmp_path_factory, data, teacher):
    return examples_of(teacher, data, tmp_path_factory.mktemp("cache") / "cache")


def batches(data, process=0, processes=1, **changes):
    settings = load_recipe(None, {"train.batch_size": 4} | changes).train
    stage = Stage("stage", 100, 1e-3, "constant", lambda draws: {"t": draws.uniform()}, lambda denoiser, batch: batch["t"])
    return Batches(stage, data, settings, Split(process, processes, CPU))


def taken(data, updates, total=8, first=0, **changes):
    """All that the updates give, from the first one's position on."""
    with batches(data, **changes) as read:
        return [list(read.of(update, first + total * update)) for update in range(updates)]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True) if isinstance(a, torch.Tensor)) and all(
        torch.equal(one["condition"][leaf], other["condition"][leaf]) for leaf in one["condition"]
    )


def test_a_batch_is_of_one_shape_with_noise_of_that_shape_and_all_shapes_come(cached):
    found = set()
    for (batch,) in taken(cached, 30, total=4):
        assert batch["noise"].shape == batch["x"].shape == (4, 4, *batch["x"].shape[2:])
        found.add(tuple(batch["x"].shape[2:]))
    assert found == set(SHAPES)


def test_a_cache_gives_what_encoding_on_the_fly_gives_in_the_same_order(xl, data, tmp_path):
    one, other = (examples_of(xl, data, folder, data__flip=True) for folder in (tmp_path / "cache", None))
    assert one.fits == other.fits and [fit.count for fit in one.fits] == [6, 7, 2]
    for (batch,), (same,) in zip(taken(one, 12, total=4), taken(other, 12, total=4), strict=True):
        assert_close(batch["x"], same["x"], atol=1e-5, rtol=1e-5)
        for leaf, value in batch["condition"].items():
            assert_close(value, same["condition"][leaf], atol=1e-5, rtol=1e-5)


def test_processes_and_micro_batches_share_an_update_of_one_bucket(cached):
    whole = [batch for (batch,) in taken(cached, 10, **{"train.batch_size": 8})]
    parts = taken(cached, 10, **{"train.gradient_accumulation": 2})
    first, second = (taken(cached, 10, process=process, processes=2) for process in (0, 1))
    for k, batch in enumerate(whole):
        for leaf in ("x", "noise", "t"):
            assert torch.equal(torch.cat([part[leaf] for part in parts[k]]), batch[leaf])
            assert torch.equal(torch.cat([first[k][0][leaf], second[k][0][leaf]]), batch[leaf])


def test_the_order_goes_on_where_it_was_and_from_the_next_update_where_the_batch_has_changed(cached):
    all_of_it = taken(cached, 12, total=4)
    with batches(cached) as read:
        for update in (7, 8, 2, 11):
            assert same(next(read.of(update, 4 * update)), all_of_it[update][0])
    whole = taken(cached, 5, total=6, **{"train.batch_size": 6})
    with batches(cached, **{"train.batch_size": 6}) as read:  # begins at example 8, which is in the second update of six
        later = [next(read.of(k, 8 + 6 * k)) for k in range(3)]
    assert [torch.equal(one["x"], whole[k + 2][0]["x"]) for k, one in enumerate(later)] == [True] * 3


def test_each_picture_comes_equally_often_also_of_a_bucket_smaller_than_a_batch(cached):
    counts = {}
    for (batch,) in taken(cached, 15 * 8, total=4):
        for x in batch["x"]:
            key = x.numpy().tobytes()
            counts[key] = counts.get(key, 0) + 1
    assert len(counts) == len(SIZES)
    assert (
        sum(counts.values()) == 480 and min(counts.values()) >= 28 and max(counts.values()) <= 36
    )  # 32 each, less or more by an update


def test_sdxl_is_told_the_size_of_each_picture_and_where_it_was_cut(tmp_path, xl):
    data = pictures(tmp_path / "data", [(40, 40), (80, 30), (30, 60), (40, 50)])
    told = {}
    for (batch,) in taken(examples_of(xl, data, tmp_path / "cache", train__batch_size=1), 30, total=1, **{"train.batch_size": 1}):
        told[tuple(batch["condition"]["sizes"][0].int().tolist())] = tuple(batch["x"].shape[2:])
    assert told == {
        (40, 40, 0, 0, 16, 16): (8, 8),
        (30, 80, 0, 4, 12, 24): (6, 12),  # 32 wide when it is 12 high, of which 24 are left
        (60, 30, 0, 0, 24, 12): (12, 6),
        (50, 40, 2, 0, 16, 16): (8, 8),
    }


@pytest.mark.parametrize(
    "name", ["SDXL", "Flux", *(pytest.param(n, marks=pytest.mark.slow) for n in ("Stable Diffusion, eps", "Stable Diffusion 3"))]
)
def test_a_run_on_buckets_gives_students_that_its_stock_pipeline_samples(name, tmp_path, data, recwarn):
    folder = CASES[name].build(tmp_path / "teacher")
    changes = {"stage_one__updates": 5, "stage_two__ladder": [2, 1], "stage_two__last_updates": 3, "train__sample_every": 50}
    recipe = recipe_of(data, **changes, teacher__path=str(folder))
    student = fewstep.distill(recipe=recipe, out=tmp_path / "run", device="cpu", quiet=True)
    assert student.info.shape == (4, 8, 8) and student.info.stock["agrees"]
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(logged) == 8 and all(entry["loss"] is not None and entry["skipped"] == 0 for entry in logged)
    grid = read_grid(tmp_path / "run" / "samples" / "steps-0001" / "0000003.png")
    assert grid is not None, [str(one.message) for one in recwarn]
    assert len(grid.columns) == 6 and not [one for one in recwarn if "left out" in str(one.message)]


class StoppedOnce(Trainer):
    """A trainer that is asked to stop after some updates."""

    def gradients(self, stage, state, denoiser, batches):
        if state.update == 4 and not self.signals and self.stops:
            self.signals.append(15)
        return super().gradients(stage, state, denoiser, batches)


def trained(run, recipe, model, data, stops=False):
    """The weights of stage one on data, in a run folder."""
    StoppedOnce.stops = stops
    with closing(StoppedOnce(run, data, recipe.train, "cpu", quiet=True)) as trainer:
        distill_model(recipe, model, data, trainer)
    return load_file(run / "stage-one" / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_run_that_was_stopped_is_the_run_that_was_not_to_the_bit(tmp_path, teacher, data, cached):
    recipe = recipe_of(data, stage_one__updates=9, stage_two__ladder=[2])
    whole = trained(tmp_path / "whole", recipe, fewstep.open_model(teacher), cached)
    with pytest.raises(Interrupted):
        trained(tmp_path / "stopped", recipe, fewstep.open_model(teacher), cached, stops=True)
    again = trained(tmp_path / "stopped", recipe, fewstep.open_model(teacher), cached)
    assert whole.keys() == again.keys() and all(torch.equal(value, again[key]) for key, value in whole.items())


@pytest.mark.slow
def test_two_processes_are_one_with_two_micro_batches_to_the_bit(tmp_path, teacher, data, capsys):
    settings = {
        "stage_one.updates": 6,
        "stage_two.ladder": [2],
        "train.batch_size": 2,
        "train.log_with": '"none"',
        "data.buckets": BUCKETS,
    }
    words = ["distill", "--teacher", teacher, "--data", data, "--device", "cpu"]

    def line(out, **more):
        return [*words, "--out", tmp_path / out, *(w for k, v in (settings | more).items() for w in ("--set", f"{k}={v}"))]

    two = (
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--master_port=0",
        "--rdzv_backend=c10d",
        "--rdzv_endpoint=localhost:0",
    )
    run_command(*line("two"), launcher=two)
    command(capsys, *line("one", **{"train.gradient_accumulation": 2}))
    both, one = (load_file(tmp_path / out / "stage-one" / "unet" / "diffusion_pytorch_model.safetensors") for out in ("two", "one"))
    assert all(torch.equal(value, both[key]) for key, value in one.items())


def test_a_cache_says_its_buckets_and_is_taken_as_it_is(tmp_path, teacher, data, cached):
    index = read_index(cached.folder)
    assert index["made_by"]["data"]["buckets"] == BUCKETS
    assert list(index["shards"][0]["buckets"]) == ["16x16"]
    assert index["leaves"]["x.24x12"] == [[4, 6, 12], "float32"] and index["leaves"]["x.12x24"] == [[4, 12, 6], "float32"]
    model, given = fewstep.open_model(teacher), {"data.cache": str(cached.folder)}
    alone = prepared(None, load_recipe(None, given), model)  # neither path nor buckets
    assert isinstance(alone, CachedData) and alone.buckets == cached.buckets
    for key, value, match in (
        ("data.buckets", [[16, 16]], "not those of the cache"),
        ("stage_one.guided_inputs", 0.5, "guided_inputs"),
    ):
        with pytest.raises(InputError, match=match):
            prepared(None, load_recipe(None, given | {key: value}), model)
    with pytest.raises(InputError, match="buckets was"):
        prepared(None, load_recipe(None, given | {"data.path": str(data)}), model)
    with pytest.raises(InputError, match="buckets"):  # a run whose cache has other buckets
        examples_of(teacher, data, cached.folder, data__buckets=[[16, 16], [24, 12]])


def test_a_cache_that_lacks_a_shard_gets_it_again_to_the_bit(tmp_path, teacher, data):
    made = examples_of(teacher, data, tmp_path / "cache")
    before = read_index(made.folder)
    (made.folder / "00002.safetensors").unlink()
    again = examples_of(teacher, data, tmp_path / "cache")
    assert read_index(made.folder)["shards"] == before["shards"] and again.fits == made.fits


def test_show_says_how_pictures_go_to_buckets_of_data_and_of_a_cache(data, cached, capsys):
    out, _ = command(capsys, "show", cached.folder)
    assert "6 16x16, 7 24x12, 2 12x24" in out and "15 cached examples" in out
    out, _ = command(capsys, "show", data, "--buckets", "64", "--json")
    assert "15 64x64" in json.loads(out)["buckets"]  # of steps of 64 pixels there is no other


def test_what_a_run_says_first_names_small_buckets(tmp_path, teacher, data, capsys):
    recipe = recipe_of(data, stage_one__updates=1, stage_two__ladder=[2], teacher__path=str(teacher), train__batch_size=7)
    fewstep.distill(recipe=recipe, out=tmp_path / "run", device="cpu")
    said = capsys.readouterr().err
    assert "6 16x16, 7 24x12, 2 12x24" in said and "than the 7 of an update" in said
    assert "6 16x16, 2 12x24" in said.split("than the 7 of an update")[1].splitlines()[0]


def test_the_memory_is_that_of_the_largest_bucket(teacher, data, cached):
    model = fewstep.open_model(teacher)
    one, all_of_them, larger, of_cache = (
        needed(load_recipe(None, {"train.batch_size": 4} | changes), model, "cpu")[0]["activations"]
        for changes in ({}, {"data.buckets": BUCKETS}, {"data.buckets": [[32, 32], [24, 12]]}, {"data.cache": str(cached.folder)})
    )
    assert one < all_of_them < larger and of_cache == all_of_them  # 16x16 has 256 pixels, 24x12 has 288
    assert larger > 3 * one


def test_auto_makes_buckets_of_the_teacher_s_area(teacher):
    recipe = load_recipe(None, {"data.buckets": "auto", "data.bucket_step": 4, "data.bucket_ratio": 1.7})
    assert buckets_of(recipe, fewstep.open_model(teacher)).names == ("12x20", "16x16", "20x12")
