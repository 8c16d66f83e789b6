"""How well images fit their prompts: the CLIP score, by any CLIP model that transformers opens, and its features of images."""

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from fewstep.data import fingerprints
from fewstep.errors import InputError
from fewstep.evaluation.features import BATCH, Features, clipped, with_channels

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the images that CLIP was trained on
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipScore:
    """Cosine similarity of an image and its prompt, times 100 (2104.08718, without its factor 2.5 and its floor at zero)."""

    model: Any  # transformers' CLIPModel
    tokenizer: Any
    device: str = "cpu"

    @classmethod
    def open(cls, name: str, device: str = "cpu") -> "ClipScore":
        """From a folder, or from a hub id as transformers opens it.

        Raises:
            InputError: transformers finds no CLIP model there.
        """
        from transformers import AutoTokenizer, CLIPModel  # late: it is heavy

        try:
            opened: Any = CLIPModel.from_pretrained(name, use_safetensors=True, output_loading_info=True)
            model, found = opened
            if absent := found["missing_keys"]:
                raise ValueError(f"{len(absent)} of its weights are not there")
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = f"'{name}' is no CLIP model that transformers opens ({last_line(error)})"
            raise InputError(f"{reason}: name a folder or a hub id") from error
        return cls(torch.nn.Module.to(model.eval(), device), tokenizer, device)

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Unit vectors float64 (n, d) of images (n, c, h, w) in [-1, 1], resized to what the model takes.

        Raises:
            InputError: images that are not finite.
        """
        size = self.model.config.vision_config.image_size
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        found = []
        for part in clipped(images).split(BATCH):
            part = functional.interpolate(with_channels(part, 3), (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
            hidden = self.model.vision_model(pixel_values=(((part + 1) / 2 - mean) / deviation).to(self.device)).pooler_output
            found.append(functional.normalize(self.model.visual_projection(hidden).double().cpu(), dim=1))
        return torch.cat(found)

    @torch.no_grad()
    def texts(self, prompts: list[str]) -> Tensor:
        """Unit vectors float64 (n, d) of prompts, cut where they are longer than the model takes."""
        settings = {"max_length": self.model.config.text_config.max_position_embeddings, "return_tensors": "pt"}
        found = []
        for k in range(0, len(prompts), BATCH):
            tokens = self.tokenizer(prompts[k : k + BATCH], padding=True, truncation=True, **settings).to(self.device)
            hidden = self.model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
            found.append(functional.normalize(self.model.text_projection(hidden).double().cpu(), dim=1))
        return torch.cat(found)

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """float64 (n,), -100 to 100, of images (n, c, h, w) and as many prompts.

        Raises:
            InputError: another number of prompts, or images that are not finite.
        """
        if len(images) != len(prompts) or not len(prompts):
            raise InputError(f"{len(images)} images and {len(prompts)} prompts; a CLIP score needs one prompt an image")
        return 100 * (self.images(images) * self.texts(prompts)).sum(1)

    def features(self) -> Features:
        """The embeddings of images, unit vectors, as features."""
        vision = {name: value for name, value in self.model.state_dict().items() if name.startswith("vis")}
        return Features("clip", self.model.config.projection_dim, self.images, fingerprints.of_weights(vision))


def last_line(error: BaseException) -> str:
    """An exception's message in one line: the last of a TorchScript's traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("RuntimeError: ")[:200] if lines else type(error).__name__
