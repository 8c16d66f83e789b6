"""Features that cost nothing: a few pixels."""

import torch
from torch import nn

from fewstep.evaluation.features import Features


def pixels(first=20, last=25, classes=None):
    """Some pixels as features; with `classes` logits of which the first few are the features."""
    head = None
    if classes:
        head = nn.Linear(last - first, classes, bias=False, dtype=torch.float64)
        head.load_state_dict({"weight": torch.eye(classes, last - first, dtype=torch.float64)})
    return Features("pixels", last - first, lambda images: images.flatten(1)[:, first:last], "0" * 64, head=head)
