"""Tiny pipelines of Stable Diffusion XL, DeepFloyd IF and Kandinsky 2.2 with random weights, as `pipelines.py` has Stable Diffusion."""

import torch

import pipelines
from fewstep.models.families.pipeline_folder import quiet

XL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 10 + 6 * 4}


def clip_text(kind, features=12, projection=10, tokens=pipelines.TOKENS):
    """A CLIP text encoder of two layers: what is read is the last but one."""
    import transformers

    sizes = {"hidden_size": features, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {
        "vocab_size": 54,
        "max_position_embeddings": tokens,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    return getattr(transformers, kind)(transformers.CLIPTextConfig(**sizes, projection_dim=projection))


def xl_pipeline(folder, in_channels=4, pipeline="StableDiffusionXLPipeline", **settings):
    """A Stable Diffusion XL folder, with its own Euler scheduler."""
    import diffusers

    torch.manual_seed(0)
    network = pipelines.unet(text=20, in_channels=in_channels, **XL)
    texts = {"text_encoder": clip_text("CLIPTextModel"), "text_encoder_2": clip_text("CLIPTextModelWithProjection", 8)}
    words = {"tokenizer": pipelines.tokenizer(), "tokenizer_2": pipelines.tokenizer()}
    noise = pipelines.scheduler("EulerDiscreteScheduler", timestep_spacing="leading")
    made = getattr(diffusers, pipeline)(vae=pipelines.vae(), **texts, **words, unet=network, scheduler=noise, **settings)
    made.save_pretrained(folder)
    return folder


def t5():
    """(tokenizer of single letters, text encoder of 12 features)."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    words = ["<pad>", "</s>", "<unk>", *("▁" + letter for letter in pipelines.LETTERS), *pipelines.LETTERS]
    sizes = {"d_model": 12, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    tokenizer = T5Tokenizer(vocab=[(word, -float(i)) for i, word in enumerate(words)], extra_ids=0)
    return tokenizer, T5EncoderModel(T5Config(vocab_size=len(words), **sizes))


def resnet_unet(channels, **settings):
    """A UNet of 8x8 of the blocks that DeepFloyd IF and Kandinsky have; half of its output is a variance."""
    from diffusers import UNet2DConditionModel

    downs, ups = ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D")
    known = {"sample_size": 8, "in_channels": channels, "out_channels": 2 * channels, "block_out_channels": (8, 12), "layers_per_block": 1,
             "norm_num_groups": 4, "attention_head_dim": 4, "cross_attention_dim": 8, "encoder_hid_dim": 12, "resnet_time_scale_shift": "scale_shift",
             "down_block_types": downs, "up_block_types": ups, "mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}  # fmt: skip
    return UNet2DConditionModel(**(known | settings))


def if_pipeline(folder, larger=False):
    """A DeepFloyd IF folder, of the base or of the super-resolution stage."""
    import diffusers

    torch.manual_seed(0)
    learned = {"variance_type": "learned_range", "thresholding": True, "beta_schedule": "squaredcos_cap_v2"}
    texts = dict(zip(("tokenizer", "text_encoder"), t5(), strict=True))
    off = {"safety_checker": None, "feature_extractor": None, "watermarker": None, "requires_safety_checker": False}
    settings = {"addition_embed_type": "text", "addition_embed_type_num_heads": 2, "act_fn": "gelu"}
    noise, kind = diffusers.DDPMScheduler(**learned), "IFSuperResolutionPipeline" if larger else "IFPipeline"
    if larger:
        settings |= {"in_channels": 6, "class_embed_type": "timestep"}
        off["image_noising_scheduler"] = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    getattr(diffusers, kind)(**texts, unet=resnet_unet(3, **settings), scheduler=noise, **off).save_pretrained(folder)
    return folder


def prior_parts():
    """The parts of Kandinsky's prior."""
    import diffusers
    import transformers

    sizes = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 12}
    noise = {"variance_type": "fixed_small_log", "prediction_type": "sample", "num_train_timesteps": 1000, "clip_sample_range": 5.0}
    prior = diffusers.PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=6,
        num_layers=1,
        embedding_dim=12,
        num_embeddings=pipelines.TOKENS,
        additional_embeddings=4,
    )
    torch.nn.init.ones_(prior.clip_std)  # what it gives is scaled by this, which is 0 at first
    return {
        "prior": prior,
        "image_encoder": transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(image_size=8, patch_size=4, **sizes)
        ),
        "text_encoder": clip_text("CLIPTextModelWithProjection", projection=12),
        "tokenizer": pipelines.tokenizer(),
        "scheduler": diffusers.UnCLIPScheduler(**noise),
        "image_processor": transformers.CLIPImageProcessorPil(size=8, crop_size=8),
    }


def kandinsky_pipeline(folder, whole=True):
    """A Kandinsky 2.2 folder: the decoder, with its prior or without."""
    import diffusers

    torch.manual_seed(0)
    down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    movq = diffusers.VQModel(
        block_out_channels=(32, 32), down_block_types=down, up_block_types=up, latent_channels=4, norm_num_groups=2, num_vq_embeddings=8,
        vq_embed_dim=4, norm_type="spatial",  # which has groups of 32
    )  # fmt: skip
    network = resnet_unet(4, encoder_hid_dim_type="image_proj", addition_embed_type="image")
    noise = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, variance_type="learned_range", clip_sample=False)
    parts = {"unet": network, "scheduler": noise, "movq": movq}
    prior = {f"prior_{name}": part for name, part in prior_parts().items()}
    made = diffusers.KandinskyV22CombinedPipeline(**parts, **prior) if whole else diffusers.KandinskyV22Pipeline(**parts)
    made.save_pretrained(folder)
    return folder


def kolors_pipeline(folder):
    """A Kolors folder, its tokenizer one of single letters; it needs sentencepiece."""
    import io

    import diffusers
    import sentencepiece

    with quiet():
        from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
        from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

    torch.manual_seed(0)
    words, model = [*pipelines.LETTERS, "a cat", "a dog", "zebra"], io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_writer=model, vocab_size=32, model_type="char", minloglevel=2
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    sizes = {
        "num_layers": 2,
        "padded_vocab_size": 64,
        "hidden_size": 16,
        "ffn_hidden_size": 16,
        "kv_channels": 8,
        "num_attention_heads": 2,
    }
    encoder = ChatGLMModel(ChatGLMConfig(**sizes, seq_length=256, add_qkv_bias=True, original_rope=True))
    for p in encoder.parameters():  # which come as whatever was in memory
        torch.nn.init.normal_(p, std=0.3)
    network = pipelines.unet(
        text=12, encoder_hid_dim=16, encoder_hid_dim_type="text_proj", **XL | {"projection_class_embeddings_input_dim": 16 + 6 * 4}
    )
    noise = pipelines.scheduler("EulerDiscreteScheduler", beta_end=0.014, num_train_timesteps=1100, timestep_spacing="leading")
    parts = {"text_encoder": encoder, "tokenizer": ChatGLMTokenizer(str(folder / "tokenizer.model")), "vae": pipelines.vae()}
    diffusers.KolorsPipeline(**parts, unet=network, scheduler=noise).save_pretrained(folder)
    (folder / "tokenizer.model").unlink()
    return folder
