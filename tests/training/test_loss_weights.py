"""The weight of the loss suits what the network predicts: bounded by default, a warning where it is not, and where few examples make the loss."""

import warnings
from contextlib import closing

import pytest
import torch
from torch import Tensor, nn

from conftest import TINY
from fewstep.data.loading import open_data
from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.guidance import embed_w
from fewstep.method.parameterization import PREDICTIONS
from fewstep.method.process import Cosine, RectifiedFlow, log_snr, process_settings
from fewstep.method.samplers import deterministic
from fewstep.method.stage_one import min_snr, snr_plus_one, truncated_snr
from fewstep.models.denoiser import Denoiser
from fewstep.models.families.own import Own
from fewstep.models.metadata import Info
from fewstep.models.model import Model
from fewstep.training.distill import new_teacher
from fewstep.training.draws import Draws
from fewstep.training.losses import stage_one, teaching, weighting_of
from fewstep.training.recipe import load_recipe
from fewstep.training.trainer import Trainer
from processes import PROCESSES, STABLE_DIFFUSION, every_process

SECTIONS = ["teach", "stage_one", "stage_two", "paths"]
FLOW, RING = RectifiedFlow(), Mixture.ring(components=4, classes=2, std=0.3)
TIMES = torch.linspace(1e-5, 1, 999).double()


@every_process
@pytest.mark.parametrize("section", SECTIONS)
def test_by_default_the_weight_of_x_is_bounded_and_that_of_other_predictions_stays(process, section):
    weighting = weighting_of(load_recipe(), section, PREDICTIONS["x"], process)
    at_times = weighting(log_snr(TIMES, process))
    assert float(at_times.max()) <= 5 and float(at_times.min()) >= 0.999
    usual = truncated_snr if section == "stage_two" else snr_plus_one
    other = PREDICTIONS["flow" if isinstance(process, RectifiedFlow) else "v"]
    assert weighting_of(load_recipe(), section, other, process) is usual


def test_the_bound_is_that_of_the_recipe_and_pure_noise_counts():
    recipe = load_recipe(None, {"stage_two.weighting": "min_snr", "stage_two.min_snr_gamma": 2.5})
    weighting = weighting_of(recipe, "stage_two", PREDICTIONS["v"], Cosine())
    assert weighting(torch.tensor([-torch.inf, 0.0, 40.0])).tolist() == [1, 2, 2.5]
    torch.testing.assert_close(min_snr(torch.tensor([-2.0, 0.5])), snr_plus_one(torch.tensor([-2.0, 0.5])))


@pytest.mark.parametrize(
    ("name", "prediction", "process", "remedy"),
    [
        ("snr_plus_one", "x", FLOW, "min_snr"), ("truncated_snr", "x", Cosine(), "min_snr"), ("snr", "x", FLOW, "min_snr"),
        ("snr_plus_one", "eps", Cosine(), "snr"), ("min_snr", "x", FLOW, None), ("snr", "eps", Cosine(), None),
        ("snr_plus_one", "eps", STABLE_DIFFUSION, None), *(("snr_plus_one", "v", process, None) for process in PROCESSES[:2]),
        ("truncated_snr", "flow", FLOW, None),
    ],
)  # fmt: skip
def test_a_weight_without_a_bound_is_a_warning_with_a_remedy(name, prediction, process, remedy):
    recipe = load_recipe(None, {"stage_one.weighting": name})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        weighting_of(recipe, "stage_one", PREDICTIONS[prediction], process)
    assert len(said) == (remedy is not None)
    if remedy:
        assert f"stage_one.weighting = '{name}'" in str(said[0].message) and f"set it to '{remedy}'" in str(said[0].message)


@pytest.mark.parametrize(("weighting", "dominated"), [pytest.param("auto", False, marks=pytest.mark.slow), ("snr_plus_one", True)])
def test_a_loss_that_few_examples_make_is_a_warning_after_a_hundred_updates(tmp_path, weighting, dominated):
    changes = TINY | {"teach.updates": 101, "teach.prediction": "x", "teach.weighting": weighting, "train.batch_size": 32}
    data, recipe = open_data(name="digits"), load_recipe(None, changes)
    model = new_teacher(recipe, data)
    with (
        closing(Trainer(tmp_path / "run", data, recipe.train, "cpu", quiet=True)) as trainer,
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        trainer.train(teaching(recipe, model.denoiser), model.denoiser)
    assert ["of their 3200 examples" in str(warning.message) for warning in said] == [False, True][: 2 * dominated]


class Exact(nn.Module):
    """The mixture's own estimate of x, as a network that predicts x: nothing to train."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        return RING.denoiser(FLOW)(z, time.double() / FLOW.train_timesteps, labels, None).to(z)


class Student(nn.Module):
    """A small network that predicts x; w enters by a layer that starts at zero."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.of_z, self.of_label, self.of_w = nn.Linear(2 + 6, width), nn.Embedding(3, width), nn.Linear(64, width, bias=False)
        nn.init.zeros_(self.of_w.weight)
        self.body = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, z: Tensor, time: Tensor, labels: Tensor, w: Tensor) -> Tensor:
        angles = time[:, None] / FLOW.train_timesteps * torch.tensor([1, 2, 4]) * torch.pi / 2
        seen = torch.cat([z, angles.cos(), angles.sin()], dim=1).float()
        return self.body(self.of_z(seen) + self.of_label(labels) + self.of_w(embed_w(w, 64).float()))


def test_a_network_that_predicts_x_of_a_flow_learns_the_guidance_scale():
    """Issue: with SNR + 1, up to 1e10 at the earliest times, such a student drew the same at every scale."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    recipe = load_recipe(None, {"student.prediction": "same", "student.guidance_scale": [1, 4]})
    known = {"process": process_settings(FLOW), "classes": ("a", "b"), "size": 1, "channels": 2}
    info = Info(kind="teacher", family="own", prediction="x", **known)
    teacher = Model(Denoiser(Exact(), "x", FLOW, null=2), info, Own())
    stage, student = stage_one(recipe, teacher), Denoiser(Student(), "x", FLOW)
    optimiser, losses = torch.optim.Adam(student.network.parameters(), lr=4e-3), []

    z = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(400) % 2

    def drawn(denoiser, weight, steps=8):
        with torch.no_grad():
            return deterministic(denoiser, z, steps, labels, torch.full((400,), weight), FLOW)

    def error():
        return sum(float((drawn(student, w) - drawn(teacher.denoiser.guided(), w)).norm(dim=1).mean()) for w in (0.0, 3.0))

    before = error()
    for update in range(800):
        x, condition = RING.sample(128, generator)
        batch = stage.draw(Draws(0, stage.name, 128 * update, 128)) | {"x": x, "condition": condition}
        loss = stage.error(student, batch | {"noise": torch.randn(128, 2, dtype=torch.float64, generator=generator)}).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    apart, true = (float((drawn(d, 3.0) - drawn(d, 0.0)).norm(dim=1).mean()) for d in (student, teacher.denoiser.guided()))
    assert max(losses) < 20 and sum(losses[-50:]) < sum(losses[:50]) / 2
    assert error() < before / 4  # measured 2.2 and 0.32
    assert 0.6 * true < apart < 1.5 * true  # measured 1.2
