"""Runs split over two processes, by DDP and by FSDP2: the weights of one process with twice the batch, however often it changes."""

import os
import signal
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

import flow_pipelines
from command_line import command
from conftest import TINY, run_command
from fewstep.data.loading import open_data
from fewstep.errors import InputError
from fewstep.models.metadata import read_info
from fewstep.training.checkpoint import Checkpoint, load_checkpoint, load_newest, save_newest, save_shards
from fewstep.training.distill import new_teacher
from fewstep.training.losses import teaching
from fewstep.training.recipe import load_recipe
from fewstep.training.sample_grids import read_grid
from fewstep.training.sharing import blocks, check_launch, described, is_part, sharded
from fewstep.training.trainer import Interrupted, Trainer

TWO = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0")
SHORT = {"stage_one.updates": 30, "stage_two.ladder": [4, 1], "stage_two.last_updates": 3}
CPU = ("--device", "cpu")


def words(teacher_folder, out, **changes):
    """The command line of a tiny distillation."""
    settings = TINY | {"data.name": '"digits"'} | SHORT | changes
    return [
        "distill",
        "--teacher",
        teacher_folder,
        "--out",
        out,
        *(w for k, v in settings.items() for w in ("--set", f"{k}={v}")),
        *CPU,
    ]


def weights(run):
    return load_file(run / "steps-0001" / "unet" / "diffusion_pytorch_model.safetensors")


def logged(run):
    """How many updates the run has logged."""
    log = run / "log.jsonl"
    return len(log.read_text().splitlines()) if log.is_file() else 0


def stopped(line, run, number=signal.SIGTERM):
    """Run a command on two processes until its run has logged four updates, then stop it: how many it logged."""
    process = run_command(*line, launcher=TWO, background=True)
    while process.poll() is None and logged(run) < 4:
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert 4 <= logged(run) < 30
    return logged(run)


@pytest.fixture
def fsdp(monkeypatch):
    """accelerate's environment variables that start FSDP2."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")


PICTURES = {"stage_one.updates": 2, "stage_two.ladder": [4, 2], "stage_two.last_updates": 2}


def pictures(run):
    return {file.relative_to(run): file.read_bytes() for file in (run / "samples").rglob("*.png")}


def test_two_processes_are_one_with_two_micro_batches_to_the_bit_and_the_first_draws_its_pictures(tmp_path, teacher_folder, capsys):
    changes = PICTURES | {"train.sample_every": 1}
    out, errors = run_command(*words(teacher_folder, tmp_path / "two", **changes), launcher=TWO)
    assert out.split() == [str(tmp_path / "two" / "stage-one"), str(tmp_path / "two" / "steps-0002")]
    assert "cpu, 2 processes (DDP), precision float32, 8 examples an update (4 x 2)" in errors
    micro = changes | {"train.gradient_accumulation": 2, "train.sample_every": 2}
    command(capsys, *words(teacher_folder, tmp_path / "one", **micro))
    two, one = (
        {file.relative_to(run): load_file(file) for file in sorted(run.rglob("unet/*.safetensors"))}
        for run in (tmp_path / "two", tmp_path / "one")
    )
    assert len(one) == 2 and two.keys() == one.keys()
    assert all(two[file][key].equal(weight) for file, known in one.items() for key, weight in known.items())
    drawn, known = pictures(tmp_path / "two"), pictures(tmp_path / "one")
    assert len(drawn) == 5 and len(known) == 3
    assert all(drawn[name] == picture for name, picture in known.items())


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch_also_where_one_goes_on_with_their_run(tmp_path, teacher_folder):
    """Of one process with two micro-batches to the bit: it adds the same two gradients; of one batch twice as large but for rounding."""
    run_command(*words(teacher_folder, tmp_path / "two"), launcher=TWO)
    run_command(*words(teacher_folder, tmp_path / "one", **{"train.batch_size": 8}))
    stopped(words(teacher_folder, tmp_path / "cut"), tmp_path / "cut")
    assert load_checkpoint(tmp_path / "cut" / "checkpoint" / "state.safetensors").values["global_batch"] == 8
    run_command(*words(teacher_folder, tmp_path / "cut", **{"train.gradient_accumulation": 2}))
    assert [h["batch_size"] for h in read_info(tmp_path / "two" / "steps-0001").history] == [8, 8]
    two, one, cut = (weights(tmp_path / name) for name in ("two", "one", "cut"))
    for key in one:
        assert_close(two[key], one[key], atol=2e-4, rtol=1e-3)
        assert cut[key].equal(two[key]), key


@pytest.mark.slow  # one process as a group of one is tested below
def test_sharded_processes_train_what_one_trains(tmp_path, teacher_folder, fsdp):
    short = {"stage_one.updates": 5, "stage_two.last_updates": 3}
    _, errors = run_command(*words(teacher_folder, tmp_path / "two", **short), launcher=TWO)
    assert "2 processes (FSDP2)" in errors
    run_command(*words(teacher_folder, tmp_path / "one", **short, **{"train.batch_size": 8}))
    two, one = weights(tmp_path / "two"), weights(tmp_path / "one")
    assert two.keys() == one.keys()
    for key in one:
        assert_close(two[key], one[key], atol=2e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_sharded_run_goes_on_with_one_process_and_one_process_with_shards(tmp_path, teacher_folder, monkeypatch):
    run, micro = tmp_path / "cut", {"train.gradient_accumulation": 2}
    run_command(*words(teacher_folder, tmp_path / "one", **micro))
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    stopped(words(teacher_folder, run), run)
    assert (run / "checkpoint" / "state").is_dir()
    process = run_command(*words(teacher_folder, run, **micro), background=True)  # a process alone is whole
    while process.poll() is None and logged(run) < 12:
        time.sleep(0.005)
    process.terminate()
    process.communicate(timeout=60)
    assert 12 <= logged(run) < 30 and (run / "checkpoint" / "state.safetensors").is_file()
    run_command(*words(teacher_folder, run), launcher=TWO)
    one, cut = weights(tmp_path / "one"), weights(run)
    for key in one:
        assert_close(cut[key], one[key], atol=4e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("share", ["DDP", "FSDP2"])
def test_a_process_that_dies_ends_the_others_with_the_last_checkpoint_whole(tmp_path, teacher_folder, monkeypatch, share):
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", str(share == "FSDP2").lower())
    line, run = words(teacher_folder, tmp_path / "run", **{"stage_one.updates": 2000}), tmp_path / "run"
    launcher = run_command(*line, launcher=TWO, background=True)
    while launcher.poll() is None and logged(run) < 8:
        time.sleep(0.005)
    children = [int(pid) for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]
    workers = [pid for pid in children if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    launcher.communicate(timeout=60)
    assert launcher.returncode not in (0, None) and not any(Path(f"/proc/{pid}").exists() for pid in children)
    checkpoint = load_newest(run / "checkpoint")
    assert checkpoint.values["stage"] == "stage-one" and checkpoint.values["update"] >= 3


def of_prompts(teacher, root, sharing="DDP"):
    """What two processes said when they distilled a teacher from prompts into `root/two`; one did the same into `root/one`."""
    prompts, said = root / "prompts.txt", []
    prompts.write_text("a cat\ndog\na hat\nbig dog\n", encoding="utf-8")
    changes = {"stage_one.updates": 3, "stage_two.ladder": [2, 1], "stage_two.last_updates": 3, "train.warmup": 0}
    changes |= {"data.prompts": prompts}
    settings = [w for k, v in changes.items() for w in ("--set", f"{k}={v}")]
    for name, batch, launcher in (("two", 2, TWO), ("one", 4, ())):
        sized = ["--set", f"train.batch_size={batch}", "--out", root / name]
        said.append(run_command("distill", "--teacher", teacher, *settings, *sized, *CPU, launcher=launcher)[1])
    assert f"2 processes ({sharing})" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["DDP", "FSDP2"])
def test_two_processes_train_two_networks(tmp_path, sharing, request):
    """Wan 2.2's, of which a process may have no example for one."""
    if sharing == "FSDP2":
        request.getfixturevalue("fsdp")
    of_prompts(flow_pipelines.wan_pipeline(tmp_path / "teacher", two=True), tmp_path, sharing)
    for part in ("", "_2"):
        file = f"steps-0001/student{part}/diffusion_pytorch_model.safetensors"
        before = load_file(tmp_path / "teacher" / f"transformer{part}" / "diffusion_pytorch_model.safetensors")
        two, one = (load_file(tmp_path / name / file) for name in ("two", "one"))
        assert two.keys() == one.keys() and any(not one[key].equal(before[key]) for key in before)
        for key in one:
            assert_close(two[key], one[key], atol=2e-4, rtol=1e-3)


@pytest.mark.slow
def test_two_processes_train_a_network_whose_last_weights_have_no_part_in_the_error(tmp_path):
    teacher = flow_pipelines.qwen_pipeline(tmp_path / "teacher")
    of_prompts(teacher, tmp_path)
    two, one = (
        load_file(tmp_path / name / "steps-0001" / "student" / "diffusion_pytorch_model.safetensors") for name in ("two", "one")
    )
    before = load_file(teacher / "transformer" / "diffusion_pytorch_model.safetensors")
    idle = "transformer_blocks.0.attn.to_add_out.weight"  # makes text that nobody reads
    assert one[idle].equal(before[idle]) and two[idle].equal(before[idle])
    assert any(not one[key].equal(before[key]) for key in before)
    for key in one:
        assert_close(two[key], one[key], atol=2e-4, rtol=1e-3)


def stopping(stage, trainer, calls):
    """The stage, which asks the trainer to stop with that call of its error."""
    count = iter(range(1, 100))

    def error(denoiser, batch):
        if next(count) == calls:
            trainer.signals.append(15)
        return stage.error(denoiser, batch)

    return replace(stage, error=error)


@pytest.fixture
def alone(tmp_path):
    """A process group of this process alone, for what is sharded."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield SimpleNamespace(num_processes=1, device=torch.device("cpu"), is_main_process=True, wait_for_everyone=lambda: None)
    torch.distributed.destroy_process_group()


class Blocks(torch.nn.Module):
    """A network with a list of modules, one of them a list itself."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 5)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(5, 5), torch.nn.ModuleList([torch.nn.Linear(5, 7)])])


def test_a_sharded_network_is_a_copy_in_blocks_and_its_checkpoint_is_that_of_a_whole_one(tmp_path, alone):
    given = Blocks()
    parts = sharded(given, alone)
    assert (
        blocks(given) == [given.blocks[0], given.blocks[1][0]]
        and not any(map(is_part, given.parameters()))
        and all(map(is_part, parts.parameters()))
    )
    for update in (1, 2):
        state = {f"network/{key}": value * update for key, value in parts.state_dict().items()} | {
            "step": torch.tensor(float(update))
        }
        save_shards(tmp_path, Checkpoint(state, {"stage": "x", "update": update}), alone)
    like = {f"network/{key}": value for key, value in given.state_dict().items()} | {"step": torch.zeros(())}
    for known in (like, like | {key: value for key, value in state.items() if is_part(value)}):
        loaded = load_newest(tmp_path).like(known)
        assert loaded.values["update"] == 2 and loaded.tensors["step"] == 2
        for key, value in given.state_dict().items():
            found = loaded.part("network")[key]
            assert is_part(found) == is_part(known[f"network/{key}"])
            assert torch.equal(found.full_tensor() if is_part(found) else found, 2 * value)


def test_a_sharded_stage_is_the_whole_one_also_where_they_take_turns(tmp_path, alone, monkeypatch):
    digits, taught = open_data(name="digits"), {}
    for name, turns in (("whole", (False,)), ("sharded", (True,)), ("turns", (True, False, True))):
        for turn, shard in enumerate(turns, 1):
            for module in ("trainer", "train_state"):
                monkeypatch.setattr(f"fewstep.training.{module}.is_sharded", lambda accelerator, shard=shard: shard)
            recipe = load_recipe(None, TINY | {"train.gradient_accumulation": 2, "train.batch_size": 2})
            model = new_teacher(recipe, digits)
            with closing(Trainer(tmp_path / name, digits, recipe.train, "cpu", quiet=True)) as trainer, suppress(Interrupted):
                stage = teaching(recipe, model.denoiser)
                trainer.train(stage if turn == len(turns) else stopping(stage, trainer, 4), model.denoiser)
        taught[name] = model.denoiser.network.state_dict()
    for name in ("sharded", "turns"):
        for key, value in taught["whole"].items():
            assert not is_part(taught[name][key])
            assert_close(taught[name][key], value, atol=1e-5, rtol=1e-4)


def test_checkpoints_of_both_kinds_follow_each_other_and_a_damaged_shard_is_named(tmp_path, alone):
    def state(update):
        return Checkpoint({"weight": torch.full((2,), float(update))}, {"stage": "x", "update": update})

    kept = []
    for update, shards in enumerate((True, True, False, False, True), 1):
        save_shards(tmp_path, state(update), alone) if shards else save_newest(tmp_path, state(update))
        assert load_newest(tmp_path).values["update"] == update
        kept.append(sorted(path.name for path in tmp_path.glob("state*")))
    folders, files = ["state", "state-before"], ["state-before.safetensors", "state.safetensors"]
    assert kept == [["state"], folders, ["state-before", "state.safetensors"], files, ["state", "state-before.safetensors"]]
    (shard,) = (tmp_path / "state").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    reports = []
    assert load_newest(tmp_path, reports.append).values["update"] == 4
    assert len(reports) == 1 and str(shard) in reports[0]


def test_what_fsdp_cannot_do_here_is_refused(monkeypatch, fsdp):
    chosen = SimpleNamespace(precision="no", gradient_accumulation=1, compile=False, batch_size=4)
    check_launch(chosen)
    assert "2 processes (FSDP2)" in described(SimpleNamespace(num_processes=2, device=torch.device("cpu")), chosen)
    for name, value, changes in (
        ("FSDP_VERSION", "1", {}), ("FSDP_OFFLOAD_PARAMS", "true", {}), ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", {}), ("FSDP_VERSION", "2", {"precision": "fp16"}),
    ):  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            with pytest.raises(InputError, match=r"fsdp_version: 2|fsdp_offload_params|efficient_loading|fp16"):
                check_launch(SimpleNamespace(**vars(chosen) | changes))


def test_shards_that_cannot_be_written_leave_the_last_checkpoint(tmp_path, alone, monkeypatch):
    save_shards(tmp_path, Checkpoint({"weight": torch.zeros(2)}, {"stage": "x", "update": 1}), alone)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.hf_storage.HuggingFaceStorageWriter.write_data", full)
    with pytest.raises(InputError, match="No space left on device"):
        save_shards(tmp_path, Checkpoint({"weight": torch.ones(2)}, {"stage": "x", "update": 2}), alone)
    assert load_newest(tmp_path).values["update"] == 1


@pytest.mark.slow  # that they are those of one process is tested above
def test_sharded_processes_draw_the_pictures_of_one_and_train_on_as_without(tmp_path, teacher_folder, fsdp):
    for name, every in (("with", 1), ("without", 0)):
        changes = PICTURES | {"train.sample_every": every}
        run_command(*words(teacher_folder, tmp_path / name, **changes), launcher=TWO)
    weights = [load_file(file) for file in sorted(tmp_path.glob("with*/steps-0002/unet/*.safetensors"))]
    assert len(weights) == 2 and all(weights[0][key].equal(weights[1][key]) for key in weights[0])
    run_command(*words(teacher_folder, tmp_path / "one", **PICTURES | {"train.sample_every": 1, "train.batch_size": 8}))
    sharded, one = pictures(tmp_path / "with"), pictures(tmp_path / "one")
    assert sharded.keys() == one.keys()
    for name in one:
        found, known = (read_grid(tmp_path / run / name) for run in ("with", "one"))
        for ours, theirs in zip(found.columns, known.columns, strict=True):
            pairs = [[np.asarray(image).astype(int) for image in column[2]] for column in (ours, theirs)]
            assert np.abs(np.stack(pairs[0]) - np.stack(pairs[1])).max() <= 2
