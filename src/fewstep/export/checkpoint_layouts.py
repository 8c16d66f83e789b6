"""The names that ComfyUI, Forge, A1111 and sd-scripts have for the weights of diffusers' networks.

Stable Diffusion 1.x, 2.x and XL: whole checkpoints (network, VAE, text encoders). Stable Diffusion 3 and Flux: the network alone, which these
tools call a diffusion model. diffusers reads all of them back (`from_single_file`), which is how the tests check them.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError

Weights = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]  # (pattern of a beginning or a part of a diffusers name, what it becomes)
NETWORK, VAE = "model.diffusion_model.", "first_stage_model."

RESNET: Rules = (
    ("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"), ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection"),
)  # fmt: skip
VAE_RULES: Rules = (
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."), (r"\.mid_block\.resnets\.0\.", ".mid.block_1."), (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."), (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."), (r"\.conv_norm_out\.", ".norm_out."), (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."), (r"\.to_out\.0\.", ".proj_out."),
)  # fmt: skip
OPEN_CLIP: Rules = (
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"), (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^final_layer_norm\.", "ln_final."), (r"^text_projection\.weight$", "text_projection"),
    (r"^encoder\.layers\.", "transformer.resblocks."), (r"\.layer_norm1\.", ".ln_1."), (r"\.layer_norm2\.", ".ln_2."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."), (r"\.mlp\.fc2\.", ".mlp.c_proj."), (r"\.self_attn\.", ".attn."),
)  # fmt: skip
SD3: Rules = (
    (r"^pos_embed\.pos_embed$", "pos_embed"), (r"^pos_embed\.proj\.", "x_embedder.proj."),
    (r"^time_text_embed\.timestep_embedder\.linear_1\.", "t_embedder.mlp.0."), (r"^time_text_embed\.timestep_embedder\.linear_2\.", "t_embedder.mlp.2."),
    (r"^time_text_embed\.text_embedder\.linear_1\.", "y_embedder.mlp.0."), (r"^time_text_embed\.text_embedder\.linear_2\.", "y_embedder.mlp.2."),
    (r"^proj_out\.", "final_layer.linear."), (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
    (r"^(transformer_blocks\.\d+)\.norm1_context\.linear\.", r"\1.context_block.adaLN_modulation.1."),
    (r"^(transformer_blocks\.\d+)\.norm1\.linear\.", r"\1.x_block.adaLN_modulation.1."),
    (r"^(transformer_blocks\.\d+)\.ff_context\.net\.0\.proj\.", r"\1.context_block.mlp.fc1."),
    (r"^(transformer_blocks\.\d+)\.ff_context\.net\.2\.", r"\1.context_block.mlp.fc2."),
    (r"^(transformer_blocks\.\d+)\.ff\.net\.0\.proj\.", r"\1.x_block.mlp.fc1."), (r"^(transformer_blocks\.\d+)\.ff\.net\.2\.", r"\1.x_block.mlp.fc2."),
    (r"\.attn\.norm_added_([qk])\.", r".context_block.attn.ln_\1."), (r"\.(attn2?)\.norm_([qk])\.", r".x_block.\1.ln_\2."),
    (r"\.attn\.to_add_out\.", ".context_block.attn.proj."), (r"\.(attn2?)\.to_out\.0\.", r".x_block.\1.proj."),
    (r"\.attn\.add_qkv\.", ".context_block.attn.qkv."), (r"\.(attn2?)\.to_qkv\.", r".x_block.\1.qkv."),
    (r"^transformer_blocks\.", "joint_blocks."),
)  # fmt: skip
FLUX: Rules = (
    (r"^time_text_embed\.timestep_embedder\.", "time_in."), (r"^time_text_embed\.text_embedder\.", "vector_in."),
    (r"^time_text_embed\.guidance_embedder\.", "guidance_in."), (r"^context_embedder\.", "txt_in."), (r"^x_embedder\.", "img_in."),
    (r"^(\w+_in)\.linear_1\.", r"\1.in_layer."), (r"^(\w+_in)\.linear_2\.", r"\1.out_layer."),
    (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."), (r"^proj_out\.", "final_layer.linear."),
    (r"^single_transformer_blocks\.(\d+)\.norm\.linear\.", r"single_blocks.\1.modulation.lin."),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight", r"single_blocks.\1.norm.query_norm.scale"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight", r"single_blocks.\1.norm.key_norm.scale"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.to_qkv\.", r"single_blocks.\1.linear1."),
    (r"^single_transformer_blocks\.(\d+)\.proj_out\.", r"single_blocks.\1.linear2."),
    (r"\.norm1\.linear\.", ".img_mod.lin."), (r"\.norm1_context\.linear\.", ".txt_mod.lin."),
    (r"\.ff\.net\.0\.proj\.", ".img_mlp.0."), (r"\.ff\.net\.2\.", ".img_mlp.2."),
    (r"\.ff_context\.net\.0\.proj\.", ".txt_mlp.0."), (r"\.ff_context\.net\.2\.", ".txt_mlp.2."),
    (r"\.attn\.norm_q\.weight", ".img_attn.norm.query_norm.scale"), (r"\.attn\.norm_k\.weight", ".img_attn.norm.key_norm.scale"),
    (r"\.attn\.norm_added_q\.weight", ".txt_attn.norm.query_norm.scale"), (r"\.attn\.norm_added_k\.weight", ".txt_attn.norm.key_norm.scale"),
    (r"\.attn\.to_out\.0\.", ".img_attn.proj."), (r"\.attn\.to_add_out\.", ".txt_attn.proj."),
    (r"\.attn\.add_qkv\.", ".txt_attn.qkv."), (r"\.attn\.to_qkv\.", ".img_attn.qkv."),
    (r"^transformer_blocks\.", "double_blocks."),
)  # fmt: skip


def checkpoint_of(family: Any, network: Any) -> Weights:
    """All weights of a Stable Diffusion 1.x, 2.x or XL model, by the names of its first checkpoints."""
    texts = [name for name in family.encoders if name.startswith("text_encoder")]
    parts = family.parts("vae", *family.encoders)
    weights = {NETWORK + name: value for name, value in unet_weights(network).items()}
    weights |= {VAE + name: value for name, value in vae_weights(parts.vae.state_dict()).items()}
    if len(texts) == 2:
        weights |= clip_weights(parts.text_encoder, "conditioner.embedders.0.transformer.")
        return weights | open_clip_weights(parts.text_encoder_2, "conditioner.embedders.1.model.")
    if parts.text_encoder.config.hidden_act == "quick_gelu":  # OpenAI's CLIP; that of 2.x is OpenCLIP's
        return weights | clip_weights(parts.text_encoder, "cond_stage_model.transformer.")
    return weights | open_clip_weights(parts.text_encoder, "cond_stage_model.model.")


def unet_weights(network: Any) -> Weights:
    """A UNet's weights by the names of the first latent diffusion models, which count all layers on the way down, and up.

    Raises:
        InputError: a weight that those networks did not have.
    """
    weights, layers = network.state_dict(), network.config["layers_per_block"]
    outer: Rules = (
        ("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"), ("conv_in", "input_blocks.0.0"),
        ("conv_norm_out", "out.0"), ("conv_out", "out.2"), ("add_embedding.linear_1", "label_emb.0.0"), ("add_embedding.linear_2", "label_emb.0.2"),
        ("mid_block.resnets.0", "middle_block.0"), ("mid_block.attentions.0", "middle_block.1"), ("mid_block.resnets.1", "middle_block.2"),
    )  # fmt: skip
    known: dict[str, str] = dict(outer)
    for i in range(len(network.config["block_out_channels"])):
        down, up = 1 + i * (layers + 1), i * (layers + 1)
        attends = f"up_blocks.{i}.attentions.0.norm.weight" in weights
        known |= {
            f"down_blocks.{i}.{kind}.{j}": f"input_blocks.{down + j}.{n}"
            for n, kind in enumerate(("resnets", "attentions"))
            for j in range(layers)
        }
        known |= {
            f"up_blocks.{i}.{kind}.{j}": f"output_blocks.{up + j}.{n}"
            for n, kind in enumerate(("resnets", "attentions"))
            for j in range(layers + 1)
        }
        known[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{down + layers}.0.op"
        known[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{up + layers}.{1 + attends}.conv"
    made: Weights = {}
    for name, value in weights.items():
        start = next((start for start in known if name.startswith(f"{start}.")), None)
        if start is None:
            raise InputError(f"the network's weight {name} has no name in a checkpoint of Stable Diffusion; use --format diffusers")
        rest = name.removeprefix(start)
        if ".resnets." in name:
            rest = next(rest.replace(f".{ours}.", f".{theirs}.", 1) for ours, theirs in RESNET if rest.startswith(f".{ours}."))
        made[known[start] + rest] = value
    return made


def vae_weights(weights: Weights) -> Weights:
    """A VAE's weights by the first names: its levels on the way up counted from the finest, its attention a convolution."""
    made: Weights = {}
    levels = 1 + max(int(found[1]) for name in weights if (found := re.match(r"decoder\.up_blocks\.(\d+)\.", name)))
    for name, value in weights.items():
        if ".attentions." in name and name.endswith("weight") and value.ndim == 2:
            value = value[:, :, None, None]
        name = re.sub(r"\.up_blocks\.(\d+)\.resnets\.", lambda found: f".up.{levels - 1 - int(found[1])}.block.", name)
        name = re.sub(r"\.up_blocks\.(\d+)\.upsamplers\.0\.", lambda found: f".up.{levels - 1 - int(found[1])}.upsample.", name)
        made[renamed(name, VAE_RULES)] = value
    return made


def clip_weights(encoder: Any, prefix: str) -> Weights:
    """The weights of OpenAI's CLIP text encoder, whose names are transformers' own."""
    return {f"{prefix}text_model.{name}": value for name, value in text_weights(encoder).items()}


def open_clip_weights(encoder: Any, prefix: str) -> Weights:
    """The weights of an OpenCLIP text encoder, with queries, keys and values in one."""
    weights = fused(text_weights(encoder), ("q_proj", "k_proj", "v_proj"), "in_proj")
    made = {renamed(name, OPEN_CLIP).replace("in_proj.", "in_proj_"): value for name, value in weights.items()}
    if "text_projection" in made:
        made["text_projection"] = made["text_projection"].T
    return {prefix + name: value for name, value in made.items()}


def text_weights(encoder: Any) -> Weights:
    """Those of a CLIP text encoder without what versions of transformers put in front of their names."""
    return {name.removeprefix("text_model."): value for name, value in encoder.state_dict().items() if "position_ids" not in name}


def sd3_weights(family: Any, network: Any) -> Weights:
    """The weights of a Stable Diffusion 3 network as its authors name them."""
    weights, last = network.state_dict(), network.config["num_layers"] - 1
    for attention in ("attn", "attn2"):
        weights = fused(weights, (f"{attention}.to_q", f"{attention}.to_k", f"{attention}.to_v"), f"{attention}.to_qkv")
    weights = fused(weights, ("add_q_proj", "add_k_proj", "add_v_proj"), "add_qkv")
    swapped = ("norm_out.linear.", f"transformer_blocks.{last}.norm1_context.linear.")
    return {NETWORK + renamed(name, SD3): value for name, value in shift_first(weights, swapped).items()}


def flux_weights(family: Any, network: Any) -> Weights:
    """The weights of a Flux network as its authors name them; the guidance embedder is one of theirs."""
    weights = network.state_dict()
    single = {name: value for name, value in weights.items() if name.startswith("single_")}
    single = fused(single, ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), "attn.to_qkv")
    double = {name: value for name, value in weights.items() if not name.startswith("single_")}
    double = fused(fused(double, ("to_q", "to_k", "to_v"), "to_qkv"), ("add_q_proj", "add_k_proj", "add_v_proj"), "add_qkv")
    return {NETWORK + renamed(name, FLUX): value for name, value in shift_first(double | single, ("norm_out.linear.",)).items()}


def fused(weights: Weights, parts: tuple[str, ...], into: str) -> Weights:
    """The weights with each group of layers `parts` of the same module stacked into one layer `into`, where all of them are there."""
    made = dict(weights)
    for name in weights:
        before, found, after = name.partition(f".{parts[0]}.")
        group = [f"{before}.{part}.{after}" for part in parts]
        if found and all(member in made for member in group):
            made[f"{before}.{into}.{after}"] = torch.cat([made.pop(member) for member in group])
    return made


def shift_first(weights: Weights, starts: Iterable[str]) -> Weights:
    """The weights with the halves (scale, shift) of some layers' outputs in the order (shift, scale)."""
    return {
        name: torch.cat([*value.chunk(2)][::-1]) if name.startswith(tuple(starts)) else value for name, value in weights.items()
    }


def renamed(name: str, rules: Rules) -> str:
    """A weight's name with all rules applied, in their order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


CONVERSIONS: dict[str, Callable[[Any, Any], Weights]] = {  # family -> (family, plain network) to weights
    "stable_diffusion": checkpoint_of, "stable_diffusion_inpainting": checkpoint_of,
    "stable_diffusion_xl": checkpoint_of, "stable_diffusion_xl_inpainting": checkpoint_of,
    "stable_diffusion_3": sd3_weights, "flux": flux_weights,
}  # fmt: skip
