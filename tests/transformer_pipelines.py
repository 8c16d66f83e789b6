"""Tiny pipelines of DiT, PixArt and Stable Diffusion 3 with random weights, as `pipelines.py` has Stable Diffusion."""

import json

import torch

import pipelines
from unet_pipelines import clip_text

PIECES = ["<pad>", "</s>", "<unk>", "▁", *pipelines.LETTERS]


def t5_tokenizer():
    """A T5 tokenizer of single letters."""
    from transformers import T5Tokenizer

    return T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(PIECES)], extra_ids=0, model_max_length=512)


def t5_encoder(features=12):
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": features, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(PIECES), **sizes, feed_forward_proj="gated-gelu"))


def awake(network):
    """The same network, no part of which is silent: such networks have outputs that begin near zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def dit_pipeline(folder, learned_sigma=True, names=None):
    """A DiT folder of five classes."""
    from diffusers import DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8 if learned_sigma else 4, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=5, attention_bias=True,
    )  # fmt: skip
    noise = pipelines.scheduler("DDIMScheduler", beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    DiTPipeline(awake(network), pipelines.vae(), noise).save_pretrained(folder)
    if names:
        index = folder / "model_index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": names}))
    return folder


def pixart_pipeline(folder, kind="Sigma", size=8, patch=2):
    """A PixArt folder; a network of size 128 is told the size of the picture."""
    import diffusers

    torch.manual_seed(0)
    network = diffusers.PixArtTransformer2DModel(
        num_attention_heads=3, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=2, cross_attention_dim=12, sample_size=size,
        patch_size=patch, caption_channels=10, interpolation_scale=1,
    )  # fmt: skip
    noise = pipelines.scheduler("DPMSolverMultistepScheduler", beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    parts = {"tokenizer": t5_tokenizer(), "text_encoder": t5_encoder(10), "vae": pipelines.vae(), "transformer": awake(network)}
    getattr(diffusers, f"PixArt{kind}Pipeline")(**parts, scheduler=noise).save_pretrained(folder)
    return folder


def sd3_pipeline(folder, t5=True, shift=3.0, network_settings=None, **settings):
    """A Stable Diffusion 3 folder, with its third text encoder or without."""
    import diffusers

    torch.manual_seed(0)
    network = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=4, num_attention_heads=2,
        joint_attention_dim=24, caption_projection_dim=8, pooled_projection_dim=16, pos_embed_max_size=8, **(network_settings or {}),
    )  # fmt: skip
    clip = {name: clip_text("CLIPTextModelWithProjection", 10, 8) for name in ("text_encoder", "text_encoder_2")}
    words = {"tokenizer": pipelines.tokenizer(), "tokenizer_2": pipelines.tokenizer()}
    large = {"text_encoder_3": t5_encoder(24) if t5 else None, "tokenizer_3": t5_tokenizer() if t5 else None}
    noise = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift, **settings)
    parts = {"transformer": awake(network), "vae": pipelines.vae(), "scheduler": noise}
    made = diffusers.StableDiffusion3Pipeline(**clip, **words, **large, **parts)
    made.vae.register_to_config(shift_factor=0.1)
    made.save_pretrained(folder)
    return folder
