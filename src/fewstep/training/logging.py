"""What a run writes down: `log.jsonl` and tensorboard curves."""

import json
from pathlib import Path
from typing import Any


class RunLog:
    """`log.jsonl` and tensorboard in a run folder; lines later than where a stage resumes are dropped."""

    def __init__(self, folder: Path) -> None:
        self.path, self.folder, self._writer = folder / "log.jsonl", folder / "tensorboard", None

    def resume(self, stage: str, update: int) -> None:
        """Forget what was logged of `stage` after `update`."""
        if self.path.is_file():
            lines = [line for line in self.path.read_text().splitlines() if _kept(line, stage, update)]
            self.path.write_text("".join(f"{line}\n" for line in lines))

    def write(self, **values: Any) -> None:
        """Add a line; its numbers become tensorboard curves of its stage."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder))
        for key, value in values.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{values['stage']}/{key}", value, values["update"])

    def close(self) -> None:
        """Flush the curves."""
        if self._writer is not None:
            self._writer.close()


def _kept(line: str, stage: str, update: int) -> bool:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:  # cut short by a kill
        return False
    return values.get("stage") != stage or values.get("update", 0) <= update
