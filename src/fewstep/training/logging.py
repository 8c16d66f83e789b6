"""What a run writes down: `log.jsonl`, and curves by the tracker of `train.log_with`."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from fewstep.errors import InputError, nearest


def tracker_arguments(log_with: str, run: Path) -> dict[str, Any]:
    """The arguments of `Accelerator` for a tracker ("none" or one that accelerate knows); its files go into the run folder.

    Raises:
        InputError: accelerate does not know it, or its package is not installed.
    """
    if log_with == "none":
        return {}
    if log_with not in LOGGER_TYPE_TO_CLASS:
        raise InputError(f"train.log_with is '{log_with}'; {nearest(log_with, ['none', *LOGGER_TYPE_TO_CLASS])}")
    if find_spec(log_with) is None:
        raise InputError(f"train.log_with = '{log_with}' needs its package: pip install {log_with}, or set it to 'none'")
    return {"log_with": log_with, "project_dir": str(run)}


class RunLog:
    """`log.jsonl` in a run folder, and a tracker's curves; lines later than where a stage resumes are dropped."""

    def __init__(self, folder: Path, accelerator: Accelerator, log_with: str) -> None:
        self.path, self.accelerator, self.log_with = folder / "log.jsonl", accelerator, log_with
        self.earlier = 0  # updates of the run's stages before this one

    def resume(self, stage: str, update: int) -> None:
        """Forget what was logged of `stage` after `update`."""
        if self.path.is_file():
            lines = [line for line in self.path.read_text().splitlines() if _is_kept(line, stage, update)]
            self.path.write_text("".join(f"{line}\n" for line in lines))

    def write(self, **values: Any) -> None:
        """Add a line; its numbers become curves of its stage, at its update in tensorboard, else at that of the whole run."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        in_tensorboard = self.log_with == "tensorboard"
        if self.log_with != "none" and not self.accelerator.trackers:
            project = "tensorboard" if in_tensorboard else "fewstep"  # in tensorboard the name of its folder
            of_wandb = {"name": self.path.parent.name, "dir": str(self.path.parent)}
            self.accelerator.init_trackers(project, init_kwargs={"wandb": of_wandb})
        curves = {f"{values['stage']}/{key}": value for key, value in values.items() if isinstance(value, float)}
        self.accelerator.log(curves, step=values["update"] + (0 if in_tensorboard else self.earlier))

    def close(self) -> None:
        """Flush the curves."""
        for tracker in self.accelerator.trackers:
            tracker.finish()


def _is_kept(line: str, stage: str, update: int) -> bool:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:  # cut short by a kill
        return False
    return values.get("stage") != stage or values.get("update", 0) <= update
