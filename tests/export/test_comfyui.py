"""Files for ComfyUI: read back by diffusers they hold the student's own weights, and the workflow's settings draw its samples."""

import json
from types import FunctionType

import pytest
import torch
from safetensors.torch import load_file

import fewstep
import flow_pipelines
import pipelines
import transformer_pipelines
import unet_pipelines
from alone import untrained
from command_line import refused
from fewstep import InputError
from fewstep.export.formats import export
from tiny import tiny_student

SCALE = 2.5
BUILD = {
    "sd": lambda folder: pipelines.text_pipeline(folder, "v_prediction", encoder=clip("quick_gelu")),
    "sd2": lambda folder: pipelines.text_pipeline(folder, encoder=clip("gelu")),
    "sd-inpainting": lambda folder: pipelines.text_pipeline(
        folder, network=pipelines.unet(in_channels=9), pipeline="StableDiffusionInpaintPipeline"
    ),
    "xl": unet_pipelines.xl_pipeline,
    "sd3": transformer_pipelines.sd3_pipeline,
    "flux": flow_pipelines.flux_pipeline,
}
PARTS = {"sd": ("vae", "text_encoder"), "sd2": ("vae", "text_encoder"), "sd-inpainting": ("vae", "text_encoder"),
         "xl": ("vae", "text_encoder", "text_encoder_2"), "sd3": (), "flux": ()}  # fmt: skip


def clip(act):
    encoder = pipelines.text_encoder()
    encoder.config.hidden_act = act
    return encoder


@pytest.fixture(scope="module", params=BUILD)
def exported(request, tmp_path_factory):
    """(name, student, its plain folder at SCALE, the folder with the file for ComfyUI)."""
    root = tmp_path_factory.mktemp("comfyui")
    _, student = untrained(BUILD[request.param](root / "teacher"))
    plain = student.bake(SCALE).save(root / "plain")
    scale = {} if request.param == "flux" else {"guidance_scale": SCALE}
    return request.param, student, plain, export(student, root / "tool", format="comfyui", **scale)


def of_width(width):
    """diffusers' converter of Flux, which knows the published width alone, for another."""
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers as converter

    code = converter.__code__
    constants = tuple(width if value == 3072 else value for value in code.co_consts)
    assert constants != code.co_consts
    return FunctionType(code.replace(co_consts=constants), converter.__globals__)


def test_diffusers_reads_the_students_weights_back_from_the_file(exported):
    """The network by its single-file loader, which knows the names of these tools; the other parts by the converters for them."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm

    name, student, plain, folder = exported
    file, family = folder / "tool.safetensors", fewstep.open_model(plain).family
    own = student.family.stock_network(student.denoiser.network) if name == "flux" else family.open(plain)
    if name == "flux":
        read = of_width(own.inner_dim)(load_file(file))
    else:
        place = {"config": str(plain), "subfolder": family.component, "local_files_only": True}
        read = type(own).from_single_file(str(file), **place).state_dict()
    assert read.keys() == own.state_dict().keys()
    for key, value in own.state_dict().items():
        torch.testing.assert_close(read[key], value, atol=0, rtol=0, msg=key)
    parts = family.parts(*PARTS[name]) if PARTS[name] else None
    for part in PARTS[name]:
        if part == "vae":
            made = AutoencoderKL.from_single_file(str(file), config=str(plain), subfolder="vae", local_files_only=True)
        else:
            weights, kind = load_file(file), type(getattr(parts, part))
            made = create_diffusers_clip_model_from_ldm(kind, weights, subfolder=part, config=str(plain), local_files_only=True)
        for key, value in getattr(parts, part).state_dict().items():
            torch.testing.assert_close(made.state_dict()[key], value, atol=0, rtol=0, msg=key)


def simple_sigmas(table, steps):
    """ComfyUI's schedule `simple`: entries of the model's table of sigmas, from the last one down in equal strides, then 0."""
    return [float(table[-(1 + int(i * len(table) / steps))]) for i in range(steps)] + [0.0]


def test_the_workflows_settings_draw_the_students_samples(exported):
    """Euler in sigmas on the schedule that the workflow names, as ComfyUI has them, with the plain network: the student's own samples."""
    name, student, plain, folder = exported
    nodes = {made["class_type"]: made["inputs"] for made in json.loads((folder / "workflow.json").read_text()).values()}
    drawing, model = nodes["KSampler"], fewstep.open_model(plain)
    assert (drawing["cfg"], drawing["sampler_name"], drawing["scheduler"], drawing["steps"]) == (1.0, "euler", "simple", 2)
    noise = torch.randn(2, *student.info.shape, generator=torch.Generator().manual_seed(1))
    condition = student.family.example(student.denoiser.network, student.info, 2)
    expected = student.sample_tensor(condition, noise=noise, guidance_scale=SCALE).samples
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    if "ModelSamplingDiscrete" in nodes:
        roots = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
        signal = torch.cumprod(1 - roots**2, 0)
        table, z = ((1 - signal) / signal).sqrt(), noise.double() * (1 / signal[-1]).sqrt()
    else:
        shift = (
            nodes["ModelSamplingSD3"]["shift"]
            if name == "sd3"
            else torch.tensor(nodes["ModelSamplingFlux"]["max_shift"]).exp().item()
        )
        table, z = shift * t / (1 + (shift - 1) * t), noise.double()
    grid = simple_sigmas(table, 2)
    for now, then in zip(grid, grid[1:], strict=False):
        position = int((table - now).abs().argmin())
        if "ModelSamplingDiscrete" in nodes:
            scaled, time = z / (now**2 + 1) ** 0.5, float(position)
        else:
            scaled, time = z, 1000 * now
        output = model.family.call(model.denoiser.network, scaled.float(), torch.full((2,), time), condition, None).double()
        kind = nodes["ModelSamplingDiscrete"]["sampling"] if "ModelSamplingDiscrete" in nodes else "flow"
        x = {
            "eps": z - now * output,
            "v_prediction": z / (now**2 + 1) - now / (now**2 + 1) ** 0.5 * output,
            "flow": z - now * output,
        }[kind]
        z = x + then / now * (z - x)
    torch.testing.assert_close(z.float(), expected, atol=1e-4, rtol=1e-4)


def test_every_node_is_linked_to_a_node_that_is_there(exported):
    name, _, _, folder = exported
    nodes = json.loads((folder / "workflow.json").read_text())
    loader = next(made for made in nodes.values() if made["class_type"] in ("CheckpointLoaderSimple", "UNETLoader"))
    assert (folder / next(value for value in loader["inputs"].values())).is_file()
    links = [value for made in nodes.values() for value in made["inputs"].values() if isinstance(value, list)]
    assert links and all(link[0] in nodes for link in links)
    assert any(made["class_type"] == "FluxGuidance" for made in nodes.values()) == (name == "flux")
    assert "workflow.json" in (folder / "README.md").read_text()


def test_the_file_in_half_precision_has_the_same_weights_rounded(exported, tmp_path):
    name, student, _, folder = exported
    scale = {} if name == "flux" else {"guidance_scale": SCALE}
    half = load_file(export(student, tmp_path / "half", format="comfyui", dtype="float16", **scale) / "half.safetensors")
    whole = load_file(folder / "tool.safetensors")
    assert half.keys() == whole.keys()
    assert all(torch.equal(half[key], value.half() if value.is_floating_point() else value) for key, value in whole.items())


def test_what_has_no_layout_there_is_refused(exported, tmp_path, capsys):
    name, student, _, _ = exported
    if name != "flux":
        with pytest.raises(InputError, match="--guidance-scale"):
            export(student, tmp_path / "knob", format="comfyui")
    with pytest.raises(InputError, match="2 guidance scales"):
        export(student, tmp_path / "two", format="comfyui", guidance_scale=[2, 3])
    digits = tiny_student(2).save(tmp_path / "digits")
    assert "class_conditional" in refused(capsys, "export", digits, tmp_path / "out", "--format", "comfyui", "--guidance-scale", 2)
    assert "layout" in refused(capsys, "export", digits, tmp_path / "out", "--layout", "kohya")
    assert not (tmp_path / "out").exists()
