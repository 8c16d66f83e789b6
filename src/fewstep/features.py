"""Features of images in which samples are compared with data: a small classifier trained on the data set itself, in seconds."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

FEATURES = 64


@dataclass(frozen=True)
class Classifier:
    """A classifier of images (n, c, h, w) in [-1, 1], and its last hidden layer as features (n, 64)."""

    body: nn.Module
    head: nn.Module
    test_accuracy: float  # on images that it was not trained on

    @torch.no_grad()
    def features(self, images: Tensor, batch_size: int = 1024) -> Tensor:
        """float64 (n, 64); what is outside [-1, 1] is clipped first, as a saved image would be."""
        return torch.cat([self.body(part) for part in images.float().clamp(-1, 1).split(batch_size)]).double()

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Share of features (n, 64) that are classified as labels (n,)."""
        return float((self.head(features.float()).argmax(1) == labels).double().mean())


def train_classifier(images: Tensor, labels: Tensor, classes: int, seed: int = 0, epochs: int = 12) -> Classifier:
    """A classifier trained on four fifths of images (n, c, h, w) in [-1, 1], its accuracy measured on the last fifth.

    The same data and seed give the same weights on the same machine.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body, head = network(images.shape[1], images.shape[2]), nn.Linear(FEATURES, classes)
    parameters = [*body.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * -(-len(train) // 64))
    for _ in range(epochs):
        for part in train[torch.randperm(len(train), generator=generator)].split(64):
            shift = torch.randn(images[part].shape, generator=generator) * 0.1  # a little noise, against learning by heart
            loss = nn.functional.cross_entropy(head(body(images[part] + shift)), labels[part], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for p in parameters:
        p.requires_grad_(False)
    whole = Classifier(body.eval(), head.eval(), 0.0)
    return Classifier(body, head, whole.accuracy(whole.features(images[test]), labels[test]))


def network(channels: int, size: int) -> nn.Sequential:
    """Images (n, channels, size, size) to features (n, 64)."""
    small = -(-size // 2)
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * small * small, FEATURES), nn.ReLU(),
    )  # fmt: skip
