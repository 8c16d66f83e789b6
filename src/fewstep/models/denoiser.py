"""A network, what it predicts and its noise process, together: the clean estimate X(z, t, c, w). The edge between dtypes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import InputError, shown
from fewstep.method.conditioning import Condition, cast, expand
from fewstep.method.guidance import DenoiserFn, Rule, guided, plain
from fewstep.method.parameterization import Prediction, prediction_of
from fewstep.method.process import Cosine, DiscreteBetas, Process, RectifiedFlow, to_float64
from fewstep.models.half_weights import HALF, InFloat32

Null = int | Condition | Callable[[], Condition] | None
Call = Callable[[nn.Module, Tensor, Tensor, Any, Tensor | None], Tensor]  # (network, z, time, condition, w) -> output


def plain_call(network: nn.Module, z: Tensor, time: Tensor, condition: Any, w: Tensor | None) -> Tensor:
    """network(z, time, condition) without a weight, network(z, time, condition, w) with one: a network of one's own."""
    return network(z, time, condition) if w is None else network(z, time, condition, w)


@torch.no_grad()
def check_finite(network: nn.Module, name: str) -> None:
    """Raises InputError where a weight is not finite: what such a network draws is black."""
    for key, weight in network.state_dict().items():
        if weight.is_floating_point() and weight.numel() and weight.device.type != "meta":
            low, high = weight.aminmax()
            if not (low.isfinite() and high.isfinite()):
                raise InputError(
                    f"{name}: {key} has numbers that are not finite (NaN or infinite); copy it again, or name another model"
                )


@dataclass(frozen=True)
class Denoiser:
    """X(z, t, condition, w): the clean estimate, float64 (b, ...), from z (b, ...), t (b,), a condition and w (b,) or None.

    The condition is labels (b,) or a tree of tensors (b, ...). `network` is called through `call` in its own dtype, all else is
    float64. `prediction` is "v", "x", "eps" or "flow"; `null` is the condition that stands for none: a label, a tree of batch 1,
    or a function that gives it when first needed; None where the network cannot be guided.

    Raises:
        InputError: an argument is of another kind; the prediction is not known, or is not one of this process: "v" and "eps" need alpha^2 + sigma^2 = 1, "flow" needs
            alpha + sigma = 1; "x" goes with all.
    """

    network: nn.Module
    prediction: Prediction | str = "v"
    process: Process = field(default_factory=Cosine)
    null: Null = None
    call: Call = plain_call
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    dtype: torch.dtype | None = None  # float32: what weights in half precision are computed with in; None: each in its own
    rule: Rule = plain  # how a teacher's two branches combine
    weak: "Denoiser | None" = None  # a weaker model of the same data in the place of the null branch (autoguidance)

    def __post_init__(self) -> None:
        for name, fits, remedy in (
            ("network", isinstance(self.network, nn.Module), "a torch.nn.Module"),
            ("prediction", isinstance(self.prediction, str | Prediction), "'v', 'x', 'eps' or 'flow'"),
            ("process", isinstance(getattr(self.process, "train_timesteps", None), int), "a process, as fewstep.Cosine()"),
            (
                "null",
                self.null is None or isinstance(self.null, int | Tensor | dict) or callable(self.null),
                "a label or a condition",
            ),
            ("call", callable(self.call), "a function"),
        ):
            if not fits or isinstance(getattr(self, name), type):
                raise InputError(f"{name} is {shown(getattr(self, name))}; give {remedy}")
        if isinstance(self.prediction, str):
            object.__setattr__(self, "prediction", prediction_of(self.prediction))
        name, process = self.predicts.name, type(self.process)
        known = "'flow' or 'x'" if issubclass(process, RectifiedFlow) else "'v', 'eps' or 'x'"
        if issubclass(process, Cosine | DiscreteBetas | RectifiedFlow) and f"'{name}'" not in known:
            raise InputError(
                f"prediction '{name}' does not go with the process {process.__name__}; give {known}, or another process"
            )

    def __call__(self, z: Tensor, t: Tensor, condition: Any, w: Tensor | None = None) -> Tensor:
        own = next(self.network.parameters()).dtype
        dtype, wide = self.dtype or own, nullcontext()
        if own in HALF and dtype == torch.float32:
            wide = InFloat32(keep_half=not getattr(self.network, "is_gradient_checkpointing", False))
        with self.autocast(), wide:
            w = None if w is None else w.to(torch.promote_types(dtype, torch.float32))  # half precision is too coarse for it
            output = self.call(self.network, z.to(dtype), self.process.network_time(t), cast(condition, dtype), w)
        alpha, sigma = self.process.at(t, z)
        return self.predicts.to_x(to_float64(output), to_float64(z), alpha, sigma)

    @property
    def predicts(self) -> Prediction:
        """What the network predicts."""
        assert isinstance(self.prediction, Prediction)  # made so by __post_init__
        return self.prediction

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def null_condition(self, condition: Condition) -> Condition:
        """The null condition, shaped as `condition` (b, ...).

        Raises:
            InputError: the network has no null condition.
        """
        if self.null is None:
            raise InputError("this teacher has no null condition (null = None), so it cannot be guided; name its null label")
        return expand(self.null() if callable(self.null) else self.null, condition)

    def guided(self, process: Process | None = None, null: Callable[[Any], Condition] | None = None) -> DenoiserFn:
        """The guided teacher X^w, both branches in one batched evaluation; at the times of `process` where one is given.

        `null(condition)` takes the place of the teacher's own null condition. Of two processes that keep the variance the z of equal
        signal-to-noise ratio are the same: only the time is translated.
        """
        estimate, own = guided(self, null or self.null_condition, self.rule, self.weak), self.process
        if process is None or process == own:
            return estimate
        assert isinstance(own, DiscreteBetas)

        def translated(z: Tensor, t: Tensor, condition: Condition, w: Tensor | None) -> Tensor:
            return estimate(z, own.time_of(*process.at(t, t)), condition, w)

        return translated
