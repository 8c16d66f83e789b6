"""Distil a network of one's own, without a family: a small MLP that denoises digits, taught and distilled in a minute or two.

    python examples/own_network.py --out runs/own

The network is called as network(z, time, condition) and, as a student, as network(z, time, condition, w); what w does must start at zero.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import fewstep
from fewstep.method.process import add_noise


class Mlp(nn.Module):
    """Three layers over the pixels, the time, the label and the guidance weight."""

    def __init__(self, pixels: int = 64, labels: int = 11, width: int = 256) -> None:
        super().__init__()
        self.time, self.label, self.weight = nn.Linear(16, width), nn.Embedding(labels, width), nn.Linear(1, width, bias=False)
        self.first, self.second, self.last = nn.Linear(pixels, width), nn.Linear(width, width), nn.Linear(width, pixels)
        nn.init.zeros_(self.weight.weight)

    def forward(self, z: Tensor, time: Tensor, condition: Tensor, w: Tensor | None = None) -> Tensor:
        waves = time[:, None] / 1024 * torch.arange(1, 9, device=z.device) * torch.pi
        said = self.time(torch.cat([waves.sin(), waves.cos()], 1)) + self.label(condition)
        if w is not None:
            said = said + self.weight(w[:, None].to(z.dtype))
        hidden = torch.relu(self.first(z.flatten(1)) + said)
        return self.last(hidden + torch.relu(self.second(hidden) + said)).view_as(z)


def taught(data: fewstep.Data, updates: int) -> fewstep.Denoiser:
    """A guided teacher: the plain denoising loss in v, every tenth label dropped."""
    torch.manual_seed(0)
    denoiser = fewstep.Denoiser(Mlp(), prediction="v", process=fewstep.Cosine(), null=10)
    optimizer = torch.optim.AdamW(denoiser.network.parameters(), lr=1e-3)
    for update in range(updates):
        x, labels = data.batch(update * 256, 256)
        t, noise = torch.rand(len(x)).clamp(min=1e-5), torch.randn(x.shape)
        labels = torch.where(torch.rand(len(x)) < 0.1, denoiser.null_condition(labels), labels)
        _, sigma = denoiser.process.at(t, x)
        error = (denoiser(add_noise(x, noise, t, denoiser.process), t, labels) - x) / sigma
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
    return denoiser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/own"))
    parser.add_argument("--updates", type=int, default=1500, help="of the teacher and of each stage")
    arguments = parser.parse_args()
    data = fewstep.open_data(name="digits")
    changes = {"data.name": "digits", "stage_one.updates": arguments.updates, "stage_two.ladder": [16, 4, 2]}
    changes |= {"stage_two.updates": arguments.updates // 3, "stage_two.last_updates": arguments.updates // 3}
    student = fewstep.distill(taught(data, arguments.updates), data=data, guidance_scale=(1, 4), out=arguments.out, changes=changes)
    for digit, image in enumerate(student.sample(class_labels=range(10), guidance_scale=2.0)):
        image.resize((64, 64), 0).save(arguments.out / f"digit-{digit}.png")
    print(f"ten digits in {student.info.steps} evaluations each: {arguments.out}/digit-0.png to digit-9.png")


if __name__ == "__main__":
    main()
