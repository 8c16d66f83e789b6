"""The shipped recipes: planned on published configs without any weights, and, shrunk, run for a few updates a stage."""

import json
import resource
import shutil
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import fewstep
from fewstep.cli.train import print_plan
from fewstep.errors import InputError
from fewstep.models.shapes import has_configs_alone, open_shapes
from fewstep.training.cost_estimate import plan, plan_text, planned_teacher
from fewstep.training.recipe import load_recipe, parse_change, shipped_recipes

CONFIGS = Path(__file__).parents[1] / "configs"
PUBLISHED = {  # parameters of the networks as their authors publish them, exactly where the hub's files say it
    "sd15": 859_520_964, "sd21": 865_910_724, "sdxl": 2_567_463_684, "sd3": 2_028_328_000, "flux": 11_891_178_560,
    "deepfloyd-if": 4_304_695_110, "dit": 749_826_464,
}  # fmt: skip
TEXT_TRANSFORMERS = {  # what diffusers makes of the published configs; their authors speak of 8.9, 6, 1.6, 8.1, 2.6, 6.8, 4, 1.5, 2 x 14, 2.6, 1.3, 6, 13 and 1.06 G
    "chroma": 8_899_983_424, "z-image": 6_154_908_736, "sana": 1_604_462_752, "sd35": 8_056_627_520, "lumina2": 2_609_769_152,
    "aura-flow": 6_842_876_928, "flux2-klein": 3_875_544_576, "hunyuan-dit": 1_516_534_048,
    "wan22-a14b": 28_576_983_168, "kolors": 2_579_458_820, "prx": 1_170_691_648, "cogview4": 6_369_118_272, "hunyuan-video": 12_821_012_544,
    "stable-audio": 1_056_939_136,
}  # fmt: skip
PUBLISHED |= TEXT_TRANSFORMERS
PAPER = ["cifar10", "imagenet64"]
SMALL = {
    "network.block_out_channels": [8, 8, 16], "network.down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "network.attention_head_dim": 4, "network.layers_per_block": 1, "network.norm_num_groups": 4, "network.num_class_embeds": 4,
    "data.size": 8, "data.classes": ["ant", "bee", "cat"], "teach.updates": 3, "stage_one.updates": 3, "stage_two.ladder": [4, 2, 1],
    "stage_two.updates": 3, "stage_two.last_updates": 3, "train.batch_size": 4, "train.gradient_accumulation": 2, "train.log_every": 1,
}  # fmt: skip


@cache
def planned(name, *changed):
    """What the dry run of a shipped recipe counts, its teacher's published configs in place of the hub."""
    changes = {"teacher.path": str(CONFIGS / name)} if name in PUBLISHED else {}
    recipe = load_recipe(name, changes | dict(parse_change(text) for text in changed))
    return recipe, plan(recipe, planned_teacher(recipe), device="cuda")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in TEXT_TRANSFORMERS)) for name in sorted(PUBLISHED)]
)
def test_published_configs_make_the_published_number_of_parameters(name):
    network = open_shapes(CONFIGS / name).denoiser.network
    assert {value.device.type for value in network.state_dict().values()} == {"meta"}
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[name]
    assert has_configs_alone(CONFIGS / name)


def test_a_dit_has_675_million_parameters_but_for_the_embedders_that_diffusers_repeats():
    network = open_shapes(CONFIGS / "dit").denoiser.network
    embedder = sum(p.numel() for p in network.get_submodule("transformer_blocks.0.norm1.emb").parameters())
    assert PUBLISHED["dit"] - 27 * embedder == pytest.approx(675e6, rel=2e-3)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in sorted({*PUBLISHED, *PAPER} - {"sd15"})]


@pytest.mark.parametrize("name", ["sd15", *SLOW])
def test_every_recipe_at_scale_is_planned_without_weights(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    recipe, costs = planned(name)
    assert [stage["name"] for stage in costs["stages"]] == ["stage-one", *(f"steps-{n:04d}" for n in recipe.stage_two.ladder[1:])]
    assert costs["memory"] > (2 if recipe.teacher.dtype else 4) * costs["parameters"]
    assert costs["rates"]["speed"] == 5e13  # nothing was run
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * 1024  # KiB
    said = next(
        line
        for line in shipped_recipes()[name].read_text().splitlines()
        if line.startswith(("# Cost of distilling", "# Cost, each"))
    )
    memory = next(line for line in plan_text(costs).splitlines() if line.startswith("memory"))
    assert memory.split(":")[0].removeprefix("memory").strip() in said  # "about 26 GiB"


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl", "sd3"])
def test_recipes_of_text_in_latent_space_take_the_guidance_range_of_the_paper(name):
    assert load_recipe(name).student.guidance_scale == (3, 15)
    assert load_recipe(name).teacher.path.count("/") == 1  # a hub id


@pytest.mark.parametrize("name", PAPER)
def test_recipes_of_the_paper_halve_1024_steps_with_its_updates(name):
    recipe, costs = planned(name)
    assert recipe.stage_two.ladder == tuple(2**n for n in range(10, -1, -1))
    updates = {stage["name"]: stage["updates"] for stage in costs["stages"][1:]}
    assert {updates[f"steps-{n:04d}"] for n in (2, 1)} == {100_000}
    assert {updates[f"steps-{2**n:04d}"] for n in range(2, 10)} == {50_000}
    assert recipe.student.guidance_scale == (1, 5)


def test_a_batch_of_imagenet64_is_2048_on_8_devices():
    assert {8 * stage["batch_size"] for stage in planned("imagenet64")[1]["stages"]} == {2048}


@pytest.mark.parametrize("name", ["cifar10", pytest.param("imagenet64", marks=pytest.mark.slow)])
def test_a_few_updates_of_every_stage_of_the_papers_recipes(tmp_path, name):
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8), np.arange(12) % 3
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    changes = SMALL | {"data.path": str(tmp_path / "data.npz")}
    teacher = fewstep.teach(name, tmp_path / "teach", changes=changes, device="cpu", quiet=True)
    assert any("attentions" in key for key in teacher.denoiser.network.state_dict())
    student = fewstep.distill(
        recipe=name, out=tmp_path / "run", changes=changes | {"teacher.path": str(tmp_path / "teach")}, device="cpu", quiet=True
    )
    assert student.info.steps == 1
    assert [stage["updates"] for stage in student.info.history] == [3] * 4
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 9 and np.isfinite(losses).all()
    assert student.sample_tensor(torch.arange(3), guidance_scale=4.0).samples.isfinite().all()


@pytest.mark.parametrize("name", ["sd15", pytest.param("cifar10", marks=pytest.mark.slow)])
def test_the_dry_run_prints_recipe_and_cost(capsys, name):
    changes = {"teacher.path": str(CONFIGS / name)} if name in PUBLISHED else {}
    print_plan(load_recipe(name, changes), teaching=False, device="cuda")
    recipe, _, costs = capsys.readouterr().out.partition("\nnetwork ")
    assert tomllib.loads(recipe)["student"]["prediction"] == "v"
    assert "cuda, 1 process" in costs
    if name == "cifar10":
        print_plan(load_recipe(name), teaching=True, device="cuda")
        assert "teacher      " in capsys.readouterr().out


def test_a_guidance_distilled_flux_is_refused(tmp_path):
    shutil.copytree(CONFIGS / "flux", tmp_path / "dev")
    file = tmp_path / "dev" / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"guidance_embeds": True}))
    with pytest.raises(InputError, match="guidance-distilled already"):
        open_shapes(tmp_path / "dev")


def test_a_config_that_makes_no_network_is_one_line(tmp_path):
    shutil.copytree(CONFIGS / "sd15", tmp_path / "torn")
    file = tmp_path / "torn" / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"up_block_types": ["UpBlock2D"]}))
    with pytest.raises(InputError, match="its config makes no network") as error:
        open_shapes(tmp_path / "torn")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_adapters_and_gradient_checkpointing_take_less_memory():
    whole, kept, adapters = (
        planned("dit", "train.batch_size=4", *more)[1]
        for more in ((), ("train.gradient_checkpointing=false",), ("student.lora.rank=8",))
    )
    a, b, c = (costs["stages"][0]["memory"] for costs in (whole, kept, adapters))
    assert a["activations"] < b["activations"] / 5
    assert whole["flops"]["trained"] == kept["flops"]["trained"] + kept["flops"]["forward"]
    assert c["teacher"] == 0  # its weights are the student's
    assert c["gradients"] < a["gradients"] / 50
    assert adapters["trained_parameters"] < adapters["parameters"] / 50
    assert "of them trained" in plan_text(adapters)


def test_gradient_checkpointing_changes_no_update(recipe, tmp_path):
    weights = []
    for value in (False, True):
        changed = recipe(train__gradient_checkpointing=value, stage_two__ladder=(4,), stage_one__updates=3)
        student = fewstep.distill(recipe=changed, out=tmp_path / str(value), device="cpu", quiet=True)
        weights.append(student.denoiser.network.state_dict())
    assert all(torch.allclose(value, weights[1][name], atol=1e-6) for name, value in weights[0].items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network.down_block_types": ["DownBlock2D"]}, "1 down_block_types for 3 block_out_channels"),
        ({"network.num_class_embeds": 10}, "num_class_embeds is 10, and the data has 3 classes; set it to 4"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        planned_teacher(load_recipe("cifar10", SMALL | change))
