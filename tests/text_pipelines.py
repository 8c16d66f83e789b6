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
