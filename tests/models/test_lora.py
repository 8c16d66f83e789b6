"""LoRA students: one copy of the teacher's weights, adapters and a layer for w on it, merged or as a LoRA file of diffusers."""

import copy
import itertools
import json
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import fewstep
import flow_pipelines
import pipelines
import transformer_pipelines
import unet_pipelines
from command_line import command
from conftest import TINY
from family_cases import SLOW
from fewstep.errors import InputError
from fewstep.export.lora_file import EXPORTED, write_loras
from fewstep.models.denoiser import Denoiser
from fewstep.models.families import family_of
from fewstep.models.families.cogview4 import hiding
from fewstep.models.families.pipeline_folder import quiet
from fewstep.models.lora import ADAPTERS, added, inputs_of, is_input, merged
from fewstep.training.distill import distill_model, next_student, student_of
from fewstep.training.recipe import load_recipe, parse_change, to_toml
from fewstep.training.train_state import State
from fewstep.training.trainer import Interrupted, Trainer
from tiny import InMemory, Made

SCALE = 2.5
LORA = {k: v for k, v in TINY.items() if not k.startswith("network")} | {"student.lora.rank": 3, "student.lora.alpha": 6.0}
LORA |= {"stage_two.ladder": [4, 2], "stage_one.updates": 4, "stage_one.learning_rate": 1e-2, "stage_two.last_updates": 4}
FAMILIES = {
    "pixels": lambda folder: pipelines.class_pipeline(folder, latent=False),
    "text": pipelines.text_pipeline,
    "xl": unet_pipelines.xl_pipeline,
    "pixart": transformer_pipelines.pixart_pipeline,
    "sd3": transformer_pipelines.sd3_pipeline,
    "dit": transformer_pipelines.dit_pipeline,
    "flux": flow_pipelines.flux_pipeline,
    "wan": flow_pipelines.wan_pipeline,
    "qwen": flow_pipelines.qwen_pipeline,
    "deepfloyd": unet_pipelines.if_pipeline,
}
QUICK = ("pixels", "text", "sd3", "dit", "flux")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in [*FAMILIES, *SLOW]]
NOT_LOADED = (
    "pixart",
    "dit",
    "HunyuanDiT",
    "LongCat-Image",
    "Wan 2.2 A14B",
    "Stable Audio",
    "PRX",
)  # diffusers loads no LoRA into their networks or pipelines
WEIGHTS_TOO = "FLUX.2 klein"  # a scale goes into more than biases, which no LoRA file holds
LOADED = [name for name in NAMES if name.values[0] not in (*NOT_LOADED, WEIGHTS_TOO)]


def recipe(**changes):
    return load_recipe(None, LORA | {key.replace("__", "."): value for key, value in changes.items()})


def trained(teacher, out, settings=None, stop=None):
    """The last student of a run; `stop`: after so many batches, as a signal would."""
    settings, data, count = settings or recipe(), InMemory(teacher), itertools.count(1)
    with closing(Trainer(out, data, settings.train, "cpu", quiet=True)) as trainer:
        batch = data.batch
        data.batch = lambda *which: (trainer.signals.append(15) if next(count) == stop else None, batch(*which))[1]
        return distill_model(settings, teacher, data, trainer)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    root = tmp_path_factory.mktemp("teachers")
    return Made(lambda name: fewstep.open_model((FAMILIES | SLOW)[name](root / name)))


@pytest.fixture(scope="module")
def runs(teachers, tmp_path_factory):
    """name -> (the teacher's weights before, the run's folder, its last student in memory)."""

    def make(name):
        before = copy.deepcopy(teachers[name].denoiser.network.state_dict())
        out = tmp_path_factory.mktemp("runs") / name
        return before, out, trained(teachers[name], out)

    return Made(make)


def samples(model, **choices):
    z = torch.randn(2, *model.info.shape, generator=torch.Generator().manual_seed(7))
    return model.sample_tensor(model.example(2), noise=z, **choices).samples


def weights(folder):
    return load_file(folder / ADAPTERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_lora_student_starts_as_the_conditional_teacher_on_its_own_weights(teachers, name):
    network = student_of(recipe(), teachers[name]).denoiser.network  # which checks that it says the same to the bit
    named = {key.replace(".base_layer.", "."): p for key, p in network.named_parameters()}
    assert all(named[key] is p and not p.requires_grad for key, p in teachers[name].denoiser.network.named_parameters())
    fresh = added(network)
    assert [key for key in fresh if is_input(key) and not fresh[key].any()]
    assert {key for key, p in network.named_parameters() if p.requires_grad} == set(fresh)
    assert any(".lora_A." in key for key in fresh)


@pytest.mark.parametrize("name", NAMES)
def test_both_stages_change_adapters_and_the_layer_for_w_alone(teachers, runs, name):
    (before, out, student), network = runs[name], teachers[name].denoiser.network
    after, base = network.state_dict(), {p.data_ptr() for p in network.parameters()}
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    own = {p.data_ptr() for p in added(student.denoiser.network).values()}
    assert {p.data_ptr() for p in student.denoiser.network.parameters()} - own == base  # one copy of the base weights for both
    one, two = weights(out / "stage-one"), weights(out / "steps-0002")
    changed = [key for key in one if not torch.equal(one[key], two[key])]
    assert len(changed) > 0.7 * len(one)  # of the last block what goes on to the text leads nowhere, and Qwen-Image here has one
    assert any(two[key].any() for key in two if is_input(key))


@pytest.mark.parametrize("name", NAMES)
def test_the_merged_folder_says_what_the_adapters_say(runs, name):
    _, out, student = runs[name]
    folder = fewstep.open_model(out / "steps-0002")
    assert not any(".lora_" in key for key in folder.denoiser.network.state_dict())
    ours, same = (samples(model, guidance_scale=SCALE) for model in (student, folder))
    assert (ours - same).abs().max() < 1e-5 * float(ours.abs().max().clamp(min=1))
    network = merged(student.denoiser.network)
    assert set(network.state_dict()) == set(folder.denoiser.network.state_dict())
    assert merged(network) is network


def test_a_stopped_run_resumes_to_the_same_bits(teachers, runs, tmp_path):
    for stop in (2, 6):  # in stage one, in stage two; checkpoints are of every third update
        with pytest.raises(Interrupted):
            trained(teachers["pixels"], tmp_path / str(stop), stop=stop)
        trained(teachers["pixels"], tmp_path / str(stop))
        for stage in ("stage-one", "steps-0002"):
            expected, again = (weights(root / stage) for root in (runs["pixels"][1], tmp_path / str(stop)))
            assert all(torch.equal(value, again[key]) for key, value in expected.items())


def test_optimiser_average_and_checkpoint_hold_what_is_trained_alone(teachers, tmp_path):
    student = student_of(recipe(), teachers["text"])
    network, fresh = student.denoiser.network, added(student.denoiser.network)
    stage = type("Stage", (), {"name": "stage-one", "updates": 1, "learning_rate": 1e-3, "schedule": "constant"})()
    with closing(Trainer(tmp_path, InMemory(student), recipe().train, "cpu", quiet=True)) as trainer:
        state = State(stage, network, trainer.settings, trainer.accelerator)
    assert len(state.ema.average) == len(state.optimizer.param_groups[0]["params"]) == len(fresh)
    checkpoint = state.checkpoint()
    assert set(checkpoint.part("network")) == set(checkpoint.part("ema")) == set(fresh)
    del checkpoint.tensors[f"network/{next(iter(fresh))}"]
    with pytest.raises(RuntimeError, match="Missing key"):
        state.restore(checkpoint)


def stock_network(family, folder):
    """The teacher's own network with the LoRA file in it: by its stock pipeline, or by its class where that is ours."""
    if family.name == "class_conditional":
        network = family.open(family.folder)
        network.load_lora_adapter(folder, prefix=family.component, weight_name=EXPORTED)
        return network
    with quiet():
        pipeline = family.pipeline_class().from_pretrained(family.folder)
    pipeline.load_lora_weights(folder)
    network = getattr(pipeline, family.component)
    return hiding(network) if family.name == "cogview4" else network  # the example's prompts are of different lengths


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed:UserWarning")  # attention without biases cannot be fused then
@pytest.mark.parametrize("name", LOADED)
def test_the_lora_file_in_the_teachers_network_says_what_the_baked_student_says(teachers, runs, tmp_path, name):
    student = fewstep.open_model(runs[name][1] / "steps-0002")
    with torch.no_grad():  # a scale that counts, as after a longer training
        for key, p in student.denoiser.network.named_parameters():
            if key in inputs_of(student.denoiser.network):
                p.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    write_loras(student, tmp_path / "lora", [SCALE])
    network = stock_network(teachers[name].family, tmp_path / "lora")
    one, other = student.bake(SCALE), replace(student.bake(SCALE), denoiser=replace(student.denoiser, network=network))
    size = float(samples(one).abs().max().clamp(min=1))
    assert (samples(one) - samples(other)).abs().max() < 1e-4 * size
    assert (samples(one) - samples(student, guidance_scale=1.0)).abs().max() > 1e-3 * size
    with pytest.raises(InputError, match="outside the range"):
        write_loras(student, tmp_path / "far", [50.0])


@pytest.mark.slow
def test_a_scale_that_goes_into_weights_is_in_no_lora_file(runs, tmp_path):
    student = fewstep.open_model(runs[WEIGHTS_TOO][1] / "steps-0002")
    with pytest.raises(InputError, match="bakes a scale into more than biases"):
        write_loras(student, tmp_path / "lora", [SCALE])


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed:UserWarning")
def test_the_stock_pipeline_of_the_teacher_loads_the_lora_file(teachers, runs, tmp_path):
    import diffusers

    student = fewstep.open_model(runs["text"][1] / "steps-0002")
    write_loras(student, tmp_path, [SCALE])
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(teachers["text"].family.folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(tmp_path)
    pipeline.scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    z = torch.randn(2, *student.info.shape, generator=torch.Generator().manual_seed(7))
    settings = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent"}
    stock = pipeline(prompt_embeds=student.example(2)["text"], latents=z, **settings).images
    assert (stock - samples(student.bake(SCALE))).abs().max() < 1e-4 * float(stock.abs().max().clamp(min=1))


@pytest.mark.parametrize("name", ["text", pytest.param("xl", marks=pytest.mark.slow)])
def test_kohyas_file_for_each_scale_says_what_the_baked_student_says(teachers, runs, tmp_path, name):
    """Read by diffusers but for the biases (`diff_b`), which it does not know of a UNet and ComfyUI adds to them."""
    from fewstep.export.formats import export

    student = fewstep.open_model(runs[name][1] / "steps-0002")
    folder = export(student, tmp_path / "lora", format="lora", layout="kohya", guidance_scale=[1.5, SCALE])
    assert {path.name for path in folder.glob("*.safetensors")} == {"scale-1.5.safetensors", "scale-2.5.safetensors"}
    for scale in (1.5, SCALE):
        lora, family = load_file(folder / f"scale-{scale}.safetensors"), teachers[name].family
        biases = {key.removesuffix(".diff_b"): lora.pop(key) for key in list(lora) if key.endswith(".diff_b")}
        pipeline = family.pipeline_class().from_pretrained(family.folder)
        pipeline.load_lora_weights(lora)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
        modules = {f"lora_unet_{key.replace('.', '_')}": module for key, module in pipeline.unet.named_modules()}
        assert biases and biases.keys() <= modules.keys()
        for key, value in biases.items():
            modules[key].bias.data += value
        one, other = student.bake(scale), replace(student.bake(scale), denoiser=replace(student.denoiser, network=pipeline.unet))
        assert (samples(one) - samples(other)).abs().max() < 1e-4 * float(samples(one).abs().max().clamp(min=1))
    assert "diff_b" in (folder / "README.md").read_text()
    with pytest.raises(InputError, match="UNets alone"):
        export(
            fewstep.open_model(runs["sd3"][1] / "steps-0002"), tmp_path / "none", format="lora", layout="kohya", guidance_scale=2
        )


def test_a_saved_copy_keeps_its_adapters_and_a_baked_one_has_none(runs, tmp_path):
    folder = runs["pixels"][1] / "steps-0002"
    student = fewstep.open_model(folder)
    assert weights(student.save(tmp_path / "copy")).keys() == weights(folder).keys()
    assert not (student.bake(SCALE).save(tmp_path / "baked") / ADAPTERS).exists()
    with safe_open(write_loras(fewstep.open_model(tmp_path / "copy"), tmp_path / "lora", [SCALE])[0], "pt") as file:
        assert '"guidance_scale": 2.5' in file.metadata()["fewstep"]


def test_the_settings_come_from_a_table_or_from_dotted_keys(tmp_path):
    (tmp_path / "lora.toml").write_text('[student]\nlora = {rank = 4, alpha = 2, targets = ["to_q"]}\n')
    for file, changes, expected in (
        (tmp_path / "lora.toml", [], (4, 2.0, ("to_q",))),
        (tmp_path / "lora.toml", ["student.lora.rank=8", "stage_one.updates=1"], (8, 2.0, ("to_q",))),
        (None, ["student.lora.rank=8"], (8, 64.0, None)),
    ):
        loaded = load_recipe(file, dict(map(parse_change, changes)))
        assert tuple(loaded.student.lora.model_dump().values()) == expected
        (tmp_path / "resolved.toml").write_text(to_toml(loaded))
        assert load_recipe(tmp_path / "resolved.toml") == loaded
    assert load_recipe().student.lora is None
    for key, value, message in (("rnk", 8, r"unknown key 'student.lora.rnk'.*rank"), ("rank", 0, "student.lora.rank is 0")):
        with pytest.raises(InputError, match=message):
            load_recipe(None, {f"student.lora.{key}": value})


def test_what_cannot_have_adapters_is_refused_in_one_line(teachers, runs, tmp_path):
    with pytest.raises(InputError, match=r"'to_w'.*did you mean 'to_"):
        student_of(recipe(student__lora__targets=["to_w"]), teachers["text"])
    student = next_student(student_of(recipe(student__lora__targets=["to_q"]), teachers["text"]), 2)
    assert all(".to_q.lora_" in key or is_input(key) for key in added(student.denoiser.network))
    flat = torch.nn.Linear(2, 2)
    own = replace(teachers["pixels"], denoiser=Denoiser(flat, null=3), family=family_of("own", flat))
    with pytest.raises(InputError, match="not known for the family own"):
        student_of(recipe(), own)
    with pytest.raises(InputError, match="diffusers loads no LoRA into PixArt"):
        write_loras(fewstep.open_model(runs["pixart"][1] / "steps-0002"), tmp_path, [SCALE])
    with pytest.raises(InputError, match="no adapters"):
        write_loras(teachers["text"], tmp_path, [SCALE])


def test_export_writes_the_lora_file_by_its_format(runs, tmp_path, capsys):
    from fewstep.export.formats import export

    folder = runs["text"][1] / "steps-0002"
    command(capsys, "export", folder, tmp_path / "lora", "--format", "lora", "--guidance-scale", SCALE, "--device", "cpu")
    assert {path.name for path in (tmp_path / "lora").iterdir()} == {EXPORTED, "scheduler", "README.md"}
    card = (tmp_path / "lora" / "README.md").read_text()
    assert f"{SCALE:g}, baked into the weights" in card and "an input of the network" not in card
    with pytest.raises(InputError, match="--guidance-scale"):
        export(fewstep.open_model(folder), tmp_path / "none", format="lora")
    with safe_open(folder / ADAPTERS, "pt") as file:  # the teacher's name, and no path of this machine
        assert json.loads(file.metadata()["fewstep"]) == {"rank": 3, "alpha": 6.0, "base": "text"}


def test_half_precision_and_checkpointed_gradients_train_adapters_too(teachers, tmp_path):
    settings, data = recipe(train__precision="bf16", train__gradient_checkpointing=True), InMemory(teachers["text"])
    student = fewstep.distill(teachers["text"], data, out=tmp_path / "run", recipe=settings, device="cpu", quiet=True)
    assert all(value.isfinite().all() and value.any() for value in weights(tmp_path / "run" / "steps-0002").values())
    assert student.family.folder == tmp_path / "run" / "steps-0002" and student.bake(SCALE).info.baked  # a model to use
