"""Each private name of a library still is there, and does what is wanted of it."""

import diffusers
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch.nn.functional import scaled_dot_product_attention

import pipelines
from fewstep import compat
from fewstep.models.families.class_conditional import ClassConditionalPipeline


def test_a_process_may_have_accelerators_of_two_precisions():
    for precision in ("bf16", "no"):
        compat.reset_accelerator()
        assert Accelerator(mixed_precision=precision, cpu=True).mixed_precision == precision


@pytest.mark.parametrize("bad", [0.0, 1.0])
def test_a_fused_optimizer_skips_a_bad_step(bad):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.grad = torch.ones(3)
    compat.skip_where(optimizer, torch.tensor(bad))
    optimizer.step()
    assert torch.equal(weight, torch.ones(3)) == bool(bad)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_views_share_a_storage_and_copies_do_not(device):
    tensor = torch.zeros(4, device=device)
    assert compat.storage_key(tensor) == compat.storage_key(tensor[1:]) != compat.storage_key(tensor.clone())


def test_attention_without_weights_is_attention():
    query, key, value = (torch.randn(2, 3, 5, 8) for _ in range(3))
    torch.testing.assert_close(
        compat.attention_without_weights(query, key, value, None), scaled_dot_product_attention(query, key, value)
    )
    assert compat.attention_without_weights(*(x.to("meta") for x in (query, key, value)), None).shape == query.shape


def test_a_dispatch_mode_sees_each_operation():
    seen = []

    class Seeing(compat.DispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Seeing():
        torch.ones(2) + 1
    assert torch.ops.aten.add.Tensor in seen


def test_leaves_of_a_tree():
    assert compat.leaves(({"a": [1, 2]}, (3,))) == [1, 2, 3]


def test_networks_that_can_be_checkpointed():
    assert compat.can_checkpoint(pipelines.unet()) and not compat.can_checkpoint(torch.nn.Linear(1, 1))
    assert not compat.can_checkpoint(diffusers.VQModel())


def test_components_that_a_pipeline_may_be_without():
    assert "safety_checker" in compat.optional_components(diffusers.StableDiffusionPipeline)
    assert "text_encoder_3" not in compat.optional_components(diffusers.StableDiffusion3Pipeline)
    assert compat.optional_components(ClassConditionalPipeline) == ["vae"]
    network = pipelines.unet(text=0, num_class_embeds=4)
    assert ClassConditionalPipeline(network, pipelines.scheduler("DDIMScheduler")).vae is None


def test_the_kind_of_a_single_file(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert compat.checkpoint_kind(tmp_path / "x.safetensors").startswith("v1")  # as where nothing else is found
