"""The picture of the 2-D mixture: the teacher's trajectories, and the jumps of its students from the same noise."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import Model
from fewstep.method.gaussian_mixture import Mixture
from fewstep.method.guidance import weight_of
from fewstep.method.process import Cosine, ddim_step, time_grid

PROCESS = Cosine()
INK, TEACHER, FOUR, ONE = "#1b2330", "#9aa5b4", "#d1495b", "#1f6fb2"
CLASS, OTHERS = "#f4a259", "#b9c6d6"
WIDE, HIGH = 2.9, 2.15  # reach of the axes
EXAMPLES = 9


@torch.no_grad()
def path_of(estimate: Any, z: Tensor, steps: int, labels: Tensor, w: Tensor) -> Tensor:
    """Where DDIM is after each of its steps, (steps + 1, n, 2)."""
    points, times = [z.double()], time_grid(steps)
    for t, s in zip(times[:-1], times[1:], strict=True):
        t, s = t.expand(len(z)), s.expand(len(z))
        points.append(ddim_step(points[-1], estimate(points[-1], t, labels, w), t, s, PROCESS))
    return torch.stack(points).flatten(2)


def noise_of(n: int, seed: int = 5) -> Tensor:
    """Noise (n, 2, 1, 1) that is well spread: each point the one of many farthest from those before."""
    many = torch.randn(200, 2, generator=torch.Generator().manual_seed(seed))
    many = many[many.norm(dim=1) < 2.3]
    chosen = many[:1]
    while len(chosen) < n:
        chosen = torch.cat([chosen, many[torch.cdist(many, chosen).amin(1).argmax()][None]])
    return chosen[:, :, None, None].double()


def density(mixture: Mixture, of: Tensor, cells: int = 240) -> Tensor:
    """The density of the components `of` (K,) on a grid over the axes, 1 at its highest."""
    x, y = (torch.linspace(-reach, reach, cells, dtype=torch.float64) for reach in (WIDE, HIGH))
    at = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    away = (at[:, :, None] - mixture.means[of]).square().sum(-1)
    shade = (mixture.weights[of] * (-away / (2 * mixture.stds[of] ** 2)).exp() / mixture.stds[of] ** 2).sum(-1)
    return shade / shade.max()


def draw(mixture: Mixture, students: dict[int, Model], path: Path, scales: tuple[float, ...] = (1.0, 2.0, 5.0)) -> None:
    """Write the picture, a panel for each guidance scale: samples of the first class, whose density stands out from the others'."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(scales), figsize=(12, 3.75), dpi=100, squeeze=False)
    for panel, scale in zip(panels[0], scales, strict=True):
        panel_of(panel, mixture, students, scale)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="lower center", ncols=len(names), frameon=False, fontsize=11, labelcolor=INK, columnspacing=1.5
    )
    figure.subplots_adjust(left=0.005, right=0.995, top=0.91, bottom=0.11, wspace=0.02)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def panel_of(panel: Any, mixture: Mixture, students: dict[int, Model], scale: float, label: int = 0) -> None:
    """One guidance scale: curves of the true solution, jumps of the 4-step and of the 1-step student."""
    z = noise_of(EXAMPLES)
    labels, w = torch.full((len(z),), label), torch.full((len(z),), weight_of(scale))
    curve = path_of(mixture.denoiser(PROCESS), z, 1024, labels, w)
    four, one = (path_of(students[steps].denoiser, z, steps, labels, w) for steps in (4, 1))
    for of, colour in ((mixture.labels != label, OTHERS), (mixture.labels == label, CLASS)):
        paint(panel, density(mixture, of), colour)
    styles = (
        (curve, "teacher, 1024 guided steps", {"color": TEACHER, "lw": 2.6, "alpha": 0.75, "zorder": 2}),
        (one, None, {"color": ONE, "lw": 0.9, "alpha": 0.45, "zorder": 3}),
        (four, "student, 4 evaluations", {"color": FOUR, "lw": 1.1, "marker": "o", "ms": 3.4, "zorder": 4}),
    )
    for path, name, style in styles:
        panel.plot(path[:, :1, 0], path[:, :1, 1], label=name, **style)
        panel.plot(path[:, 1:, 0], path[:, 1:, 1], **style)
    panel.scatter(*one[-1].T, s=46, marker="x", color=ONE, lw=1.9, zorder=6, label="student, 1 evaluation")
    panel.scatter(*z.flatten(1).T, s=24, facecolor="white", edgecolor=INK, lw=1.1, zorder=5, label="noise")
    panel.scatter(*curve[-1].T, s=78, facecolor="none", edgecolor=INK, lw=1.2, zorder=5, label="where the teacher lands")
    panel.set(xlim=(-WIDE, WIDE), ylim=(-HIGH, HIGH), xticks=[], yticks=[], aspect="equal")
    panel.set_title(f"guidance scale {scale:g}", fontsize=13, color=INK, pad=7)
    for spine in panel.spines.values():
        spine.set_color("#c4ccd6")


def paint(panel: Any, shade: Tensor, colour: str) -> None:
    """Lay a colour over the panel, as strong as `shade` (n, n) in [0, 1]."""
    from matplotlib.colors import to_rgb

    layer = torch.cat([torch.tensor(to_rgb(colour)).double().expand(*shade.shape, 3), shade[..., None]], -1)
    panel.imshow(layer.numpy(), extent=(-WIDE, WIDE, -HIGH, HIGH), origin="lower", interpolation="bilinear", zorder=1)
