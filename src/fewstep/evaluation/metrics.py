"""Measures of samples, as pure functions of features, logits and images: how near to the data, how varied, how sharp."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fewstep.errors import InputError
from fewstep.evaluation.statistics import Statistics


def frechet_distance(one: Statistics, other: Statistics) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)): the squared 2-Wasserstein distance of two Gaussians (1706.08500, eq. 6).

    From eigenvalues of a symmetric product, so that a singular covariance needs no care.
    """
    values, vectors = torch.linalg.eigh(one.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0).sqrt().sum()
    shift = (one.mean - other.mean).square().sum()
    return float(shift + one.covariance.trace() + other.covariance.trace() - 2 * mixed)


def inception_score(probabilities: Tensor, entropy: float, count: int) -> float:
    """The Inception Score, 1 to k: exp of the mean KL divergence of a sample's classes from all samples' (1606.03498).

    From sums over `count` samples at once, in one split: of class probabilities (k,) and of their entropies. Published scores are
    often the mean over 10 splits, which is a little lower.
    """
    return float((torch.special.entr(probabilities / count).sum() - entropy / count).exp())


def kid(features: Tensor, reference: Tensor, subsets: int = 50, subset_size: int = 1000, seed: int = 0) -> float:
    """Kernel Inception distance: the unbiased squared MMD of features (n, d) from reference (m, d), about zero for equal ones.

    The kernel is (x . y / d + 1)^3; the mean over random subsets, one where a subset holds all (1801.01401, section 4).

    Raises:
        InputError: fewer than two rows in a subset.
    """
    size = min(subset_size, len(features), len(reference))
    if size < 2:
        raise InputError(f"KID of subsets of {size} is not defined; at least 2 samples and 2 references are needed")
    subsets = 1 if size == len(features) == len(reference) else subsets
    generator, total = torch.Generator().manual_seed(seed), 0.0
    for _ in range(subsets):
        x, y = (f[torch.randperm(len(f), generator=generator)[:size]].double() for f in (features, reference))
        kernels = ((s @ s.T / s.shape[1] + 1) ** 3 for s in (x, y))
        within = sum(float(k.sum() - k.trace()) for k in kernels) / (size * (size - 1))
        total += within - 2 * float((x @ y.T / x.shape[1] + 1).pow(3).mean())
    return total / subsets


def mind(features: Tensor, reference: Tensor, projections: int = 1000, seed: int = 0) -> float:
    """Monge Inception distance: 3 d times the squared 2-Wasserstein distance of features (n, d) and reference (m, d) along random directions.

    The mean over `projections` unit vectors of the mean square between the sorted projections, of min(n, m) rows of each, the larger
    set's drawn by the seed (2605.06797, there of Inception's features). Means |m| apart count 3 |m|^2, in a Fréchet distance |m|^2.

    Raises:
        InputError: no rows.
    """
    if not (size := min(len(features), len(reference))):
        raise InputError(
            f"MIND of {len(features)} samples and {len(reference)} references is not defined; at least 1 of each is needed"
        )
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(features.shape[1], projections, generator=generator, dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    x, y = (f if len(f) == size else f[torch.randperm(len(f), generator=generator)[:size]] for f in (features, reference))
    total = 0.0
    for part in directions.split(100, dim=1):  # all at once would be 80 MB of 10,000 rows
        along = ((rows.double() @ part).sort(dim=0).values for rows in (x, y))
        total += float((next(along) - next(along)).square().mean(0).sum())
    return 3 * features.shape[1] * total / projections


def precision_recall(features: Tensor, reference: Tensor, k: int = 3, rows: int = 1024) -> tuple[float, float]:
    """(precision, recall): the share of features (n, d) within the reference's manifold (m, d), and of the reference within theirs.

    A manifold is the balls around its points that reach to their k-th neighbour (1904.06991, eq. 1). Of `rows` distances at a time.

    Raises:
        InputError: no more than k samples or references.
    """
    n, m = len(features), len(reference)
    if min(n, m) <= k:
        raise InputError(
            f"precision and recall by {k} neighbours need at least {k + 1} samples and references; there are {n} and {m}"
        )

    def covered(x: Tensor, centres: Tensor) -> float:
        """Share of x (n, d) in a ball around one of the centres (m, d), whose nearest neighbour of all is the centre itself."""
        radii = torch.cat([torch.cdist(part, centres).topk(k + 1, largest=False).values[:, -1] for part in centres.split(rows)])
        return sum(int((torch.cdist(part, centres) <= radii).any(1).sum()) for part in x.split(rows)) / len(x)

    x, y = features.double(), reference.double()
    return covered(x, y), covered(y, x)


def diversity(features: Tensor, labels: Tensor) -> float | None:
    """Root-mean-square distance of two features (n, d) of one label (n,); None where no label is there twice.

    From sums: it is twice the pooled variance within a label, so that no pair is looked at.
    """
    _, index = labels.unique(return_inverse=True)
    counts = index.bincount().double()
    if len(features) == len(counts):
        return None
    x = features.double()
    means = torch.zeros(len(counts), x.shape[1], dtype=torch.float64).index_add_(0, index, x) / counts[:, None]
    return math.sqrt(2 * float((x - means[index]).square().sum()) / (len(x) - len(counts)))


def sharpness(images: Tensor) -> Tensor:
    """Mean absolute Laplacian of the grey values of images (n, c, h, w), clipped to [-1, 1]: float64 (n,), 0 to 8."""
    grey = functional.pad(images.double().clamp(-1, 1).mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    middle = grey[..., 1:-1, 1:-1]
    around = grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1] + grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:]
    return (around - 4 * middle).abs().mean((1, 2, 3))


def saturation(images: Tensor) -> Tensor:
    """Strength of colour of images (n, c, h, w), clipped to [-1, 1]: float64 (n,).

    Colour (c = 3): the mean chroma, the largest less the smallest channel of a pixel, 0 to 2. Otherwise contrast, the standard
    deviation of the values of an image, 0 to 1: both grow where guidance pushes values to their ends.
    """
    x = images.double().clamp(-1, 1)
    if x.shape[1] == 3:
        return (x.amax(1) - x.amin(1)).mean((1, 2))
    return x.flatten(1).std(1, correction=0)


def rms(samples: Tensor, reference: Tensor) -> float:
    """Root-mean-square distance of samples (n, c, h, w) from a reference from the same noise, in units of [-1, 1]."""
    return float((samples.double() - reference.double()).square().mean().sqrt())


def psnr(samples: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels, of the mean square over all images (n, c, h, w) in [-1, 1]; infinite for equal ones."""
    distance = rms(samples.clamp(-1, 1), reference.clamp(-1, 1))
    return 20 * math.log10(2 / distance) if distance else math.inf


def bootstrap(statistic: Callable[[Tensor], float], features: Tensor, repeats: int = 200, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval (low, high) of `statistic(features)` from repeats that draw the rows (n, ...) anew, with replacement.

    It is the spread about the statistic itself, at this number of samples: drawing rows twice shifts all repeats of a Fréchet
    distance up, and that shift is taken out.

    Raises:
        InputError: fewer than two repeats.
    """
    if repeats < 2:
        raise InputError(f"a bootstrap of {repeats} repeats has no interval; at least 2 are needed, 200 are usual")
    generator, n = torch.Generator().manual_seed(seed), len(features)
    drawn = [statistic(features[torch.randint(n, (n,), generator=generator)]) for _ in range(repeats)]
    values, ends = torch.tensor(drawn, dtype=torch.float64), torch.tensor([(1 - 0.95) / 2, 0.975], dtype=torch.float64)
    low, high = (values - values.mean()).quantile(ends).tolist()
    value = statistic(features)
    return value + low, value + high
