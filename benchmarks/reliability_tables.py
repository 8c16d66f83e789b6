"""The tables of what `make faults` proved, from `results/reliability.json`."""

from benchmarks.command import Row
from benchmarks.markdown import markdown

WHAT = {"model": "model folder, drawn with", "run": "run, killed in its second stage, gone on with", "cache": "cache, gone on with",
        "cache read": "cache, distilled from", "evaluation": "evaluation, gone on with"}  # fmt: skip


def reliability(result: Row) -> str:
    """What was killed, damaged, fuzzed and asked, and what came of it, with the machine and the date."""
    kills = [
        [row["command"], str(row["processes"]), str(row["killed_at_random"]), f"{row['killed_at_writes']} of {row['writes']}",
         f"{row['resumed_to_the_same_bits']} of {row['killed_at_random'] + row['killed_at_writes']}"]
        for row in result.get("kills", [])
    ]  # fmt: skip
    damage = [
        [WHAT[row["folder"]], str(row.get("named", 0)), str(row.get("no consequence", 0)), row["files_without_consequence"]]
        for row in result.get("damage", [])
    ]
    fuzzed = [[row["what"], f"{row['cases']:,}"] for row in result.get("fuzzed_files", [])]
    parts = [
        markdown(["killed command", "processes", "at random moments", "before its writes", "resumed to the same bits"], kills),
        markdown(["each file damaged in 9 ways", "named", "the same result", "files of the latter"], damage),
        markdown(["files of any content, none with a traceback", "cases"], fuzzed),
    ]
    for row in result.get("crowd", []):
        parts.append(
            f"The page, {row['what']}: {row['answered_wrongly']} answered wrongly, memory from {row['memory_before_mib']:,.0f} MiB by "
            f"{row['memory_grown_mib']:.0f} MiB, the longest wait of another visitor {row['longest_wait_of_another_visitor_seconds']:.2f} s."
        )
    machine = result["machine"]
    return "\n\n".join([*parts, f"`{result['command']}`, {result['date'][:10]}, {machine['name']}, {machine['cores']} cores."])
