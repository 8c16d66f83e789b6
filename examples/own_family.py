"""A family from outside the package: a toy network with a pipeline of its own.   python examples/own_family.py runs/toy"""

import sys

import torch
from diffusers import ConfigMixin, DDIMScheduler, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

import fewstep
from fewstep.families import FAMILIES
from fewstep.families.stock import Stock


class ToyNetwork(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, takes_w=False, sample_size=8, out_channels=1, labels=11):
        super().__init__()
        self.first, self.last, self.label, self.time = nn.Linear(64, 32), nn.Linear(32, 64), nn.Embedding(labels, 32), nn.Linear(1, 32)
        self.w = nn.Linear(1, 32, bias=False) if takes_w else None

    def forward(self, z, time, label, w=None):
        hidden = self.first(z.flatten(1)) + self.label(label) + self.time(time.expand(len(z))[:, None] / 1000)
        return self.last((hidden if self.w is None else hidden + self.w(w[:, None].to(z))).relu()).view_as(z)


class ToyPipeline(DiffusionPipeline):
    def __init__(self, network, scheduler):
        super().__init__()
        self.register_modules(network=network, scheduler=scheduler)

    def __call__(self, label, latents, num_inference_steps, guidance_scale=1.0, **_):
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            out = self.network(latents, t, label, torch.full((len(latents),), guidance_scale - 1.0))
            latents = self.scheduler.step(out, t, latents).prev_sample
        return (latents,)


class Toy(Stock):
    name, pipelines, component, condition = "toy", ("ToyPipeline",), "network", "class"
    network_class, pipeline_class = (lambda self: ToyNetwork), (lambda self: ToyPipeline)
    classes = lambda self, folder, config: tuple("0123456789")  # noqa: E731
    null = lambda self, info, prompt="": 10  # noqa: E731
    example = lambda self, network, info, n: torch.arange(n) % 10  # noqa: E731
    call = lambda self, network, z, time, condition, w: network(z, time, condition, w)  # noqa: E731
    stock_arguments = lambda self, condition, pipeline: {"label": condition}  # noqa: E731

    def student_of(self, network):
        student = ToyNetwork(takes_w=True).eval()
        student.load_state_dict(network.state_dict() | {"w.weight": torch.zeros(32, 1)})
        return student

    def bake(self, network, guidance_scale):
        weights = dict(network.state_dict())
        weights["first.bias"] = weights["first.bias"] + weights.pop("w.weight")[:, 0] * (guidance_scale - 1)
        plain = ToyNetwork().eval()
        plain.load_state_dict(weights)
        return plain


if __name__ == "__main__":
    FAMILIES["toy"] = f"{__name__}:Toy"
    ToyPipeline(ToyNetwork(), DDIMScheduler()).save_pretrained(f"{sys.argv[1]}/teacher")
    changes = {"stage_one.updates": 20, "stage_two.updates": 20, "stage_two.last_updates": 20, "train.batch_size": 8}
    student = fewstep.distill(f"{sys.argv[1]}/teacher", fewstep.open_data(name="digits"), out=f"{sys.argv[1]}/run", changes=changes)
    print(student.bake(2.0).save(f"{sys.argv[1]}/baked"))
