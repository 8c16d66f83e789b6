"""Tiny pipelines of the text transformers of 2024 to 2026 with random weights, as diffusers writes them."""

import diffusers
import torch

import pipelines
from fewstep.models.families.pipeline_folder import quiet
from flow_pipelines import SIDE, byte_tokenizer, flow_scheduler, saved, t5, t5_tokenizer
from transformer_pipelines import awake

CHAT = "{% for message in messages %}<|im_start|>{{ message['role'] }} {{ message['content'] }}<|im_end|>{% endfor %}"


def reader(kind, features=16, **settings):
    """(a decoder of text of a kind of transformers, a tokenizer of single bytes with a template for chats)."""
    import transformers

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT
    sizes = {
        "hidden_size": features,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "vocab_size": len(tokenizer)}
    config = getattr(transformers, f"{kind.removesuffix('Model').removesuffix('ForCausalLM')}Config")(
        **sizes, **special, **settings
    )
    return getattr(transformers, kind)(config), tokenizer


def chroma_pipeline(folder, sides=SIDE, **settings):
    torch.manual_seed(0)
    sizes = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}
    times = {"approximator_num_channels": 8, "approximator_hidden_dim": 12, "approximator_layers": 1}
    with quiet():
        network = diffusers.ChromaTransformer2DModel(joint_attention_dim=12, axes_dims_rope=(2, 2, 4), **sizes, **times, **settings)
    parts = {"vae": pipelines.vae(), "text_encoder": t5(), "tokenizer": t5_tokenizer(), "transformer": awake(network)}
    made = diffusers.ChromaPipeline(scheduler=flow_scheduler(shift=3.0), **parts)
    made.vae.register_to_config(shift_factor=0.1, scaling_factor=0.4)
    return saved(made, folder, sides)


def z_image_pipeline(folder, sides=SIDE):
    torch.manual_seed(0)
    network = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[2, 2, 4],
        axes_lens=[1024, 64, 64],
    )
    text_encoder, tokenizer = reader("Qwen3Model")
    made = diffusers.ZImagePipeline(flow_scheduler(shift=6.0), pipelines.vae(), text_encoder, tokenizer, awake(network))
    made.vae.register_to_config(shift_factor=0.1, scaling_factor=0.4)
    return saved(made, folder, sides)


def dc_vae():
    """An autoencoder of two levels of the kind that makes 32x."""
    levels = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    layers = {"encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1)}
    plain = {"encoder_qkv_multiscales": ((), ()), "decoder_qkv_multiscales": ((), ())}
    return diffusers.AutoencoderDC(latent_channels=4, attention_head_dim=4, scaling_factor=0.4, **levels, **layers, **plain)


def sana_pipeline(folder):
    torch.manual_seed(0)
    network = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2, num_cross_attention_heads=2,
        cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16, sample_size=8,
    )  # fmt: skip
    text_encoder, tokenizer = reader("Gemma2Model")
    noise = diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    diffusers.SanaPipeline(tokenizer, text_encoder, dc_vae(), awake(network), noise).save_pretrained(folder)
    return folder


def lumina2_pipeline(folder):
    torch.manual_seed(0)
    network = diffusers.Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=16, num_layers=1, num_refiner_layers=1, num_attention_heads=2, num_kv_heads=1, multiple_of=16,
        axes_dim_rope=(2, 2, 4), axes_lens=(300, 16, 16), cap_feat_dim=16,
    )  # fmt: skip
    text_encoder, tokenizer = reader("Gemma2Model")
    made = diffusers.Lumina2Pipeline(awake(network), flow_scheduler(shift=6.0), pipelines.vae(), text_encoder, tokenizer)
    made.vae.register_to_config(shift_factor=0.1, scaling_factor=0.4)
    made.save_pretrained(folder)
    return folder


def aura_flow_pipeline(folder):
    torch.manual_seed(0)
    network = diffusers.AuraFlowTransformer2DModel(
        sample_size=8, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, caption_projection_dim=16, pos_embed_max_size=64,
    )  # fmt: skip
    parts = {"vae": pipelines.vae(), "text_encoder": t5("UMT5"), "tokenizer": t5_tokenizer(), "transformer": awake(network)}
    diffusers.AuraFlowPipeline(**parts, scheduler=flow_scheduler(shift=1.73)).save_pretrained(folder)
    return folder
