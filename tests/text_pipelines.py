"""Tiny pipelines of the text transformers of 2024 to 2026 with random weights, as diffusers writes them."""

import json

import diffusers
import pytest
import torch

import pipelines
from fewstep.models.families.pipeline_folder import quiet
from flow_pipelines import (
    EYES,
    NETWORK,
    SHIFTED,
    SIDE,
    TEXT,
    byte_tokenizer,
    flow_scheduler,
    qwen_text,
    qwen_vae,
    saved,
    t5,
    t5_tokenizer,
)
from transformer_pipelines import awake, t5_encoder
from transformer_pipelines import t5_tokenizer as unigram_tokenizer
from unet_pipelines import clip_text

CHAT = "{% for message in messages %}<|im_start|>{{ message['role'] }} {{ message['content'] }}<|im_end|>{% endfor %}"


def reader(kind, features=16, layers=2, **settings):
    """(a decoder of text of a kind of transformers, a tokenizer of single bytes with a template for chats)."""
    import transformers

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT
    sizes = TEXT | {"hidden_size": features, "num_hidden_layers": layers, "head_dim": 8, "vocab_size": len(tokenizer)}
    config = getattr(transformers, f"{kind.removesuffix('Model').removesuffix('ForCausalLM')}Config")(**sizes, **settings)
    return getattr(transformers, kind)(config), tokenizer


def chroma_pipeline(folder, sides=SIDE, **settings):
    torch.manual_seed(0)
    times = {"approximator_num_channels": 8, "approximator_hidden_dim": 12, "approximator_layers": 1}
    with quiet():
        network = diffusers.ChromaTransformer2DModel(
            joint_attention_dim=12, axes_dims_rope=(2, 2, 4), **NETWORK, **times, **settings
        )
    parts = {"vae": pipelines.vae(**SHIFTED), "text_encoder": t5(), "tokenizer": t5_tokenizer(), "transformer": awake(network)}
    return saved(diffusers.ChromaPipeline(scheduler=flow_scheduler(shift=3.0), **parts), folder, sides)


def z_image_pipeline(folder, sides=SIDE):
    torch.manual_seed(0)
    network = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=16, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16, axes_dims=[2, 2, 4],
        axes_lens=[1024, 64, 64],
    )  # fmt: skip
    text_encoder, tokenizer = reader("Qwen3Model")
    vae, noise = pipelines.vae(**SHIFTED), flow_scheduler(shift=6.0)
    return saved(diffusers.ZImagePipeline(noise, vae, text_encoder, tokenizer, awake(network)), folder, sides)


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
    vae, noise = pipelines.vae(**SHIFTED), flow_scheduler(shift=6.0)
    diffusers.Lumina2Pipeline(awake(network), noise, vae, text_encoder, tokenizer).save_pretrained(folder)
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


def longcat_pipeline(folder, sides=SIDE):
    torch.manual_seed(0)
    network = diffusers.LongCatImageTransformer2DModel(
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=[2, 2, 4], **NETWORK
    )
    text_encoder, tokenizer = qwen_text()
    noise = flow_scheduler(shift=3.0, use_dynamic_shifting=True)
    parts = {"text_encoder": text_encoder, "tokenizer": tokenizer, "text_processor": tokenizer, "transformer": awake(network)}
    return saved(diffusers.LongCatImagePipeline(scheduler=noise, vae=pipelines.vae(**SHIFTED), **parts), folder, sides)


def flux2_pipeline(folder, sides=SIDE, distilled=False, **settings):
    """A FLUX.2 klein: 8x8 patches of latents of 16x16, 32 pixels a side."""
    torch.manual_seed(0)
    network = diffusers.Flux2Transformer2DModel(
        joint_attention_dim=24,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        **(NETWORK | {"guidance_embeds": False} | settings),
    )
    text_encoder, tokenizer = reader("Qwen3ForCausalLM", features=8, layers=27)
    down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 4), down_block_types=down, up_block_types=up, latent_channels=4, norm_num_groups=2, sample_size=32
    )
    torch.nn.init.normal_(vae.bn.running_mean)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    noise = flow_scheduler(shift=3.0, use_dynamic_shifting=True)
    parts = {"text_encoder": text_encoder, "tokenizer": tokenizer, "transformer": awake(network), "is_distilled": distilled}
    return saved(diffusers.Flux2KleinPipeline(noise, vae, **parts), folder, sides)


def krea2_pipeline(folder, sides=SIDE, distilled=False):
    from transformers import Qwen3VLConfig, Qwen3VLModel

    torch.manual_seed(0)
    network = diffusers.Krea2Transformer2DModel(
        in_channels=16, num_layers=1, attention_head_dim=8, num_attention_heads=2, num_key_value_heads=1, intermediate_size=16,
        timestep_embed_dim=16, text_hidden_dim=16, num_text_layers=2, text_num_attention_heads=2, text_num_key_value_heads=2,
        text_intermediate_size=16, num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    tokenizer = byte_tokenizer("assistant")
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    text = TEXT | {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "head_dim": 8, "rope_parameters": rope}
    text_encoder = Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=EYES | {"deepstack_visual_indexes": [0]}))
    noise = flow_scheduler(use_dynamic_shifting=True, max_image_seq_len=6400)
    parts = {"text_encoder": text_encoder, "tokenizer": tokenizer, "transformer": awake(network)}
    chosen = {"text_encoder_select_layers": (0, 2), "is_distilled": distilled}
    return saved(diffusers.Krea2Pipeline(noise, qwen_vae(), **parts, **chosen), folder, sides)


def hunyuan_dit_pipeline(folder):
    """Its stock pipeline takes it that a latent is eight pixels."""
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(0)
    network = diffusers.HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=8, hidden_size=16, num_layers=2, mlp_ratio=1.0,
        cross_attention_dim=16, cross_attention_dim_t5=16, pooled_projection_dim=16,
    )  # fmt: skip
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pipelines.LETTERS, *(f"##{letter}" for letter in pipelines.LETTERS)]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=77)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    made = diffusers.HunyuanDiTPipeline(
        vae=pipelines.vae(levels=4), text_encoder=BertModel(BertConfig(vocab_size=len(words), **sizes)), tokenizer=tokenizer,
        transformer=awake(network), scheduler=pipelines.scheduler("DDPMScheduler", prediction_type="v_prediction", beta_end=0.02), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False, text_encoder_2=t5_encoder(16), tokenizer_2=unigram_tokenizer(),
    )  # fmt: skip
    made.save_pretrained(folder)
    return folder


def ltx_pipeline(folder, sides=(2, 8, 16)):
    """Two frames of latents of 8x16: five of video, 32 x 64 pixels each."""
    torch.manual_seed(0)
    network = diffusers.LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=12,
    )
    four = {"block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    four |= {"upsample_residual": (False,) * 4, "upsample_factor": (1,) * 4}
    five = {"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5, "decoder_inject_noise": (False,) * 5}
    scaling = (True, True, False, False)
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=4, spatio_temporal_scaling=scaling, decoder_spatio_temporal_scaling=scaling, patch_size=1, **four, **five
    )
    torch.nn.init.normal_(vae.latents_mean)
    torch.nn.init.uniform_(vae.latents_std, 0.5, 2.0)
    shift = {"base_image_seq_len": 1024, "base_shift": 0.95, "max_shift": 2.05, "shift_terminal": 0.1}
    noise = flow_scheduler(use_dynamic_shifting=True, **shift)
    parts = {"text_encoder": t5(), "tokenizer": t5_tokenizer(), "transformer": awake(network)}
    return saved(diffusers.LTXPipeline(noise, vae, **parts), folder, list(sides))


def cogvideox_pipeline(folder, rotary=True):
    """Three frames of latents of 4x6: nine of video, 32 x 48 pixels each."""
    torch.manual_seed(0)
    network = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=12, num_layers=1,
        sample_width=6, sample_height=4, sample_frames=9, use_rotary_positional_embeddings=rotary,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLCogVideoX(block_out_channels=(4,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2)
    noise = diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=3.0)
    diffusers.CogVideoXPipeline(t5_tokenizer(), t5(), vae, awake(network), noise).save_pretrained(folder)
    return folder


def prx_pipeline(folder, sides=SIDE):
    """It needs ftfy. The encoder's folder has the config of a whole T5Gemma, from which diffusers opens it: without, it would be of 2 G parameters."""
    from transformers import GemmaTokenizer, T5GemmaConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    pytest.importorskip("ftfy", reason="ftfy is not installed (pip install 'fewstep[prx]')")
    torch.manual_seed(0)
    network = diffusers.PRXTransformer2DModel(
        in_channels=4, patch_size=2, context_in_dim=16, hidden_size=16, mlp_ratio=2.0, num_heads=2, depth=2, axes_dim=[4, 4]
    )
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *pipelines.LETTERS]
    tokenizer = GemmaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=256)
    sizes = TEXT | {"num_hidden_layers": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "vocab_size": len(words)}
    config = T5GemmaConfig(encoder=sizes, decoder=sizes)
    parts = {"text_encoder": T5GemmaEncoder(config.encoder), "tokenizer": tokenizer, "vae": pipelines.vae(**SHIFTED)}
    with quiet():
        made = saved(diffusers.PRXPipeline(awake(network), flow_scheduler(shift=3.0), **parts), folder, sides)
    config.save_pretrained(made / "text_encoder")
    index = made / "model_index.json"  # as the conversion script of diffusers writes it
    index.write_text(json.dumps(json.loads(index.read_text()) | {"text_encoder": ["prx", "T5GemmaEncoder"]}))
    return made


def cogview4_pipeline(folder):
    import transformers
    from tokenizers.processors import TemplateProcessing

    torch.manual_seed(0)
    network = diffusers.CogView4Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2, text_embed_dim=16, time_embed_dim=16,
        condition_dim=4, pos_embed_max_size=8, sample_size=8, rope_axes_dim=(8, 8),
    )  # fmt: skip
    text_encoder, letters = reader("GlmModel")
    begins = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", letters.convert_tokens_to_ids("<|im_start|>"))]
    )
    letters.backend_tokenizer.post_processor = begins  # GLM's begins each prompt with words of its own
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters.backend_tokenizer, pad_token="<|endoftext|>", padding_side="left", model_max_length=1024
    )
    noise = flow_scheduler(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear")
    vae = pipelines.vae(**SHIFTED | {"shift_factor": 0.0})
    diffusers.CogView4Pipeline(tokenizer, text_encoder, vae, awake(network), noise).save_pretrained(folder)
    return folder


def hunyuan_video_pipeline(folder, sides=(3, 4, 6)):
    """Three frames of latents of 4x6. The Llama's tokenizer is one of whole words, so that a prompt is not cut behind the long template."""
    import re

    import transformers
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    torch.manual_seed(0)
    network = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_single_layers=1, num_refiner_layers=1,
        patch_size=2, text_embed_dim=16, pooled_projection_dim=12, rope_axes_dim=(2, 2, 4), mlp_ratio=1.0,
    )  # fmt: skip
    words = [
        "<pad>",
        "<unk>",
        *dict.fromkeys(re.findall(r"\w+|[^\w\s]+", f"{DEFAULT_PROMPT_TEMPLATE['template']} a b cat dog zebra")),
    ]
    model = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", unk_token="<unk>", model_max_length=512
    )
    text = TEXT | {"num_hidden_layers": 3, "head_dim": 8, "vocab_size": len(words)}
    vae = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=2, mid_block_add_attention=False
    )
    parts = {"text_encoder": transformers.LlamaModel(transformers.LlamaConfig(**text)), "tokenizer": tokenizer, "vae": vae}
    parts |= {"text_encoder_2": clip_text("CLIPTextModel", tokens=77), "tokenizer_2": pipelines.tokenizer()}
    made = diffusers.HunyuanVideoPipeline(transformer=awake(network), scheduler=flow_scheduler(shift=7.0), **parts)
    return saved(made, folder, list(sides))
