"""Tiny pipelines with random weights, as diffusers writes them: teachers that no network and no file is needed for."""

import torch

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = 8  # that the tiny text encoder takes


def tokenizer():
    """A CLIP tokenizer of single letters."""
    from transformers import CLIPTokenizer

    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(letter + "</w>" for letter in LETTERS)]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=TOKENS)


def text_encoder(features=12):
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": features, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return CLIPTextModel(
        CLIPTextConfig(vocab_size=54, max_position_embeddings=TOKENS, bos_token_id=0, eos_token_id=1, pad_token_id=1, **sizes)
    )


def vae(channels=4, levels=2, **settings):
    from diffusers import AutoencoderKL

    down, up = ("DownEncoderBlock2D",) * levels, ("UpDecoderBlock2D",) * levels
    return AutoencoderKL(
        block_out_channels=(4,) * levels, down_block_types=down, up_block_types=up, latent_channels=channels, norm_num_groups=2, sample_size=16,
        **settings,
    )  # fmt: skip


def unet(text=12, in_channels=4, channels=4, **settings):
    """A UNet of 8x8, with attention to text or without."""
    from diffusers import UNet2DConditionModel

    down, up = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D") if text else ("DownBlock2D", "UpBlock2D")
    settings = {"mid_block_type": "UNetMidBlock2DCrossAttn" if text else None} | settings
    return UNet2DConditionModel(
        sample_size=8, in_channels=in_channels, out_channels=channels, block_out_channels=(8, 12), layers_per_block=1, norm_num_groups=4,
        attention_head_dim=4, cross_attention_dim=text or 8, down_block_types=(down, "DownBlock2D"), up_block_types=("UpBlock2D", up), **settings,
    )  # fmt: skip


def scheduler(kind="PNDMScheduler", **settings):
    """Stable Diffusion's betas."""
    import diffusers

    known = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return getattr(diffusers, kind)(**(known | settings))


def text_pipeline(folder, prediction="epsilon", network=None, pipeline="StableDiffusionPipeline", encoder=None, noise=None):
    """A Stable Diffusion folder."""
    import diffusers

    torch.manual_seed(0)
    noise = noise or scheduler(prediction_type=prediction, skip_prk_steps=True)
    parts = {"unet": network or unet(), "vae": vae(), "text_encoder": encoder or text_encoder(), "tokenizer": tokenizer()}
    made = getattr(diffusers, pipeline)(
        **parts, scheduler=noise, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    made.save_pretrained(folder)
    return folder


def class_pipeline(folder, latent):
    """A class-conditional folder of latents or of pixels."""
    from fewstep.models.families.class_conditional import ClassConditionalPipeline

    torch.manual_seed(0)
    network = unet(text=0, num_class_embeds=4)
    ClassConditionalPipeline(network, scheduler("DDIMScheduler"), vae() if latent else None).save_pretrained(folder)
    return folder
