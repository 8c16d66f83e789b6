"""How each benchmark begins and ends: its arguments, its result as JSON, its exit code."""

import argparse
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fewstep.progress import to_stderr as progress  # noqa: F401 - what every benchmark shows lines with

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
Row = dict[str, Any]


def parser_of(text: str | None, result: str | None = None) -> argparse.ArgumentParser:
    """A parser that shows the script's docstring; with a `result` also --out, by default that file of benchmarks/results."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    if result:
        parser.add_argument("--out", type=Path, default=RESULTS / f"{result}.json", help="JSON to write")
    return parser


def write_json(path: Path, result: Any) -> None:
    """Write JSON as all results are written, in a folder that may be new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}", file=sys.stderr)


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_result(path: Path, result: dict[str, Any], device: Any = "cpu") -> None:
    """Write what a benchmark found as JSON, after the command, the date and the machine."""
    import torch

    from fewstep.evaluation.latency import machine

    script = Path(sys.argv[0]).resolve()
    module = ".".join(script.relative_to(ROOT).with_suffix("").parts) if script.is_relative_to(ROOT) else script.name
    known = {"command": " ".join(["python -m", module, *sys.argv[1:]]), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(path, known | {"machine": machine(torch.device(device))} | result)


def run_main(main: Callable[[], int | None]) -> None:
    """Run a benchmark as a command: exit code 2 after one line about wrong input, 130 when interrupted, else what `main` returns."""
    from fewstep.errors import InputError
    from fewstep.training.trainer import Interrupted

    try:
        sys.exit(main())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(130)
