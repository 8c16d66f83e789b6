"""What a run writes down: `log.jsonl`, and curves by the tracker of `train.log_with`."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from fewstep.errors import InputError, check_text, nearest
from fewstep.files import os_errors, write_atomically, writing


def tracker_arguments(log_with: str, run: Path) -> dict[str, Any]:
    """The arguments of `Accelerator` for a tracker ("none" or one that accelerate knows); its files go into the run folder.

    Raises:
        InputError: accelerate does not know it, its package is not installed, or the run's path is not UTF-8.
    """
    if log_with == "none":
        return {}
    if log_with not in LOGGER_TYPE_TO_CLASS:
        raise InputError(f"train.log_with is '{log_with}'; {nearest(log_with, ['none', *LOGGER_TYPE_TO_CLASS])}")
    if find_spec(log_with) is None:
        raise InputError(f"train.log_with = '{log_with}' needs its package: pip install {log_with}, or set it to 'none'")
    check_text(f"train.log_with = '{log_with}' cannot write into the folder, which", str(run))
    return {"log_with": log_with, "project_dir": str(run)}


class RunLog:
    """`log.jsonl` in a run folder, and a tracker's curves; lines later than where a stage resumes are dropped."""

    def __init__(self, folder: Path, accelerator: Accelerator, log_with: str) -> None:
        self.path, self.accelerator, self.log_with = folder / "log.jsonl", accelerator, log_with
        self.earlier = 0  # updates of the run's stages before this one

    def resume(self, stage: str, update: int) -> None:
        """Forget what was logged of `stage` after `update`."""
        if self.path.is_file():
            kept = "".join(f"{line}\n" for line in lines_of(self.path) if _is_kept(line, stage, update))
            write_atomically(self.path, lambda aside: aside.write_text(kept, encoding="utf-8"))

    def write(self, **values: Any) -> None:
        """Add a line; its numbers become curves of its stage, at its update in tensorboard, else at that of the whole run."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        self._begin_trackers()
        curves = {f"{values['stage']}/{key}": value for key, value in values.items() if isinstance(value, float)}
        self.accelerator.log(curves, step=self._step(values["update"]))

    def picture(self, stage: str, update: int, image: Any) -> None:
        """Give a PIL image to the trackers that take pictures."""
        self._begin_trackers()
        pixels = np.asarray(image.convert("RGB"))[None]
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                named = {"dataformats": "NHWC"} if self.log_with == "tensorboard" else {}
                tracker.log_images({f"{stage}/samples": pixels}, step=self._step(update), **named)

    def _begin_trackers(self) -> None:
        if self.log_with != "none" and not self.accelerator.trackers:
            project = "tensorboard" if self.log_with == "tensorboard" else "fewstep"  # in tensorboard the name of its folder
            of_wandb = {"name": self.path.parent.name, "dir": str(self.path.parent)}
            self.accelerator.init_trackers(project, init_kwargs={"wandb": of_wandb})

    def _step(self, update: int) -> int:
        """An update of a stage as the trackers count it."""
        return update + (0 if self.log_with == "tensorboard" else self.earlier)

    def close(self) -> None:
        """Flush the curves."""
        for tracker in self.accelerator.trackers:
            tracker.finish()


def lines_of(log: Path) -> list[str]:
    """The lines of a run's log, empty where there is none; a byte that is no text makes its line one that is left out.

    Raises:
        InputError: it cannot be read.
    """
    with os_errors():
        return log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []


def entries_of(log: Path) -> list[dict[str, Any]]:
    """What a run has logged, in order; a line that was cut short by a kill, or damaged, is left out."""
    return [values for line in lines_of(log) if (values := _parsed(line)) is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and "stage" in values and isinstance(values.get("update"), int) else None


def _is_kept(line: str, stage: str, update: int) -> bool:
    values = _parsed(line)
    if values is None:
        return False
    return values.get("stage") != stage or values.get("update", 0) <= update
