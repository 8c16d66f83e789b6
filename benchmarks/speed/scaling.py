"""How much faster two processes of one thread each are than one, data included: examples a second of both stages.

    python -m benchmarks.speed.scaling                        DDP; writes benchmarks/results/scaling.json
    python -m benchmarks.speed.scaling --fsdp --processes 4

Runs of `fewstep distill` on the digits by their bundled teacher, in turn with one process and with several, the same number of examples for
each process in an update. Exits with 1 where the median of the ratios is below its goal. Measure on a machine that does nothing else.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.command import Row, parser_of, progress, run_main, write_result
from fewstep.errors import InputError

GOAL = 0.9  # of the number of processes
STAGES = ("stage-one", "steps-0004")


def speeds(processes: int, updates: int, batch_size: int, fsdp: bool) -> dict[str, float]:
    """Examples a second of each stage, of a run of so many processes, without the first quarter of its updates."""
    keys = {
        "stage_one.updates": updates, "stage_two.updates": updates, "stage_two.ladder": [8, 4], "train.batch_size": batch_size,
        "train.log_every": updates // 4, "train.log_with": '"none"', "train.checkpoint_every": 10 * updates, "data.name": '"digits"',
    }  # fmt: skip
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_FSDP": str(fsdp).lower(), "FSDP_VERSION": "2"}
    with tempfile.TemporaryDirectory() as folder:
        words = ["distill", "--teacher", "digits", "--device", "cpu", "--out", folder]
        words += [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
        command = [sys.executable, *(launcher if processes > 1 else []), "-m", "fewstep", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"a run of {processes} processes failed: {(done.stderr.strip().splitlines() or [''])[-1]}")
        return {stage: speed_of(Path(folder) / "log.jsonl", stage, processes * batch_size) for stage in STAGES}


def speed_of(log: Path, stage: str, examples: int) -> float:
    """Examples a second between the first and the last line of a stage's log, from the mean speeds since its beginning."""
    lines = [line for line in map(json.loads, log.read_text().splitlines()) if line["stage"] == stage]
    updates, seconds = zip(
        *((line["update"], line["update"] * examples / line["images_per_second"]) for line in lines), strict=True
    )
    return (updates[-1] - updates[0]) * examples / (seconds[-1] - seconds[0])


def main() -> int:
    """Measure; 1 where a stage's median ratio is below the goal."""
    parser = parser_of(__doc__, "scaling")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--updates", type=int, default=80, help="of each stage")
    parser.add_argument("--batch-size", type=int, default=128, help="of a process")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fsdp", action="store_true", help="FSDP2 in the place of DDP")
    options, pairs = parser.parse_args(), []
    for repeat in range(options.repeats):
        progress(f"pair {repeat + 1} of {options.repeats}")
        pairs.append([speeds(n, options.updates, options.batch_size, options.fsdp) for n in (1, options.processes)])
    goal, rows = GOAL * options.processes, list[Row]()
    for stage in STAGES:
        one, many = ([found[stage] for found in column] for column in zip(*pairs, strict=True))
        ratios = [b / a for a, b in zip(one, many, strict=True)]
        row = {
            "stage": stage,
            "processes": options.processes,
            "sharing": "FSDP2" if options.fsdp else "DDP",
            "batch_size": options.batch_size,
        }
        rows.append(row | {"one": statistics.median(one), "many": statistics.median(many), "ratio": statistics.median(ratios), "ratios": ratios, "goal": goal})  # fmt: skip
        print(
            f"{stage:10}  {rows[-1]['one']:7.0f} -> {rows[-1]['many']:7.0f} examples/s, {rows[-1]['ratio']:.2f} times (goal {goal:.2f})"
        )
    write_result(options.out, {"updates": options.updates, "rows": rows})
    return int(any(row["ratio"] < goal for row in rows))


if __name__ == "__main__":
    run_main(main)
