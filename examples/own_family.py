"""A family from outside the package: a toy network with a pipeline of its own.   python examples/own_family.py runs/toy"""

import sys

import torch
from diffusers import ConfigMixin, DDIMScheduler, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

import fewstep
from fewstep.models.families import FAMILIES
from fewstep.models.families.labelled import Labelled


class ToyNetwork(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, takes_w=False, sample_size=8, out_channels=1, num_class_embeds=11):
        super().__init__()
        self.first, self.label, self.last = nn.Linear(65, 32), nn.Embedding(num_class_embeds, 32), nn.Linear(32, 64)
        self.w = nn.Linear(1, 32, bias=False) if takes_w else None

    def forward(self, z, time, label, w):
        hidden = self.first(torch.cat([z.flatten(1), time.expand(len(z))[:, None] / 1000], 1)) + self.label(label)
        return self.last((hidden if self.w is None else hidden + self.w(w[:, None].to(z))).relu()).view_as(z)


class ToyPipeline(DiffusionPipeline):
    def __init__(self, network, scheduler):
        super().__init__()
        self.register_modules(network=network, scheduler=scheduler)

    def __call__(self, label, latents, num_inference_steps, guidance_scale=1.0, **_):
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            output = self.network(latents, t, label, torch.full((len(latents),), guidance_scale - 1.0))
            latents = self.scheduler.step(output, t, latents).prev_sample
        return (latents,)


class Toy(Labelled):
    name, pipelines, component, stock_takes_w = "toy", ("ToyPipeline",), "network", True
    network_class, pipeline_class = (lambda self: ToyNetwork), (lambda self: ToyPipeline)
    call = staticmethod(lambda network, z, time, condition, w: network(z, time, condition, w))
    stock_arguments = staticmethod(lambda condition, pipeline: {"label": condition})

    def student_of(self, network):
        student = ToyNetwork(takes_w=True).eval()
        student.load_state_dict(network.state_dict() | {"w.weight": torch.zeros(32, 1)})
        return student


if __name__ == "__main__":
    FAMILIES["toy"] = f"{__name__}:Toy"
    ToyPipeline(ToyNetwork(), DDIMScheduler()).save_pretrained(f"{sys.argv[1]}/teacher")
    changes = {"stage_one.updates": 20, "stage_two.updates": 20, "stage_two.last_updates": 20, "train.batch_size": 8}
    student = fewstep.distill(f"{sys.argv[1]}/teacher", fewstep.open_data(name="digits"), out=f"{sys.argv[1]}/run", changes=changes)
    student.sample(class_labels=[3], guidance_scale=2.0)[0].save(f"{sys.argv[1]}/three.png")
