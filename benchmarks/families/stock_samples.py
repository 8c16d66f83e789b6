"""Every family on a small random model: distilled by both stages, saved, and run by stock diffusers in a process without fewstep.

    python -m benchmarks.families.stock_samples                       writes benchmarks/results/families.json, prints the table of docs/families.md
    python -m benchmarks.families.stock_samples --only Flux Wan       those anew; the other rows of the file stay

The pipelines are the tiny ones of tests/, and so is the process. Exits with 1 where samples differ by more than 1e-4.
"""

import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import Row, parser_of, progress, read_json, write_json
from benchmarks.families import tables

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))


import fewstep
from alone import samples_alone
from family_cases import CASES, LIMIT, SCALE, STEPS, Case, Check, drawn, noise_of
from tiny import CHANGES, InMemory


def distilled(case: Case, root: Path, updates: int) -> tuple[dict[str, Any], dict[str, Path], dict[str, Any]]:
    """({kind: model}, {kind: folder}, facts) of a student of two steps."""
    root.mkdir()
    began, teacher = time.perf_counter(), fewstep.open_model(case.build(root / "teacher"))
    changes = CHANGES | {f"stage_{stage}": updates for stage in ("one.updates", "two.updates", "two.last_updates")}
    changes |= {"stage_one.learning_rate": 1e-3, "stage_two.learning_rate": 1e-3, "train.warmup": 0, "train.ema": 0.0}
    student = fewstep.distill(teacher, InMemory(teacher), out=root / "run", changes=changes, device="cpu", quiet=True)
    folders = {"conditioned": root / "run" / "steps-0002", "baked": student.bake(SCALE).save(root / "baked")}
    models = {kind: fewstep.open_model(folder) for kind, folder in folders.items()}
    condition, noise = student.example(2), noise_of(student, 2)
    one, other = (drawn(model, condition, noise) for model in models.values())
    moved = (one - models["conditioned"].sample_tensor(condition, guidance_scale=1.0, noise=noise).samples).abs().max()
    facts = {
        "updates": [stage["updates"] for stage in student.info.history], "seconds": round(time.perf_counter() - began, 1),
        "parameters": sum(p.numel() for p in student.denoiser.network.parameters()),
        "baked_from_conditioned": float((one - other).abs().max()), "scale_moves_samples_by": float(moved),
    }  # fmt: skip
    return models, folders, facts


def rows_of(names: list[str], root: Path, updates: int) -> list[dict[str, Any]]:
    """A row for each stock pipeline and folder of each family; all stock samples are drawn by one process."""
    checks: list[tuple[str, Check, Path, dict[str, Any]]] = []
    for name in names:
        models, folders, facts = distilled(CASES[name], root / name, updates)
        checks += [(name, check, folders[check.kind], facts) for check in CASES[name].checks(CASES[name], models)]
        progress(f"{name}: {facts}")
    stock = samples_alone(root, [check.job(folder) for _, check, folder, _ in checks])
    return [
        {
            "family": name, "pipeline": check.pipeline or "stock network, scheduler and VAE", "student": check.kind,
            "difference": float((check.ours - check.back(samples)).abs().max()), **facts,
        }
        for (name, check, _, facts), samples in zip(checks, stock, strict=True)
    ]  # fmt: skip


def with_others(path: Path, rows: list[Row], names: list[str]) -> list[Row]:
    """The rows, and those of a result that is there of families other than `names`, in the order of CASES."""
    others = read_json(path)["rows"] if path.is_file() else []
    return sorted(rows + [row for row in others if row["family"] not in names], key=lambda row: list(CASES).index(row["family"]))


def main(words: list[str] | None = None) -> int:
    parser = parser_of(__doc__, "families")
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--updates", type=int, default=20, help="of each stage")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="families-") as root:
        rows = rows_of(args.only, Path(root), args.updates)
    rows = with_others(args.out, rows, args.only)
    print(tables.stock_samples({"rows": rows}))
    versions = {"diffusers": __import__("diffusers").__version__, "torch": torch.__version__}
    command = "python -m benchmarks.families.stock_samples"
    date = datetime.now(UTC).isoformat(timespec="seconds")
    result = {"command": command, "date": date, "steps": STEPS, "guidance_scale": SCALE, "limit": LIMIT, **versions, "rows": rows}
    write_json(args.out, result)
    return int(any(not row["difference"] < LIMIT for row in rows))


if __name__ == "__main__":
    sys.exit(main())
