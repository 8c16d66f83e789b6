"""Both stages end to end on data whose truth is known: a small network, distilled from the exact guided teacher, against the flow.

Stated error: the mean distance to where the teacher's probability flow takes the same noise, over w in [0, 3], on a
ring of radius 1: below 0.06 in 4 steps and below 0.12 in 1, where the teacher itself is 0.2 and 1.2 off.
"""

import torch
from torch import Tensor, nn

from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.guidance import draw_w, embed_w, guided
from fewstep.method.parameterization import V
from fewstep.method.process import Cosine, add_noise
from fewstep.method.samplers import deterministic
from fewstep.method.stage_one import balance, guided_target, truncated_snr, weighted_error
from fewstep.method.stage_two import collapsed_target, draw_index, forward_path, rungs

PROCESS = Cosine()
RING = Mixture.ring(components=4, classes=2, std=0.3)
GUIDANCE_SCALE = (1.0, 4.0)
BATCH = 192


class Student(nn.Module):
    """X(z, t, condition, w) through a float32 network that says v; w enters by a layer that starts at zero."""

    def __init__(self, width: int = 128):
        super().__init__()
        self.of_z, self.of_label, self.of_w = nn.Linear(2 + 6, width), nn.Embedding(3, width), nn.Linear(64, width, bias=False)
        nn.init.zeros_(self.of_w.weight)
        self.body = nn.Sequential(
            nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )

    def forward(self, z: Tensor, t: Tensor, condition: Tensor, w: Tensor) -> Tensor:
        alpha, sigma = PROCESS.at(t, z)
        angles = t.double()[:, None] * torch.tensor([1, 2, 4]) * torch.pi / 2
        seen = torch.cat([z, angles.cos(), angles.sin()], dim=1).float()
        v = self.body(self.of_z(seen) + self.of_label(condition) + self.of_w(embed_w(w, 64)))
        return V.to_x(v, z, alpha, sigma)


def train(student, example, updates: int, generator: torch.Generator, lr: float) -> None:
    """Adam at a rate that falls to zero, on batches (z, t, labels, w, target) of `example`."""
    optimiser = torch.optim.Adam(student.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for _ in range(updates):
        z, t, labels, w, target = example(generator)
        loss = (balance(w, 2) * weighted_error(student(z, t, labels, w), target, t, PROCESS, truncated_snr)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def drawn(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(x, labels, eps, w, uniform) of one batch."""
    x, labels = RING.sample(BATCH, generator)
    w = draw_w(torch.rand(BATCH, generator=generator), GUIDANCE_SCALE)
    return x, labels, torch.randn(BATCH, 2, dtype=torch.float64, generator=generator), w, torch.rand(BATCH, generator=generator)


def stage_one(updates: int, generator: torch.Generator) -> Student:
    student, teacher = Student(), guided(RING.denoiser(PROCESS), RING.null)

    def example(generator):
        x, labels, eps, w, t = drawn(generator)
        z = add_noise(x, eps, t, PROCESS)
        return z, t, labels, w, guided_target(teacher, z, t, labels, w)

    train(student, example, updates, generator, lr=4e-3)
    return student


def stage_two(teacher: Student, steps: int, k: int, updates: int, generator: torch.Generator) -> Student:
    student = Student()
    student.load_state_dict(teacher.state_dict())

    def example(generator):
        x, labels, eps, w, uniform = drawn(generator)
        path = forward_path(draw_index(uniform, steps), steps, k)
        z = add_noise(x, eps, path[0], PROCESS)
        return z, path[0], labels, w, collapsed_target(teacher, z, path, labels, w, PROCESS)

    train(student, example, updates, generator, lr=2e-3)
    return student


def distance(denoiser, steps: int) -> float:
    """Mean distance of samples to where the guided teacher's flow takes the same noise."""
    n = 500
    z = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels, w = torch.arange(n) % 2, torch.linspace(0, 3, n)
    truth = RING.flow(z, torch.ones(n), torch.zeros(n), labels, w, PROCESS)
    with torch.no_grad():
        return float((deterministic(denoiser, z, steps, labels, w, PROCESS) - truth).norm(dim=1).mean())


def test_a_distilled_student_reaches_the_teachers_solution_in_four_steps_and_in_one():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    student, students = stage_one(750, generator), {}
    for steps, k in rungs([64, 4, 1]):
        student = students[steps] = stage_two(student, steps, k, 300, generator)
    assert distance(RING.denoiser(PROCESS), 4) > 0.2  # the teacher itself in 4 steps, 8 evaluations: measured 0.216
    assert distance(RING.denoiser(PROCESS), 1) > 1  # and in 1: measured 1.17
    assert distance(students[4], 4) < 0.06  # measured 0.048
    assert distance(students[1], 1) < 0.12  # measured 0.093
