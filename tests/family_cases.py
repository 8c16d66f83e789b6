"""Each family of docs/families.md: a tiny teacher with random weights, and which stock pipelines run its students' folders, how.

Read by tests/models/test_family_contract.py and by benchmarks/families/stock_samples.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import flow_pipelines
import pipelines
import sound_pipelines
import text_pipelines
import transformer_pipelines
import unet_pipelines
from alone import halfway
from fewstep.method.conditioning import take
from fewstep.models.families.flow_latents import pack, unpack
from fewstep.models.families.flux2_klein import normalized

SCALE, STEPS, LIMIT, SEED = 2.5, 2, 1e-4, 7
PROMPT = ["a cat"]
SIZE, LARGER = {"height": 16, "width": 16}, {"height": 32, "width": 32}
SMALL = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(4)) * 2 - 1


@dataclass(frozen=True)
class Check:
    """One stock pipeline on one folder of a student: our samples, and what the process without fewstep is to do."""

    pipeline: str | None
    kind: str  # "conditioned" or "baked"
    ours: Tensor
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]
    seed: int | None = None
    back: Callable[[Tensor], Tensor] = lambda samples: samples  # of the pipeline's samples to the shape of ours

    def job(self, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What `samples_alone` takes."""
        seed = {} if self.seed is None else {"seed": self.seed}
        return {"folder": folder, "pipeline": self.pipeline, "arguments": self.arguments} | seed, self.tensors


@dataclass(frozen=True)
class Case:
    """A family: its tiny teacher, and the checks of a student's two folders."""

    build: Callable[[Path], Path]
    checks: Callable[["Case", dict[str, Any]], Iterator[Check]]
    pipeline: str | None = None
    kinds: tuple[str, ...] = ("conditioned", "baked")
    arguments: dict[str, Any] = field(default_factory=dict)
    more: tuple[str, ...] = ()  # pipelines that begin with a picture
    slow: bool = False  # whether all but the stock samples of an untrained student is left to the slow tests
    packed: bool = False  # whether the stock pipeline takes tokens and gives them back
    front: Callable[[Tensor], Tensor] = lambda noise: noise  # of our noise to the pipeline's
    back: Callable[[Any, Tensor], Tensor] = lambda model, samples: samples  # of (our model, the pipeline's samples) to ours
    unguided: float = 1.0  # the guidance_scale of one evaluation a step


def noise_of(model: Any, n: int = 1) -> Tensor:
    return torch.randn(n, *model.info.shape, generator=torch.Generator().manual_seed(SEED))


def drawn(model: Any, condition: Any, noise: Tensor) -> Tensor:
    return model.sample_tensor(condition, guidance_scale=SCALE, noise=noise).samples


def guided(case: Case, kind: str) -> dict[str, Any]:
    """The arguments that every text-to-image pipeline takes."""
    scale = {} if case.pipeline == "QwenImagePipeline" else {"guidance_scale": SCALE if kind == "conditioned" else case.unguided}
    return {"prompt": PROMPT, "num_inference_steps": STEPS} | scale | case.arguments


def of_labels(case: Case, models: dict[str, Any]) -> Iterator[Check]:
    """The stock network and scheduler in the loop that every pipeline has."""
    for kind in case.kinds:
        noise, labels = noise_of(models[kind], 2), torch.tensor([1, 2])
        arguments = {"scale": SCALE if kind == "conditioned" else 1.0, "steps": STEPS, "labels": labels.tolist()}
        yield Check(None, kind, drawn(models[kind], labels, noise), arguments, {"noise": noise})


def of_dit(case: Case, models: dict[str, Any]) -> Iterator[Check]:
    """Pictures, since the stock pipeline gives no latents."""
    model, labels = models["baked"], torch.tensor([1, 3])
    ours = (model.decode(drawn(model, labels, noise_of(model, 2))) / 2 + 0.5).clamp(0, 1)
    arguments = {"class_labels": labels.tolist(), "num_inference_steps": STEPS, "guidance_scale": 1.0, "output_type": "pt"}
    yield Check(case.pipeline, "baked", ours, arguments, {}, SEED)


def of_text(case: Case, models: dict[str, Any]) -> Iterator[Check]:
    """Text to image or video, and the pipelines that begin with latents of a picture, at strength 0.5."""
    condition, noise = models["baked"].condition(prompts=PROMPT), noise_of(models["baked"])
    for kind in case.kinds:
        ours, tensors = drawn(models[kind], condition, noise), {"noise": pack(noise) if case.packed else case.front(noise)}
        back = (lambda stock: unpack(stock, noise)) if case.packed else partial(case.back, models["baked"])
        yield Check(case.pipeline, kind, ours, guided(case, kind), tensors, back=back)
    for pipeline in case.more:
        kept, mask = torch.randn(noise.shape, generator=torch.Generator().manual_seed(2)), torch.ones(1, 1, 16, 16)
        tensors = {"image": kept}
        if "Inpaint" in pipeline:  # all is painted: every latent counts; the masked ones are asked for, and not used
            tensors |= {"mask_image": mask, "masked_image_latents": torch.zeros_like(kept)}
        ours = halfway(models["conditioned"], kept, condition, SEED, torch.tensor([SCALE - 1]))
        yield Check(pipeline, "conditioned", ours, guided(case, "conditioned") | {"strength": 0.5}, tensors, SEED)


def of_holes(case: Case, models: dict[str, Any]) -> Iterator[Check]:
    """Networks of nine channels: the left half is painted."""
    model = models["baked"]
    condition = take(model.example(1), slice(1)) | model.family.null(model.info, PROMPT[0])()
    if "sizes" in condition:
        condition |= {"sizes": torch.tensor([[16.0, 16, 0, 0, 16, 16]])}
    mask = condition["mask"].repeat_interleave(2, 2).repeat_interleave(2, 3)
    tensors = {"mask_image": mask, "image": torch.zeros(1, 3, 16, 16), "masked_image_latents": condition["masked"]}
    for kind in case.kinds:
        noise = noise_of(model)
        arguments = guided(case, kind) | {"strength": 1.0}
        yield Check(case.pipeline, kind, drawn(models[kind], condition, noise), arguments, tensors | {"noise": noise})


def of_deepfloyd(case: Case, models: dict[str, Any]) -> Iterator[Check]:
    """The stock pipelines draw their noise from a seed, first that of the sample, then that of the small picture."""
    model, generator = models["baked"], torch.Generator().manual_seed(SEED)
    noise = torch.randn(1, 3, 8, 8, generator=generator)
    level, tensors, extra = {}, {}, {}
    if "Super" in (case.pipeline or ""):
        level, tensors = {"noise_level": 300}, {"image": SMALL}
        extra = {"image": SMALL, **level, "noise": torch.randn(1, 3, 8, 8, generator=generator)}
    ours = drawn(model, model.condition(prompts=PROMPT, **extra), noise)
    yield Check(case.pipeline, "baked", ours, guided(case, "baked") | level | {"output_type": "pt"}, tensors, SEED)


def of_kandinsky(case: Case, models: dict[str, Any]) -> Iterator[Check]:
    """The decoder, of one embedding of a picture."""
    model = models["baked"]
    condition, noise = model.condition(prompts=PROMPT, prior_num_inference_steps=3), noise_of(model)
    tensors = {"noise": noise, "image_embeds": condition["image"], "negative_image_embeds": condition["image"].clone()}
    arguments = {"num_inference_steps": STEPS, "guidance_scale": 1.0} | SIZE
    yield Check(case.pipeline, "baked", drawn(model, condition, noise), arguments, tensors)


def nine(build: Callable[..., Path], pipeline: str, **settings: Any) -> Callable[[Path], Path]:
    return lambda folder: build(folder, pipeline=pipeline, **settings)


def patches(model: Any, samples: Tensor) -> Tensor:
    """FLUX.2's latents in patches, as its network takes them."""
    return normalized(model.family.parts("vae").vae, samples)


def as_tokens(noise: Tensor) -> Tensor:
    """LTX's tokens."""
    return noise.flatten(2).transpose(1, 2)


def as_video(model: Any, samples: Tensor) -> Tensor:
    """LTX's latents of tokens."""
    return samples.transpose(1, 2).reshape(1, *model.info.shape)


def frames_first(video: Tensor) -> Tensor:
    """CogVideoX's latents of ours, and back."""
    return video.transpose(1, 2)


BAKED = ("baked",)
SD, XL = "StableDiffusion", "StableDiffusionXL"
CASES = {
    "class-conditional, pixels": Case(lambda folder: pipelines.class_pipeline(folder, latent=False), of_labels),
    "class-conditional, latents": Case(lambda folder: pipelines.class_pipeline(folder, latent=True), of_labels),
    "Stable Diffusion, eps": Case(
        pipelines.text_pipeline, of_text, f"{SD}Pipeline", more=(f"{SD}Img2ImgPipeline", f"{SD}InpaintPipeline")
    ),
    "Stable Diffusion, v": Case(lambda folder: pipelines.text_pipeline(folder, "v_prediction"), of_text, f"{SD}Pipeline"),
    "Stable Diffusion inpainting": Case(
        lambda folder: pipelines.text_pipeline(folder, network=pipelines.unet(in_channels=9), pipeline=f"{SD}InpaintPipeline"),
        of_holes, f"{SD}InpaintPipeline",
    ),
    "SDXL": Case(unet_pipelines.xl_pipeline, of_text, f"{XL}Pipeline", more=(f"{XL}Img2ImgPipeline", f"{XL}InpaintPipeline")),
    "SDXL inpainting": Case(
        nine(unet_pipelines.xl_pipeline, f"{XL}InpaintPipeline", in_channels=9), of_holes, f"{XL}InpaintPipeline"
    ),
    "Kolors": Case(unet_pipelines.kolors_pipeline, of_text, "KolorsPipeline", more=("KolorsImg2ImgPipeline",), slow=True),
    "DeepFloyd IF": Case(unet_pipelines.if_pipeline, of_deepfloyd, "IFPipeline", BAKED),
    "DeepFloyd IF, super-resolution": Case(
        lambda folder: unet_pipelines.if_pipeline(folder, larger=True), of_deepfloyd, "IFSuperResolutionPipeline", BAKED
    ),
    "Kandinsky 2.2 decoder": Case(unet_pipelines.kandinsky_pipeline, of_kandinsky, "KandinskyV22Pipeline", BAKED),
    "DiT": Case(transformer_pipelines.dit_pipeline, of_dit, "DiTPipeline", BAKED),
    "PixArt": Case(
        transformer_pipelines.pixart_pipeline, of_text, "PixArtSigmaPipeline", BAKED, {"use_resolution_binning": False}
    ),
    "Stable Diffusion 3": Case(transformer_pipelines.sd3_pipeline, of_text, "StableDiffusion3Pipeline", BAKED),
    "Flux": Case(flow_pipelines.flux_pipeline, of_text, "FluxPipeline", arguments=SIZE, packed=True),
    "Qwen-Image": Case(flow_pipelines.qwen_pipeline, of_text, "QwenImagePipeline", BAKED, SIZE, packed=True),
    "Wan": Case(flow_pipelines.wan_pipeline, of_text, "WanPipeline", BAKED),
    "Wan 2.2 A14B": Case(lambda folder: flow_pipelines.wan_pipeline(folder, two=True), of_text, "WanPipeline", BAKED, slow=True),
    "Chroma": Case(text_pipelines.chroma_pipeline, of_text, "ChromaPipeline", BAKED, SIZE, slow=True, packed=True),
    "Z-Image": Case(text_pipelines.z_image_pipeline, of_text, "ZImagePipeline", BAKED, SIZE, slow=True, unguided=0.0),
    "Sana": Case(
        text_pipelines.sana_pipeline, of_text, "SanaPipeline", BAKED, {"use_resolution_binning": False} | LARGER, slow=True
    ),
    "Lumina 2": Case(text_pipelines.lumina2_pipeline, of_text, "Lumina2Pipeline", BAKED, slow=True),
    "AuraFlow": Case(text_pipelines.aura_flow_pipeline, of_text, "AuraFlowPipeline", BAKED, SIZE, slow=True),
    "LongCat-Image": Case(
        text_pipelines.longcat_pipeline, of_text, "LongCatImagePipeline", BAKED, SIZE | {"enable_prompt_rewrite": False}, slow=True, packed=True
    ),
    "FLUX.2 klein": Case(text_pipelines.flux2_pipeline, of_text, "Flux2KleinPipeline", BAKED, LARGER, slow=True, back=patches),
    "Krea 2": Case(text_pipelines.krea2_pipeline, of_text, "Krea2Pipeline", BAKED, SIZE, slow=True, packed=True, unguided=0.0),
    "HunyuanDiT": Case(
        text_pipelines.hunyuan_dit_pipeline, of_text, "HunyuanDiTPipeline", BAKED, {"use_resolution_binning": False}, slow=True
    ),
    "PRX": Case(text_pipelines.prx_pipeline, of_text, "PRXPipeline", BAKED, SIZE | {"use_resolution_binning": False}, slow=True),
    "CogView4": Case(
        text_pipelines.cogview4_pipeline, of_text, "CogView4Pipeline", BAKED, {"timesteps": [1000, 500], "max_sequence_length": 512}, slow=True
    ),
    "HunyuanVideo": Case(text_pipelines.hunyuan_video_pipeline, of_text, "HunyuanVideoPipeline", BAKED, slow=True, unguided=6.0),
    "LTX": Case(
        text_pipelines.ltx_pipeline, of_text, "LTXPipeline", BAKED, {"num_frames": 5, "height": 32, "width": 64}, slow=True, front=as_tokens,
        back=as_video,
    ),
    "CogVideoX": Case(
        text_pipelines.cogvideox_pipeline, of_text, "CogVideoXPipeline", BAKED, slow=True, front=frames_first,
        back=lambda model, samples: frames_first(samples),
    ),
    "CogVideoX 2B": Case(
        lambda folder: text_pipelines.cogvideox_pipeline(folder, rotary=False), of_text, "CogVideoXPipeline", BAKED, slow=True,
        front=frames_first, back=lambda model, samples: frames_first(samples),
    ),
    "Stable Audio": Case(sound_pipelines.stable_audio_pipeline, of_text, "StableAudioPipeline", BAKED, slow=True),
    "Stable Diffusion 3.5": Case(
        lambda folder: transformer_pipelines.sd3_pipeline(folder, network_settings={"dual_attention_layers": (0,), "qk_norm": "rms_norm"}),
        of_text, "StableDiffusion3Pipeline", BAKED, slow=True,
    ),
}  # fmt: skip
SLOW = {name: case.build for name, case in CASES.items() if case.slow}
