"""A plan: its counts are the method's, its memory that of the weights, and nothing is allocated to make it."""

import json
import resource

import pytest
import torch
from torch import nn

import fewstep.training.cost_estimate as planning
from conftest import TINY
from fewstep import Model, open_model
from fewstep.errors import InputError
from fewstep.method.process import Cosine, process_settings
from fewstep.models.denoiser import Denoiser
from fewstep.models.families.own import Own
from fewstep.models.model import Info
from fewstep.training.cost_estimate import about, plan, plan_text, short, student, student_shapes, untrained
from fewstep.training.network_cost import count, evaluate
from fewstep.training.plan_of_stages import seconds_left
from fewstep.training.recipe import load_recipe

LADDER = {
    "stage_one__updates": 7, "stage_two__ladder": [24, 8, 2, 1], "stage_two__updates": 11, "stage_two__last_updates": 13,
    "encoder__ladder": [24, 4], "encoder__updates": 17, "train__gradient_accumulation": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(teacher_folder):
    return open_model(teacher_folder)


def own_teacher(network):
    """A teacher of 8x8 colour images around a network of one's own, called as network(z, time, labels, w)."""
    family, process = Own(network), Cosine()
    info = Info(
        kind="teacher", family="own", prediction="v", process=process_settings(process), classes=("a", "b"), size=8, channels=3
    )
    return Model(Denoiser(network, "v", process, 2), info, family)


def test_stage_one_costs_three_evaluations_and_a_rung_of_k_costs_k_plus_one(recipe, teacher):
    planned = plan(recipe(**LADDER), teacher, probe=False, device="cpu")
    flops, expected = planned["flops"], [("stage-one", 7, 2), ("steps-0008", 11, 3), ("steps-0002", 13, 4), ("steps-0001", 13, 2), ("encoder-0004", 17, 6)]  # fmt: skip
    for stage, (name, updates, calls) in zip(planned["stages"], expected, strict=True):
        examples = updates * 4 * 2  # batch, micro-batches
        assert (stage["name"], stage["updates"], stage["batch_size"]) == (name, updates, 8)
        assert stage["evaluations"] == {"forward": calls * examples, "trained": examples, "total": (calls + 1) * examples}
        spent = examples * (calls * flops["forward"] + flops["trained"]) / planning.ASSUMED_SPEED["cpu"]  # without a probe
        assert stage["seconds"] == pytest.approx(spent)
    assert planned["seconds"] == pytest.approx(sum(stage["seconds"] for stage in planned["stages"]))


def test_memory_is_that_of_the_weights_and_of_what_is_kept_for_the_gradient(recipe, teacher):
    network = student(teacher).denoiser.network
    bytes_of = {name: 4 * sum(p.numel() for p in n.parameters()) for name, n in (("t", teacher.denoiser.network), ("s", network))}
    planned = plan(recipe(), teacher, probe=False)
    for stage in planned["stages"]:
        memory = stage["memory"]
        assert memory["weights"] == memory["gradients"] == memory["average"] == memory["moments"] / 2 == bytes_of["s"]
        assert memory["teacher"] == bytes_of["t" if stage["name"] == "stage-one" else "s"]
        assert memory["total"] == sum(value for key, value in memory.items() if key != "total")
    assert planned["parameters"] * 4 == bytes_of["s"]
    assert plan(load_recipe(None, TINY | {"data.name": "digits"}), None, probe=False)["stages"][0]["memory"]["teacher"] == 0


def test_shapes_alone_are_counted_as_the_network_itself(teacher):
    shapes = student_shapes(teacher)
    assert {p.device.type for p in shapes.denoiser.network.parameters()} == {"meta"}
    assert count(shapes, 3) == count(student(teacher), 3)
    # the embeddings' constants aside, twice the batch keeps twice as much
    assert count(shapes, 6)["activations"] == pytest.approx(2 * count(shapes, 3)["activations"], rel=0.01)


class Convolution(nn.Conv2d):
    def forward(self, z, time, labels, w=None):
        return super().forward(z)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z, time, labels, w=None):
        q = (self.scale * z.mean(1, keepdim=True)).reshape(len(z), 1, 64, 1).expand(-1, 2, -1, 32)
        return nn.functional.scaled_dot_product_attention(q, q, q)


def test_flops_and_kept_bytes_of_a_convolution_are_the_known_ones():
    cost = count(student_shapes(own_teacher(Convolution(3, 3, 3, padding=1))), 5)
    assert cost["flops"]["forward"] == 2 * 3 * 3 * 9 * 8 * 8
    assert cost["flops"]["trained"] == 2 * cost["flops"]["forward"]  # the input needs no gradient
    assert cost["activations"] == 5 * 3 * 8 * 8 * 4  # the input
    assert cost["parameters"] == 3 * 3 * 9 + 3


def test_attention_counts_its_flops_and_keeps_no_matrix_of_weights():
    cost = count(student_shapes(own_teacher(Attention())), 5)
    assert cost["flops"]["forward"] == 2 * (2 * 2 * 64 * 64 * 32)
    assert cost["activations"] < 5 * 2 * 64 * (3 * 32 + 32 + 2) * 4 + 2 * 5 * 64 * 3 * 4  # q, k, v, output, log-sums, and z twice


def test_half_a_billion_parameters_are_planned_without_their_memory():
    network = {"block_out_channels": [512, 1024, 1536], "layers_per_block": 2, "mid_block_type": "UNetMidBlock2D"}
    recipe = load_recipe(None, {f"network.{key}": value for key, value in network.items()} | {"data.size": 64, "data.channels": 3})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    planned = plan(recipe, None, classes=1000, probe=False)
    assert planned["parameters"] > 500e6
    assert planned["memory"] > 5 * 4 * planned["parameters"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB; the weights alone are ten times that


def test_no_probe_of_a_network_that_is_too_large(recipe, teacher, monkeypatch):
    monkeypatch.setattr(planning, "LARGEST_PROBED", 0)
    assert plan(recipe(), teacher)["rates"]["speed"] == planning.ASSUMED_SPEED["cpu"]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_probe_leaves_the_teacher_and_the_random_state_as_they_were(recipe, teacher, precision):
    before = {key: value.clone() for key, value in teacher.denoiser.network.state_dict().items()}
    state, asked = torch.get_rng_state(), [p.requires_grad for p in teacher.denoiser.network.parameters()]
    planned = plan(recipe(train__precision=precision), teacher, device="cpu")
    assert planned["rates"]["forward"] > 0
    assert planned["rates"]["trained"] > 0
    assert planned["rates"]["probed_batch"] == 4
    assert all(torch.equal(value, before[key]) for key, value in teacher.denoiser.network.state_dict().items())
    assert [p.requires_grad for p in teacher.denoiser.network.parameters()] == asked
    assert all(p.grad is None for p in teacher.denoiser.network.parameters())
    plan(load_recipe(None, TINY | {"data.name": "digits"}), None, probe=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_sampling_after_a_plan_on_shapes_is_what_it_was_before(teacher):
    made = student(teacher)
    before = evaluate(made, 2)
    count(student_shapes(teacher), 2)  # nothing that the network computes once may be left on the meta device
    assert torch.equal(evaluate(made, 2), before)


def test_pictures_that_are_asked_for_are_counted(recipe, teacher):
    asked, without = (plan(recipe(**LADDER, train__sample_every=n), teacher, probe=False, device="cpu") for n in (5, 0))
    draws = [(2, 16), (3, 8), (3, 2), (3, 1)]  # grids, and steps
    assert asked["pictures"]["evaluations"] == 12 * (64 + sum(grids * steps for grids, steps in draws))
    assert asked["seconds"] == pytest.approx(without["seconds"] + asked["pictures"]["seconds"])
    assert "pictures" in plan_text(asked) and "pictures" not in plan_text(without)


def test_the_text_names_every_stage_and_the_sum(recipe, teacher):
    planned = plan(recipe(**LADDER), teacher, probe=False)
    lines = plan_text(planned).splitlines()
    assert json.loads(json.dumps(planned)) == planned
    assert len({len(line.split("evaluations")[0]) for line in lines[3:]}) == 1  # a column
    for stage, line in zip(planned["stages"], lines[3:-1], strict=True):
        assert line.startswith(stage["name"])
        assert f"{stage['updates']} updates x 8 " in line
        assert about(stage["seconds"]) in line
    assert "in all" in lines[-1]
    assert "not measured" in lines[2]


def test_the_text_of_a_teacher_to_be_trained_is_its_one_stage():
    planned = plan(load_recipe("digits"), None, device="cpu")
    text = plan_text(planned)
    assert text.splitlines()[3].startswith("teacher")
    assert len(text.splitlines()) == 4
    assert "measured at batch 128; cpu, 1 process" in text


@pytest.mark.parametrize("changes", [{}, {"data.size": 8}, {"data.size": 8, "data.channels": 3}])
def test_a_network_of_unknown_size_is_refused_and_names_of_classes_are_counted(changes):
    with pytest.raises(InputError, match="must be known to plan"):
        plan(load_recipe(None, changes), None, probe=False)
    known = {"data.size": 8, "data.channels": 3, "data.classes": ["cat", "dog", "eel"]}
    assert untrained(load_recipe(None, TINY | known), None).denoiser.null == 3


def test_numbers_and_spans_are_short():
    assert [short(n) for n in (7, 999, 1234, 98_765, 3_840_000, 2.5e15)] == ["7 ", "999 ", "1.2 k", "99 k", "3.8 M", "2.5 P"]
    assert [short(n, 1024) for n in (512, 1024, 5 * 2**30)] == ["512 ", "1.0 Ki", "5.0 Gi"]
    assert [about(s) for s in (40, 1860, 18_720, 1e6)] == ["40 s", "31 min", "5.2 h", "11.6 days"]


def test_the_time_left_is_that_of_the_stage_and_of_the_later_ones_by_their_evaluations():
    stages = [("stage-one", 10, 2, True), ("steps-0008", 20, 4, True), ("steps-0002", 5, 5, True)]
    assert seconds_left(stages, "steps-0002", 7.0, 1.0) == 7.0
    assert seconds_left(stages, "stage-one", 3.0, 0.3) == pytest.approx(3.0 + 20 * 0.5 + 5 * 0.6)
    assert seconds_left(stages, "another", 3.0, 0.3) is None
