"""How a run's processes share its work: what the first line says, and what is refused before the start."""

from types import SimpleNamespace

import pytest
import torch

from command_line import refused
from fewstep.data.loading import open_data
from fewstep.errors import InputError
from fewstep.training.recipe import load_recipe, shipped_recipes
from fewstep.training.sharing import accelerator_for, check_examples, check_launch, described
from fewstep.training.trainer import Trainer

NO_LOG = {"train.log_with": "none"}


def settings(**changes):
    return load_recipe(None, NO_LOG | {f"train.{key}": value for key, value in changes.items()}).train


def test_a_run_begins_with_its_device_processes_precision_and_global_batch(tmp_path, capsys):
    chosen = settings(batch_size=6, gradient_accumulation=4, precision="bf16")
    Trainer(tmp_path, open_data(name="digits"), chosen, "cpu").close()
    (line,) = capsys.readouterr().err.splitlines()
    assert all(part in line for part in ("cpu", "1 process,", "bf16", "24 examples an update (6 x 4)"))
    two = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    assert "2 processes (DDP), precision float32, 48 examples" in described(two, settings(batch_size=24))


@pytest.mark.parametrize(
    ("variable", "value", "changes", "parts"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", {}, ("mixed_precision is 'bf16'", "train.precision 'no'")),
        ("ACCELERATE_MIXED_PRECISION", "fp8", {"precision": "bf16"}, ("'fp8'", "train.precision 'bf16'")),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", {"gradient_accumulation": 2}, ("'4'", "train.gradient_accumulation 2")),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", {}, ("inductor", "train.compile False")),
        ("ACCELERATE_USE_DEEPSPEED", "true", {}, ("DeepSpeed", "FSDP2")),
        ("ACCELERATE_USE_MEGATRON_LM", "true", {}, ("Megatron", "FSDP2")),
    ],
)
def test_an_accelerate_configuration_that_contradicts_the_recipe_is_refused(tmp_path, monkeypatch, variable, value, changes, parts):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError) as caught:
        accelerator_for(settings(**changes), tmp_path, "cpu")
    assert all(part in str(caught.value) for part in parts)


def test_a_command_refuses_such_a_configuration_before_it_writes_anything(tmp_path, monkeypatch, capsys, teacher_folder):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    words = ["distill", "--teacher", teacher_folder, "--set", "data.name=digits", "--out", tmp_path / "run", "--device", "cpu"]
    assert "mixed_precision" in refused(capsys, *words) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("variable", "value", "changes"),
    [
        ("ACCELERATE_MIXED_PRECISION", "no", {"precision": "bf16"}),
        ("ACCELERATE_MIXED_PRECISION", "bf16", {"precision": "bf16"}),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1", {"gradient_accumulation": 2}),
        ("ACCELERATE_DYNAMO_BACKEND", "NO", {"compile": True}),
    ],
)
def test_one_that_says_nothing_else_is_taken(tmp_path, monkeypatch, variable, value, changes):
    monkeypatch.setenv(variable, value)
    assert accelerator_for(settings(**changes), tmp_path, "cpu").device.type == "cpu"


def test_more_processes_than_examples_are_refused():
    data = open_data(name="digits")
    check_examples(data, SimpleNamespace(num_processes=len(data)))
    for given in (data, SimpleNamespace(data=data)):
        with pytest.raises(InputError, match="1798 processes for 1797 examples: start at most 1797"):
            check_examples(given, SimpleNamespace(num_processes=1798))


def test_a_precision_that_the_device_lacks_is_refused(tmp_path, monkeypatch):
    def lacking(**arguments):
        raise ValueError("bf16 mixed precision requires PyTorch >= 1.10 and a supported device.")

    monkeypatch.setattr("fewstep.training.sharing.Accelerator", lacking)
    with pytest.raises(InputError, match=r"train\.precision 'bf16'.*'no'"):
        accelerator_for(settings(precision="bf16"), tmp_path, "cpu")


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_the_shipped_configurations_of_accelerate_start_what_is_known_here(monkeypatch, name):
    from accelerate.commands.config.config_args import load_config_from_file

    file = shipped_recipes()["digits"].parent / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(file))
    assert config.mixed_precision == "no" and f"recipes/accelerate/{name}.yaml" in file.read_text().splitlines()[0]
    for key, value in config.fsdp_config.items():  # as accelerate launch does
        monkeypatch.setenv(key.upper(), str(value).lower())
    monkeypatch.setenv("ACCELERATE_USE_FSDP", str(name == "fsdp2").lower())
    check_launch(settings())
    two = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    assert ("FSDP2" if name == "fsdp2" else "DDP") in described(two, settings())
