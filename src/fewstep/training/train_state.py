"""What changes while a stage is trained: weights, their average, the optimiser, and counters, all kept on the device."""

import math
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fewstep import compat
from fewstep.training.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from fewstep.training.settings import TrainSettings


class Schedule(Protocol):
    """What a state must know of its stage."""

    @property
    def name(self) -> str:
        """Its folder."""
        ...

    @property
    def updates(self) -> int:
        """How many there are."""
        ...

    @property
    def learning_rate(self) -> float:
        """The highest."""
        ...

    @property
    def schedule(self) -> str:
        """ "constant", "linear" or "cosine"."""
        ...


def learning_rate_factor(schedule: str, update: int, updates: int, warmup: int) -> float:
    """Factor of the learning rate at `update` (0-based): a linear warm-up, then constant, or to zero linearly or by a cosine."""
    rise = min(1.0, (update + 1) / warmup) if warmup else 1.0
    progress = update / max(updates, 1)
    fall = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[schedule]
    return rise * fall


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes: all, or of a LoRA student its adapters and its layer for w."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


class Ema:
    """Exponential moving average of a network's trained parameters, with a decay that grows to `decay` as the average fills."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = [p.detach().clone() for p in trained(network).values()]

    @torch.no_grad()
    def update(self, network: nn.Module, update: int) -> None:
        """Take in the parameters after `update` (0-based); one fused call, nothing waits on the device."""
        decay = min(self.decay, (1 + update) / (10 + update))
        compat.lerp_all(self.average, list(trained(network).values()), 1 - decay)

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        """Put the average into the network."""
        compat.copy_all(list(trained(network).values()), self.average)


class State:
    """All that changes while a stage is trained."""

    def __init__(self, stage: "Schedule", network: nn.Module, settings: TrainSettings, accelerator: Accelerator) -> None:
        self.stage, self.network, self.settings, self.accelerator = stage, network, settings, accelerator
        self.names = list(trained(network))
        self.update, self.skipped, self.streak, self.rate, self.loss = 0, 0, 0, 0.0, float("nan")
        self.ema = Ema(network, settings.ema)
        optimizer = torch.optim.AdamW(
            trained(network).values(), lr=stage.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True
        )
        compiled: Any = torch.compile(network) if settings.compile else network
        self.wrapped, prepared = accelerator.prepare(compiled, optimizer)
        self.prepared, self.optimizer = prepared, optimizer
        device = accelerator.device
        # on the device, read at each log: [sum of losses, updates in it, bad updates, bad in a row, the longest such row]
        self.counts = torch.zeros(5, device=device)

    def step(self, loss: Tensor) -> None:
        """One update of weights and average; nothing changes where the gradient is not finite. Nothing waits on the device."""
        self.rate = self.stage.learning_rate * learning_rate_factor(
            self.stage.schedule, self.update, self.stage.updates, self.settings.warmup
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip)
        assert norm is not None
        bad = (~norm.isfinite()).float()
        if self.accelerator.scaler is None:  # AdamW's fused kernel skips by this tensor, as it does for a gradient scaler
            compat.skip_where(self.optimizer, bad)
        self.prepared.step()
        self.prepared.zero_grad()
        self.ema.update(self.network, self.update)
        self.counts[:2] += torch.stack([torch.where(bad > 0, 0.0, loss), 1 - bad])
        self.counts[3] = (self.counts[3] + 1) * bad
        self.counts[2] += bad
        self.counts[4] = torch.maximum(self.counts[3], self.counts[4])
        self.update += 1

    def read(self, accelerator: Accelerator) -> float:
        """The mean loss since the last call, over all processes; also the counters."""
        total, updates, bad, row, longest = cast(Tensor, accelerator.reduce(self.counts.clone(), "mean")).tolist()
        self.skipped += round(bad)
        self.streak = round(longest)
        self.counts = torch.tensor([0, 0, 0, row, row], device=self.counts.device)
        self.loss = total / updates if updates else self.loss
        return self.loss

    def checkpoint(self) -> Checkpoint:
        """A whole copy of the state, without weights that are not trained."""
        frozen = {name for name, p in self.network.named_parameters() if not p.requires_grad}
        tensors = {f"network/{key}": value for key, value in self.network.state_dict().items() if key not in frozen}
        tensors |= {f"ema/{name}": value for name, value in zip(self.names, self.ema.average, strict=True)}
        tensors |= {f"optimizer/{key}": value for key, value in optimizer_tensors(self.optimizer, self.names).items()}
        scaler = self.accelerator.scaler
        values = {"stage": self.stage.name, "update": self.update, "skipped": self.skipped, "row": self.streak, "loss": self.loss}
        return Checkpoint(tensors, values | {"scaler": scaler.state_dict() if scaler else None})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this stage."""
        frozen = {name: p for name, p in self.network.named_parameters() if not p.requires_grad}
        self.network.load_state_dict(frozen | checkpoint.part("network"))
        averages = checkpoint.part("ema")
        self.ema.average = [averages[name].to(p.device) for name, p in trained(self.network).items()]
        restore_optimizer(self.optimizer, self.names, checkpoint.part("optimizer"))
        self.update, self.skipped, self.loss = (checkpoint.values[key] for key in ("update", "skipped", "loss"))
        if self.accelerator.scaler and checkpoint.values["scaler"]:
            self.accelerator.scaler.load_state_dict(checkpoint.values["scaler"])
