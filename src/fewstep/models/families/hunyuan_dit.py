"""HunyuanDiT: text through BERT and a T5; w is added to the time embedding, and a learned sigma is left out."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.method.conditioning import Condition
from fewstep.models.families import AnySize
from fewstep.models.families.pipeline_folder import check_fit, config_of
from fewstep.models.families.prompts import random_text
from fewstep.models.families.text_transformer import TextTransformer
from fewstep.models.metadata import Info

ORIGINAL_SIZE, BASE = (1024, 1024), 32  # the stock pipeline's defaults: of the picture that is asked for; of a grid of patches
LEAVES = {"text": 77, "mask": 77, "text_2": 256, "mask_2": 256}  # of a condition, with their tokens


class HunyuanDiT(TextTransformer):
    """A condition is {"text", "text_2" (b, tokens, features), "mask", "mask_2" (b, tokens)}, of BERT and of the T5."""

    name, network_type, time_embedding = "hunyuan_dit", "HunyuanDiT2DModel", "time_extra_emb.timestep_embedder.linear_2"
    pipelines, text_width, stock_size_factor = ("HunyuanDiTPipeline",), "cross_attention_dim", "vae_scale_factor"
    encoders, longest, text_tokens = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"), "tokenizer_2", LEAVES["text_2"]
    network_arguments: dict[str, str] = {  # noqa: RUF012
        "encoder_hidden_states": "text", "text_embedding_mask": "mask", "encoder_hidden_states_t5": "text_2", "text_embedding_mask_t5": "mask_2"
    }  # fmt: skip
    pipeline_arguments: dict[str, str] = {  # noqa: RUF012
        "prompt_embeds": "text", "prompt_attention_mask": "mask", "prompt_embeds_2": "text_2", "prompt_attention_mask_2": "mask_2"
    }  # fmt: skip

    def check(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises InputError for a distilled network, or text encoders or a VAE of another model."""
        super().check(folder, config)
        features = config_of(folder, "text_encoder_2").get("d_model")
        check_fit(folder, "the second text encoder's features", features, config["cross_attention_dim_t5"])

    def any_size(self) -> AnySize:
        """Whole patches."""
        return AnySize(self.known["patch_size"])

    def encoded(self, pipeline: Any, prompts: list[str], device: torch.device, negative: bool) -> Condition:
        """What the stock pipeline makes of prompts with each encoder."""
        made = [pipeline.encode_prompt(prompts, device, do_classifier_free_guidance=False, text_encoder_index=i) for i in range(2)]
        return dict(zip(LEAVES, [leaf for text, _, mask, _ in made for leaf in (text, mask)], strict=True))

    def example(self, network: Any, info: Info, n: int) -> Condition:
        """Random text of fewer and fewer words."""
        config, index = network.config, torch.arange(n, device="cpu")[:, None]
        masks = {leaf: (torch.arange(k, device="cpu")[None] < k - index % k).long() for leaf, k in LEAVES.items() if "mask" in leaf}
        text = random_text(n, LEAVES["text"], config["cross_attention_dim"])
        return {"text": text, "text_2": random_text(n, LEAVES["text_2"], config["cross_attention_dim_t5"], seed=1)} | masks

    def inputs(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> dict[str, Any]:
        """With the size of the picture, no style, and the places of patches, as the stock pipeline has them."""
        from diffusers.models.embeddings import get_2d_rotary_pos_embed
        from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

        features, patch, (h, w) = self.known["attention_head_dim"], self.known["patch_size"], z.shape[2:]
        grid = h // patch, w // patch
        crop = get_resize_crop_region_for_grid(grid, 2 * BASE // patch)
        places = get_2d_rotary_pos_embed(features, crop, grid, device=z.device, output_type="pt")
        sizes = torch.tensor([[*ORIGINAL_SIZE, 8 * h, 8 * w, 0, 0]], dtype=z.dtype, device=z.device).expand(len(z), -1).contiguous()
        style = torch.zeros(len(z), dtype=torch.long, device=z.device)
        return super().inputs(z, time.to(z.dtype), condition) | {
            "image_meta_size": sizes, "style": style, "image_rotary_emb": places
        }  # fmt: skip

    def output(self, output: Tensor, z: Tensor) -> Tensor:
        """Without the learned sigma."""
        return output[:, : z.shape[1]]

    def stock_arguments(self, condition: Any, pipeline: Any) -> dict[str, Any]:
        """The texts and their masks; sizes that the pipeline does not know are taken as they are."""
        return super().stock_arguments(condition, pipeline) | {"use_resolution_binning": False}
