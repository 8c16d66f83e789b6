"""Models that cost nothing to make, for tests of what is done with a model: not trained, with weights that are not zero."""

from dataclasses import replace

import torch
from torch import nn

from conftest import TINY
from fewstep import Model
from fewstep.api import public
from fewstep.data.loading import open_data
from fewstep.method.conditioning import take
from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.process import Cosine, Process, process_settings
from fewstep.models.denoiser import Denoiser
from fewstep.models.families.own import Own
from fewstep.models.model import Info
from fewstep.training.distill import new_teacher, next_student, student_of
from fewstep.training.recipe import load_recipe

LABELS = torch.tensor([3, 1, 4])
X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1


def tiny_teacher(**changes) -> Model:
    """A teacher of 8x8 digits with random weights."""
    model = public(new_teacher(load_recipe(None, TINY | changes), open_data(name="digits")))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.denoiser.network.eval().parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return model


def tiny_student(steps: int, sampler: str = "deterministic", kind: str = "student") -> Model:
    """Its student (or encoder) for some steps, for scales 1 to 5, with an input for w that counts."""
    model = next_student(student_of(load_recipe(None, TINY), tiny_teacher()), steps, sampler, kind)
    with torch.no_grad():
        model.denoiser.network.get_parameter("time_embedding.cond_proj.weight").normal_(generator=torch.Generator().manual_seed(1))
    model.denoiser.network.requires_grad_(False)
    return model


def counted(model: Model) -> tuple[Model, list[int]]:
    """The model, and how many evaluations each of its calls made."""
    calls = []

    def call(network, z, *rest):
        calls.append(len(z))
        return model.denoiser.call(network, z, *rest)

    return replace(model, denoiser=replace(model.denoiser, call=call)), calls


class Exact(nn.Module):
    """A mixture's denoiser as a network that says x: what `Denoiser` calls in place of a trained one."""

    def __init__(self, mixture: Mixture, process: Process) -> None:
        super().__init__()
        self.denoise, self.process = mixture.denoiser(process), process
        self.dtype = nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False)

    def forward(self, z, time, condition, w=None):
        return self.denoise(z, (time.double() + 1) / self.process.train_timesteps, condition, w)


def exact_teacher(mixture: Mixture, size: int, process: Process | None = None) -> Model:
    """The teacher of a mixture in closed form, as pictures of one channel and `size` pixels a side."""
    process = process or Cosine()
    denoiser = Denoiser(Exact(mixture, process), "x", process, mixture.classes)
    classes = tuple(str(label) for label in range(mixture.classes))
    known = {"process": process_settings(process), "classes": classes, "size": size, "channels": 1}
    return Model(denoiser, Info(kind="teacher", family="own", prediction="x", **known), Own(denoiser.network))


CHANGES = {k: v for k, v in TINY.items() if not k.startswith("network")}
CHANGES |= {"stage_one.updates": 3, "stage_two.ladder": [4, 2], "stage_two.updates": 3, "stage_two.last_updates": 3}


class InMemory:
    """Random latents with the conditions of a model's example, of which any slice can be asked for."""

    def __init__(self, model, n=16):
        info = model.info
        self.x = torch.randn(n, *info.shape, generator=torch.Generator().manual_seed(5))
        self.condition = model.example(n)

    def batch(self, start, count):
        index = torch.arange(start, start + count) % len(self.x)
        return self.x[index], take(self.condition, index)


def awake(student):
    """The same student, or network of one, its inputs for w doing something."""
    network = getattr(getattr(student, "denoiser", None), "network", student)
    ends = ("time_embedding.cond_proj.weight", "w_embedding.weight", "guidance_embedder.linear_2.weight")
    weights = [p for name, p in network.named_parameters() if name.endswith(ends)]
    assert weights
    for weight in weights:
        torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(3))
    return student


def watched_parts(monkeypatch):
    """A list that gets a weak reference to each stock pipeline (text encoders, VAE) that a family of diffusers hands out from now on."""
    import weakref

    from fewstep.models.families.diffusers_family import DiffusersFamily

    real, handed_out = DiffusersFamily.parts, []

    def parts(self, *names):
        pipeline = real(self, *names)
        handed_out.append(weakref.ref(pipeline))
        return pipeline

    monkeypatch.setattr(DiffusersFamily, "parts", parts)
    return handed_out


class Made(dict):
    """What is made of a name when it is asked for."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def __missing__(self, name):
        torch.set_num_threads(1)
        self[name] = self.make(name)
        return self[name]
