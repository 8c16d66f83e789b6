"""The features of DINOv2: what people see as alike is near in them more often than in Inception's (2306.04675)."""

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from fewstep.data import fingerprints
from fewstep.errors import InputError, first_line
from fewstep.evaluation.features import Features

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pictures that it was trained on
PUBLISHED = "facebook/dinov2-large"  # ViT-L/14, that of 2306.04675
PIXELS = 224


def open_dinov2(name: str = PUBLISHED, device: str = "cpu") -> Features:
    """The class token of a DINOv2 model, a folder or a hub id as transformers opens it; pictures are resized to 224 pixels.

    Raises:
        InputError: transformers finds no DINOv2 model there.
    """
    from transformers import AutoModel  # late: it is heavy

    try:
        model = AutoModel.from_pretrained(name, use_safetensors=True)
        if not model.config.model_type.startswith("dinov2"):
            raise ValueError(f"it is of the type {model.config.model_type}")
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"'{name}' is no DINOv2 model that transformers opens ({first_line(error)}): name a folder or a hub id"
        ) from error
    torch.nn.Module.to(model.eval(), device)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))

    def run(images: Tensor) -> Tensor:
        part = functional.interpolate(images, (PIXELS, PIXELS), mode="bicubic", antialias=True).clamp(-1, 1)
        return model(pixel_values=(((part + 1) / 2 - mean) / deviation).to(device)).last_hidden_state[:, 0]

    return Features("dinov2", model.config.hidden_size, run, fingerprints.of_weights(model.state_dict()), channels=3)
