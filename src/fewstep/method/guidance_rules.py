"""Rules by which a guided teacher combines its two branches: X^w(x, x_null, w, t). The student takes w alone, so any rule costs it one evaluation.

Every rule is no guidance at w = 0. All act on clean estimates, float64 (b, ...); with d = x - x_null, plain guidance is x + w d.
"""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from fewstep.errors import InputError, nearest
from fewstep.method.guidance import Rule, combine, plain
from fewstep.method.process import expand_to


@dataclass(frozen=True)
class Interval:
    """Guidance at times within [low, high] alone: it harms at high noise and does nothing at low noise (2404.07724)."""

    low: float = 0.0
    high: float = 0.8

    def __call__(self, x: Tensor, x_null: Tensor, w: Tensor, t: Tensor) -> Tensor:
        return combine(x, x_null, w * ((t >= self.low) & (t <= self.high)))


@dataclass(frozen=True)
class Rescale:
    """Guided estimates brought back to the spread of the conditional one by a share `phi` (2305.08891, section 3.4).

    The spread is the standard deviation of an example; of `over` "channels" (Qwen-Image) the norm along them, one for each place.
    """

    phi: float = 0.7
    over: str = "example"

    def __call__(self, x: Tensor, x_null: Tensor, w: Tensor, t: Tensor) -> Tensor:
        guided = combine(x, x_null, w)
        if self.over == "channels":
            ratio = x.norm(dim=1, keepdim=True) / guided.norm(dim=1, keepdim=True).clamp(min=1e-12)
        else:
            ratio = expand_to(x.flatten(1).std(1) / guided.flatten(1).std(1).clamp(min=1e-12), x)
        return self.phi * ratio * guided + (1 - self.phi) * guided


@dataclass(frozen=True)
class Projected:
    """d held within a norm (a root mean square an example), its part along x counted `eta` times (APG without momentum, 2410.02416)."""

    eta: float = 0.0
    norm: float = 1.0

    def __call__(self, x: Tensor, x_null: Tensor, w: Tensor, t: Tensor) -> Tensor:
        d = x - x_null
        size = d.flatten(1).square().mean(1).sqrt()
        d = d * expand_to((self.norm / size.clamp(min=1e-12)).clamp(max=1), d)
        along = (d * x).flatten(1).sum(1) / x.flatten(1).square().sum(1).clamp(min=1e-12)
        parallel = expand_to(along, x) * x
        return x + expand_to(w, x) * (d - parallel + self.eta * parallel)


RULES: dict[str, Any] = {"interval": Interval, "rescale": Rescale, "apg": Projected}  # besides "plain"


def rule_of(settings: dict[str, Any]) -> Rule:
    """The rule of a name and its numbers, as fewstep.json has it: {"name": "interval", "low": 0.0, "high": 0.8}; of none, plain guidance.

    Raises:
        InputError: no such rule, one of a user's own, whose code is not here, or a number that it does not have.
    """
    name, numbers = settings.get("name", "plain"), {key: value for key, value in settings.items() if key != "name"}
    if name == "plain" and not numbers:
        return plain
    if name not in RULES:
        raise InputError(f"the guidance rule {name!r} is not known; {nearest(str(name), ['plain', *RULES])}")
    try:
        return RULES[name](**numbers)
    except TypeError:
        known = ", ".join(RULES[name].__dataclass_fields__)
        raise InputError(f"the guidance rule '{name}' is given {', '.join(numbers)}; its numbers are: {known}") from None


def rule_settings(rule: Rule) -> dict[str, Any]:
    """A rule as plain values for JSON: nothing for plain guidance, a name and numbers, or the name alone of a user's own function."""
    if rule is plain:
        return {}
    name = next((name for name, kind in RULES.items() if type(rule) is kind), None)
    return {"name": name, **asdict(rule)} if name else {"name": getattr(rule, "__name__", type(rule).__name__)}  # pyright: ignore[reportArgumentType]
