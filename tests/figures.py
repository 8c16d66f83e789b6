"""The figures of the proofs in `tests/faults`, written into a JSON file where FEWSTEP_FIGURES names one, as `make faults` does."""

import fcntl
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import torch


def record(what, row):
    """Put a row under `what`, in the place of one of the same command and kind."""
    if not (file := os.environ.get("FEWSTEP_FIGURES")):
        return
    from fewstep.evaluation.latency import machine

    path = Path(file)
    with path.with_suffix(".lock").open("w") as lock:  # the tests may be shared by processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = json.loads(path.read_text()) if path.is_file() else {}
        key = [value for value in row.values() if isinstance(value, str)] + [row.get("processes")]
        kept = [r for r in known.get(what, []) if [v for v in r.values() if isinstance(v, str)] + [r.get("processes")] != key]
        known |= {
            "command": "make faults",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(torch.device("cpu")),
        }
        path.write_text(json.dumps(known | {what: [*kept, row]}, indent=1) + "\n")
