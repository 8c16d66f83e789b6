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
from benchmarks.command import parser_of, progress
from benchmarks.families.stock_samples import CASES

import fewstep
from fewstep.errors import InputError
from fewstep.export.formats import export
from fewstep.training.distill import student_of
from fewstep.training.recipe import load_recipe

RESULTS = Path(__file__).parent / "results" / "families-onnx.json"


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


def table(rows: list[dict[str, Any]]) -> str:
    """The table of docs/export.md."""
    lines = ["| network of | largest difference | batch |", "|---|---|---|"]
    for row in rows:
        said = "not exported" if row["largest_difference"] is None else f"{row['largest_difference']:.1e}"
        lines.append(f"| {row['family']} | {said} | {'any size' if row['batch'] == 'batch' else row['batch'] or ''} |")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="families-") as root:
        for name in args.only:
            (Path(root) / name).mkdir()
            rows.append(row_of(name, Path(root) / name))
            progress(rows[-1])
    if args.out.is_file():  # rows of the families that were not asked for stay
        rows += [row for row in json.loads(args.out.read_text(encoding="utf-8"))["rows"] if row["family"] not in args.only]
        rows.sort(key=lambda row: list(CASES).index(row["family"]))
    print(table(rows))
    result = {
        "command": "python -m benchmarks.families.onnx", "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__, "rows": rows,
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
