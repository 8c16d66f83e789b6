"""Lines of Python that draw from a model folder: with diffusers alone where that is possible, and with fewstep."""

import json
from pathlib import Path

from fewstep.compat import optional_components
from fewstep.export.lora_file import EXPORTED
from fewstep.models.families import Family
from fewstep.models.families.diffusers_family import STUDENT
from fewstep.models.families.pipeline_folder import absent, config_of, has_part, index_of
from fewstep.models.families.vae import latent_scaling
from fewstep.models.metadata import Info

ANY = 64  # steps in the lines of a model that takes any number of them
USUAL = 3.0  # guidance scale in the lines, as far as the model's range allows
PROMPT = "a photo of an owl"
MASKED = 'from diffusers.utils import load_image\n\nimage, mask = load_image("picture.png"), load_image("mask.png")  # white is filled in'
PICTURED = 'from diffusers.utils import load_image\n\nimage = load_image("small.png")'
TWO = {"image": "image", "mask_image": "mask", "strength": "1.0"}
PIPELINES = {  # class -> (lines before, arguments other than prompt, steps and scale, what is drawn)
    "StableDiffusionInpaintPipeline": (MASKED, TWO, "images"),
    "StableDiffusionXLInpaintPipeline": (MASKED, TWO, "images"),
    "IFSuperResolutionPipeline": (PICTURED, {"image": "image", "noise_level": "250"}, "images"),
    "PixArtAlphaPipeline": ("", {"use_resolution_binning": "False"}, "images"),
    "PixArtSigmaPipeline": ("", {"use_resolution_binning": "False"}, "images"),
    "WanPipeline": ("", {}, "frames"),
}
SIZED = (
    "KandinskyV22Pipeline",
    "KandinskyV22CombinedPipeline",
    "FluxPipeline",
    "QwenImagePipeline",
    "WanPipeline",
)  # their default size is fixed
SHIFTED = ("stable_diffusion_3", "wan")  # whose students of any number of steps have a grid that stock pipelines do not make


def why_not(info: Info, folder: Path) -> str | None:
    """Why no stock pipeline draws from the folder as it is; None where one does."""
    if info.kind != "student":
        return {"teacher": "a teacher is drawn from by any sampler of its pipeline", "encoder": "it carries images to noise"}[
            info.kind
        ]
    if not (folder / "model_index.json").is_file():
        return "its network is one of your own, whose code diffusers does not have"
    import diffusers

    kind = index_of(folder)["_class_name"]
    if info.family != "class_conditional" and not hasattr(diffusers, kind):
        return f"its pipeline, {kind}, is no part of diffusers"
    if (folder / STUDENT).is_dir():
        return "its stock pipeline has no input for the guidance scale; with a scale baked in it runs there"
    if info.sampler == "stochastic":
        return "it was trained for the stochastic sampler, which is no setting of a stock scheduler"
    known = info.process.get("train_timesteps", 1000)
    if info.family in SHIFTED and info.steps is None:
        return "stock pipelines make another grid of times for a model of any number of steps"
    if "shift" not in info.process and info.steps and known % info.steps:
        return f"{info.steps} does not divide {known}, for which the stock DDIM scheduler makes another grid of times"
    return None


def scale_for(info: Info) -> float:
    """A guidance scale for the lines: the usual one, or the nearest in the model's range; 1 where it is baked in."""
    if info.baked:
        return 1.0
    low, high = info.guidance_scale or (USUAL, USUAL)
    return min(max(USUAL, low), high)


def diffusers_code(info: Info, folder: Path, name: str) -> str:
    """Lines that draw from the folder, called `name`, without fewstep; only where `why_not` is None."""
    if info.family == "class_conditional":
        return network_code(info, folder, name)
    kind = index_of(folder)["_class_name"]
    before, more, drawn = PIPELINES.get(kind, ("", {}, "images"))
    given = {"num_inference_steps": str(info.steps or ANY), **more, **sizes_of(info, folder, kind)}
    given |= {"true_cfg_scale" if kind == "QwenImagePipeline" else "guidance_scale": str(scale_for(info))}
    first = "class_labels=[0]" if info.condition == "class" else repr(PROMPT).replace("'", '"')
    if kind == "KandinskyV22Pipeline":
        before = f"import torch\n\nembeddings = torch.randn(1, {config_of(folder, 'unet')['encoder_hid_dim']})  # of a picture, from a prior"
        first = "image_embeds=embeddings, negative_image_embeds=embeddings"
    arguments = ", ".join([first, *(f"{key}={value}" for key, value in given.items())])
    opened = ", ".join([f'"{name}"', *(f"{part}=None" for part in required_but_absent(folder, kind))])
    lines = [f"from diffusers import {kind}", *([before] if before else []), f"\npipeline = {kind}.from_pretrained({opened})"]
    return "\n".join([*lines, f"image = pipeline({arguments}).{drawn}[0]"])


def sizes_of(info: Info, folder: Path, kind: str) -> dict[str, str]:
    """Height and width in pixels, and the frames of a video, where the pipeline does not read them from its parts."""
    if kind not in SIZED or info.image_size is None:
        return {}
    shape, pixels = info.shape, info.image_size // info.size
    sizes = {"height": str(shape[-2] * pixels), "width": str(shape[-1] * pixels)}
    if kind == "WanPipeline":
        sizes["num_frames"] = str((shape[1] - 1) * int(config_of(folder, "vae").get("scale_factor_temporal", 4)) + 1)
    return sizes


def required_but_absent(folder: Path, kind: str) -> list[str]:
    """The components that the folder is without and that the pipeline class wants to be told of."""
    import diffusers

    return [name for name in absent(folder) if name not in optional_components(getattr(diffusers, kind))]


def network_code(info: Info, folder: Path, name: str) -> str:
    """The loop over stock network and scheduler of a class-conditional folder, which no stock pipeline has."""
    vae = config_of(folder, "vae") if (folder / "vae").is_dir() else None
    shift, scale = latent_scaling(vae) if vae else (0.0, 1.0)
    parts = ["DDIMScheduler", *([] if info.baked else ["StableDiffusionPipeline"]), "UNet2DConditionModel"]
    embed = "StableDiffusionPipeline.get_guidance_scale_embedding(None, torch.full((2,), guidance_scale - 1), 256)"
    lines = [
        "import torch", f"from diffusers import {', '.join([*([vae['_class_name']] if vae else []), *parts])}", "",
        f'network = UNet2DConditionModel.from_pretrained("{name}", subfolder="unet")',
        f'scheduler = DDIMScheduler.from_pretrained("{name}", subfolder="scheduler")',
        *([f'vae = {vae["_class_name"]}.from_pretrained("{name}", subfolder="vae")'] if vae else []),
        f"scheduler.set_timesteps({info.steps or ANY})",
        "labels = torch.tensor([0, 1])" if info.baked else f"labels, guidance_scale = torch.tensor([0, 1]), {scale_for(info)}",
        "w = None  # the scale is baked in" if info.baked else f"w = {embed}",
        f"z = torch.randn(2, {', '.join(map(str, info.shape))})", "with torch.no_grad():", "    for t in scheduler.timesteps:",
        "        output = network(z, t, None, class_labels=labels, timestep_cond=w).sample",
        "        z = scheduler.step(output, t, z).prev_sample",
        *([f"    z = vae.decode(z / {scale} + {shift}).sample"] if vae else []),
        "images = (z / 2 + 0.5).clamp(0, 1)",
    ]  # fmt: skip
    return "\n".join(lines)


def fewstep_code(info: Info, family: Family, name: str) -> str:
    """Lines that draw from the folder, called `name`, with fewstep; of an encoder, that carry a picture to noise and back."""
    network = ", network=network" if info.family == "own" else ""
    fetched, here = local(name)
    opened = f"{fetched}import fewstep\n\nmodel = fewstep.open_model({here}{network})"
    if info.kind == "encoder":
        back = 'student = fewstep.open_model("student")  # of the same run'
        return f'{opened}\n{back}\nimage = student.translate(["picture.png"], [0], [1], encoder=model)[0]'
    given = [] if info.baked else [f"guidance_scale={scale_for(info)}"]
    steps = [] if info.steps else [f"steps={ANY}"]
    if info.family == "kandinsky" and not has_part(family.folder, "prior_prior"):
        features = family.network_config()["encoder_hid_dim"]
        embeddings = f'import torch\n\ncondition = {{"image": torch.randn(1, {features})}}  # of a picture, from a prior'
        return f"{embeddings}\n{opened}\nimage = model.sample_tensor({', '.join(['condition', *steps, *given])}).images()[0]"
    before, wanted = "", "class_labels=[0]" if info.condition == "class" else f'prompts="{PROMPT}"'
    if family.takes_mask and info.condition == "class":
        chosen = ", ".join(['"picture.png"', '"mask.png"', "[0]", *steps, *given, "seed=0"])
        return f"{opened}\nimage = model.inpaint({chosen})[0]  # white is filled in"
    if family.takes_mask:
        before, wanted = f"{MASKED}\n", f"{wanted}, image=image, mask=mask"
    elif family.name == "deepfloyd_if_super_resolution":
        before, wanted = f"{PICTURED}\n", f"{wanted}, image=image"
    return f"{before}{opened}\nimage = model.sample({', '.join([wanted, *steps, *given, 'seed=0'])})[0]"


def local(name: str) -> tuple[str, str]:
    """(lines before, expression) for the folder of this name, or for a repository of the hub, "owner/name", downloaded."""
    if "/" not in name:
        return "", f'"{name}"'
    return "from huggingface_hub import snapshot_download\n\n", f'snapshot_download("{name}")'


def onnx_code(info: Info, name: str) -> str:
    """Lines that draw two samples with ONNX Runtime and numpy alone, from the noise on; text embeddings come from elsewhere."""
    to_x = {
        "v": 'now["alpha"] * z - now["sigma"] * output', "eps": '(z - now["sigma"] * output) / max(now["alpha"], 4.5e-5)', "x": "output",
        "flow": 'z - now["sigma"] * output',
    }[info.prediction]  # fmt: skip
    scale = [f'inputs["w"] = numpy.full(n, {scale_for(info)} - 1, "float32")  # the guidance scale less 1'] if info.takes_w else []
    fetched, here = local(name)
    lines = [
        *fetched.splitlines(),
        "import json",
        "from pathlib import Path", "", "import numpy", "import onnxruntime", "",
        f"folder = {here}", 'facts = json.loads(Path(folder, "onnx.json").read_text())', 'session = onnxruntime.InferenceSession(f"{folder}/network.onnx")',
        'n = 2 if facts["inputs"]["z"]["shape"][0] == "batch" else 1',
        'inputs = {key: numpy.zeros([n, *value["shape"][1:]], value["dtype"]) for key, value in facts["inputs"].items()}',
        *(['inputs["labels"] = numpy.arange(n)'] if info.condition == "class" else ["# fill in the condition: what the text encoder gives"]),
        *scale, 'z = numpy.random.randn(*inputs["z"].shape).astype("float32")',
        *steps_by(info.sampler, to_x),
    ]  # fmt: skip
    return "\n".join(lines)


def steps_by(sampler: str, to_x: str) -> list[str]:
    """The loop over the grid of `onnx_code`, whose last x is the sample; `to_x` is the clean estimate of an output."""
    step = 'z = low["alpha"] * x + low["sigma"] / now["sigma"] * (z - now["alpha"] * x)'
    stochastic, pairs = sampler == "stochastic", 'zip(facts["grid"], facts["grid"][1:])'
    noised = [
        "    if low is None:  # the last step", "        break", f"    {step}  # twice as far, then noise back up", '    rise = up["alpha"] / low["alpha"]',
        '    z = rise * z + (up["sigma"] ** 2 - (rise * low["sigma"]) ** 2) ** 0.5 * numpy.random.randn(*z.shape).astype("float32")',
    ]  # fmt: skip
    return [
        'for now, up, low in zip(facts["grid"], facts["grid"][1:], [*facts["grid"][2:], None]):' if stochastic else f"for now, low in {pairs}:",
        '    inputs |= {"z": z, "timestep": numpy.full(n, now["timestep"], "float32")}', "    output = session.run(None, inputs)[0]", f"    x = {to_x}",
        *(noised if stochastic else [f"    {step}"]),
    ]  # fmt: skip


def lora_code(info: Info, family: Family, folder: Path, name: str) -> str:
    """Lines that draw with the teacher's stock pipeline and a LoRA file that `lora.write_lora` wrote."""
    from safetensors import safe_open

    with safe_open(folder / EXPORTED, framework="pt") as opened:
        known = json.loads(opened.metadata()["fewstep"])
    kind = family.pipeline_class().__name__
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))["_class_name"]
    first = "class_labels=[0]" if info.condition == "class" else f'"{PROMPT}"'
    return "\n".join([
        f"from diffusers import {scheduler}, {kind}", "", f'pipeline = {kind}.from_pretrained("{known["base"] or "TEACHER"}")',
        f'pipeline.load_lora_weights("{name}")', f'pipeline.scheduler = {scheduler}.from_pretrained("{name}", subfolder="scheduler")',
        f"image = pipeline({first}, num_inference_steps={info.steps or ANY}, guidance_scale=1.0).images[0]  # the scale is {known['guidance_scale']:g}",
    ])  # fmt: skip
