"""Every family's network as ONNX: how far ONNX Runtime is from PyTorch, on the small random models of benchmarks/families/stock_samples.py.

python -m benchmarks.families.onnx                       writes benchmarks/results/families-onnx.json, prints a table
python -m benchmarks.families.onnx --only Flux Wan       those anew; the other rows of the file stay
"""

import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import fewstep
from benchmarks.command import parser_of, progress, write_json
from benchmarks.families import tables
from benchmarks.families.stock_samples import CASES, with_others
from fewstep.errors import InputError
from fewstep.export.formats import export
from fewstep.training.distill import student_of
from fewstep.training.recipe import load_recipe


def row_of(name: str, root: Path) -> dict[str, Any]:
    """The largest difference, relative to the largest output, of a student with random weights; or why there is none."""
    teacher = fewstep.open_model(CASES[name].build(root / "teacher"))
    student = student_of(load_recipe(), teacher)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # so that w counts too
        for p in student.denoiser.network.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    try:
        facts = json.loads((export(student, root / "onnx", format="onnx") / "onnx.json").read_text(encoding="utf-8"))
    except InputError as error:
        return {"family": name, "largest_difference": None, "batch": None, "why": str(error)}
    return {"family": name, "largest_difference": facts["largest_difference"], "batch": facts["inputs"]["z"]["shape"][0]}


def main(words: list[str] | None = None) -> int:
    parser = parser_of(__doc__, "families-onnx")
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="families-") as root:
        for name in args.only:
            (Path(root) / name).mkdir()
            rows.append(row_of(name, Path(root) / name))
            progress(rows[-1])
    rows = with_others(args.out, rows, args.only)
    print(tables.onnx({"rows": rows}))
    result = {
        "command": "python -m benchmarks.families.onnx", "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__, "rows": rows,
    }  # fmt: skip
    write_json(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
