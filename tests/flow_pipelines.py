"""Tiny pipelines of flow transformers with random weights, as diffusers writes them: Flux, Qwen-Image and Wan."""

import json

import torch
from tokenizers.pre_tokenizers import ByteLevel

import pipelines

SIDE = 8  # of the latents; a VAE of two levels makes 16 pixels of it
SHIFTED = {"shift_factor": 0.1, "scaling_factor": 0.4}  # settings of a VAE
NETWORK = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2, "in_channels": 16}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1} | SPECIAL
EYES = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}


def t5_tokenizer():
    """A T5 tokenizer of single letters."""
    from transformers import T5TokenizerFast

    starts = ["▁", *("▁" + letter for letter in pipelines.LETTERS), *pipelines.LETTERS]
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -3.0) for word in starts)]
    return T5TokenizerFast(vocab=words, extra_ids=0, model_max_length=512)


def t5(kind="T5", features=12):
    """A text encoder of T5's or UMT5's kind."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(vocab_size=56, d_model=features, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return getattr(transformers, f"{kind}EncoderModel")(config)


def byte_tokenizer(*special):
    """Qwen2's tokenizer, of single bytes and special words."""
    from transformers import Qwen2Tokenizer

    special = ["<|im_start|>", "<|im_end|>", *special]
    words = ["<|endoftext|>", *special, *sorted(ByteLevel.alphabet())]
    return Qwen2Tokenizer(vocab={word: i for i, word in enumerate(words)}, extra_special_tokens=special)


def qwen_text():
    """Qwen2.5-VL's text part (its eyes are there, and tiny), and a tokenizer of single bytes."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = byte_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    text = TEXT | {"vocab_size": len(tokenizer), "num_hidden_layers": 1, "rope_parameters": rope}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=EYES | {"fullatt_block_indexes": [0]})
    return Qwen2_5_VLForConditionalGeneration(config), tokenizer


def saved(pipeline, folder, sides):
    """The folder, with the size of latents in the network's config: the pipelines themselves have none."""
    pipeline.save_pretrained(folder)
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": sides}))
    return folder


def awake_layers(network):
    """Biases that start at zero would hide one that is forgotten."""
    for name, value in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(value, std=0.1)
    return network


def flow_scheduler(**settings):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)


def flux_pipeline(folder, sides=SIDE, pipeline="FluxPipeline", **settings):
    """A Flux that is guided by true_cfg_scale; its scheduler's shift depends on the size, as FLUX.1-dev's does."""
    import diffusers

    torch.manual_seed(0)
    texts = {"joint_attention_dim": 12, "pooled_projection_dim": 12, "axes_dims_rope": (2, 2, 4)}
    made = getattr(diffusers, pipeline)(
        scheduler=flow_scheduler(shift=3.0, use_dynamic_shifting=True), vae=pipelines.vae(**SHIFTED), text_encoder=pipelines.text_encoder(),
        tokenizer=pipelines.tokenizer(), text_encoder_2=t5(), tokenizer_2=t5_tokenizer(),
        transformer=awake_layers(diffusers.FluxTransformer2DModel(**NETWORK, **texts, **settings)),
    )  # fmt: skip
    return saved(made, folder, sides)


def qwen_vae():
    import diffusers

    statistics = {"latents_mean": [0.1, 0.2, -0.1, 0.0], "latents_std": [1.5, 1.0, 2.0, 0.7]}
    return diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False], **statistics
    )


def qwen_pipeline(folder, sides=SIDE, **settings):
    import diffusers

    torch.manual_seed(0)
    text_encoder, tokenizer = qwen_text()
    sizes = {"in_channels": 16, "out_channels": 4, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}
    network = diffusers.QwenImageTransformer2DModel(joint_attention_dim=16, axes_dims_rope=(2, 2, 4), **sizes, **settings)
    shift = {"use_dynamic_shifting": True, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
    made = diffusers.QwenImagePipeline(flow_scheduler(**shift), qwen_vae(), text_encoder, tokenizer, awake_layers(network))
    return saved(made, folder, sides)


def wan_pipeline(folder, sides=(3, 4, 6), two=False, **settings):
    """A Wan of text to video, 2.1, or 2.2 with two networks: three frames of latents are nine of video, 8 x 12 pixels each."""
    import diffusers

    torch.manual_seed(0)
    sizes = {"in_channels": 4, "out_channels": 4, "text_dim": 12, "freq_dim": 16, "ffn_dim": 16, "num_layers": 1}
    heads = {"num_attention_heads": 2, "attention_head_dim": 12}
    network, *second = (awake_layers(diffusers.WanTransformer3DModel(**heads, **(sizes | settings))) for _ in range(1 + two))
    vae = diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True], latents_mean=[0.1, 0.2, -0.1, 0.0],
        latents_std=[1.5, 1.0, 2.0, 0.7], scale_factor_spatial=2, scale_factor_temporal=2,
    )  # fmt: skip
    betas = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    scheduler = diffusers.UniPCMultistepScheduler(**betas)
    late = {"transformer_2": second[0], "boundary_ratio": 0.875} if two else {}
    made = diffusers.WanPipeline(t5_tokenizer(), t5("UMT5"), vae, scheduler, network, **late)
    return saved(made, folder, list(sides))
