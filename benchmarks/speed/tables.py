"""The tables of speed."""

from benchmarks.command import Row
from benchmarks.markdown import bold, markdown


def headline(result: Row) -> str:
    """Seconds an image of teacher and student with the ratios of wall clock, of CPU time and of evaluations; the quality of both."""
    heading = ["batch", "teacher, s an image", "student, s an image", "ratio of wall clock", "of single batches", "of CPU time"]
    heading += ["of evaluations", "share in wall clock", "in CPU time", "goal", "a guided call costs, in student's calls"]
    speed = [
        [
            str(row["batch_size"]), f"{row['teacher_seconds']:.3f}", f"{row['student_seconds']:.6f}",
            f"**{row['ratio']:.0f}**", f"{min(row['ratios']):.0f} to {max(row['ratios']):.0f}", f"{row['cpu_ratio']:.0f}",
            f"{row['ratio_of_evaluations']:.0f}", f"{row['share']:.2f}", f"{row['cpu_share']:.2f}", f"{row['goal']:g}",
            f"{calls['guided_call_over_student_call']:.2f}",
        ]
        for row, calls in zip(result["speed"], result["calls"], strict=True)
    ]  # fmt: skip
    quality = []
    for row in result["quality"]:
        known = [row["model"], str(row["steps"]), str(row["evaluations"]), str(row["samples"])]
        quality.append([*known, f"{row['frechet']:.3f}", f"{row['inception_score']:.2f}", f"{row['class_accuracy']:.1%}"])
    measures = ["model", "steps", "evaluations", "samples", "Fréchet distance", "Inception Score", "class accuracy"]
    return f"{markdown(heading, speed)}\n\n{markdown(measures, quality)}"


def overhead(result: Row) -> str:
    """A row a measurement: seconds with fewstep and by the bare network in a plain loop, their ratio and its goal."""
    lines = [
        [row["what"], str(row["batch_size"]), f"{row['seconds']:.4f}", f"{row['bare_seconds']:.4f}", f"{row['ratio']:.3f}", f"{row['goal'] or ''}"]
        for row in result["rows"]
    ]  # fmt: skip
    return markdown(["what", "batch", "seconds with fewstep", "bare network", "ratio", "goal"], lines)


def memory(result: Row) -> str:
    """A row a ladder: peak memory and what its folders take on disk; the ratio of the peaks."""
    lines = [[str(row["rungs"]), f"{row['peak'] / 1e9:.2f} GB", f"{row['folders'] / 1e9:.2f} GB"] for row in result["rows"]]
    lines.append(["ratio", f"{result['ratio']:.3f} (goal {result['goal']:g})", ""])
    return markdown(["rungs", "peak memory", "folders"], lines)


def memory_predicted(result: Row) -> str:
    """A row a case: peak memory as `--dry-run` says it and as measured, the error, and what the run's folders take on disk."""
    lines = [
        [
            row["case"], f"{row['parameters'] / 1e6:.0f} M", str(row["latents"]), f"{row['predicted'] / 1e9:.2f} GB",
            f"{row.get('device_peak', row['peak']) / 1e9:.2f} GB", f"{row['error']:+.0%}", f"{row['folders'] / 1e9:.2f} GB",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    return markdown(["case", "weights", "latents", "predicted", "measured", "error", "folders"], lines)


def waiting(result: Row) -> str:
    """The share of a run's time that waits for data, read in turn and read ahead, of each kind of data."""
    lines = [
        [row["data"], row["read"], str(row["batch_size"]), f"{row['waiting']:.1%}", f"{row['images_per_second']:.0f}"]
        for row in result["rows"]
    ]
    return markdown(["data", "read", "batch", "waiting for data", "examples a second"], lines)


def scaling(result: Row) -> str:
    """Examples a second of one process and of several, of each stage, and their ratio."""
    lines = [
        [row["stage"], row["sharing"], str(row["processes"]), str(row["batch_size"]), f"{row['one']:.0f}", f"{row['many']:.0f}", f"**{row['ratio']:.2f}**"]
        for row in result["rows"]
    ]  # fmt: skip
    return markdown(["stage", "sharing", "processes", "batch of each", "examples/s of one", "of all", "ratio"], lines)


def stock_pipelines(result: Row) -> str:
    """A row a family: milliseconds of a picture by fewstep and by the stock pipeline of the same folder, and their ratio."""
    lines = [
        [
            row["family"], row["pipeline"], str(row["steps"]), f"{1e3 * row['seconds']:.1f}", f"{1e3 * row['bare_seconds']:.1f}",
            bold(f"{row['ratio']:.2f}", row["ratio"] <= row["goal"]), f"{row['goal']:g}",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    return markdown(["family", "stock pipeline", "steps", "fewstep, ms", "stock, ms", "ratio", "goal"], lines)
