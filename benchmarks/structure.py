"""What the code is made of: files, lines, and how many files one distillation crosses.   python -m benchmarks.structure

The last is the number of files of fewstep in which some function runs between the call of `fewstep.distill` and its end, for the smallest
distillation there is: a tiny class-conditional teacher, stage one and one rung, two updates each, from built-in data.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

TINY = {
    "network.block_out_channels": [8, 16], "network.norm_num_groups": 4, "teach.updates": 2, "stage_one.updates": 2, "stage_two.ladder": [4, 2],
    "stage_two.updates": 2, "stage_two.last_updates": 2, "paths.rung": 0, "train.batch_size": 4, "data.name": "digits",
}  # fmt: skip


def lines_of(folder: Path) -> dict[str, Any]:
    """How many files and lines of Python a folder has, and its largest file."""
    sizes = {str(path.relative_to(folder)): len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.py")}
    largest = max(sizes, key=sizes.__getitem__)
    return {"files": len(sizes), "lines": sum(sizes.values()), "largest": f"{largest} ({sizes[largest]})"}


def crossed() -> list[str]:
    """The files of fewstep that a distillation runs through."""
    import fewstep

    root, found = Path(fewstep.__file__).parent, set()

    def note(frame: Any, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            found.add(frame.f_code.co_filename)

    with tempfile.TemporaryDirectory() as aside:
        fewstep.teach("digits", f"{aside}/teacher", changes=TINY, device="cpu", quiet=True)
        sys.setprofile(note)
        fewstep.distill(f"{aside}/teacher/teacher", out=f"{aside}/run", changes=TINY, device="cpu", quiet=True)
        sys.setprofile(None)
    return sorted(str(Path(name).relative_to(root)) for name in found if Path(name).is_relative_to(root))


if __name__ == "__main__":
    print(
        json.dumps({name: lines_of(Path(name)) for name in ("src", "tests", "benchmarks")} | {"crossed": len(crossed())}, indent=1)
    )
