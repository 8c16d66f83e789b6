"""The tables of all families."""

from benchmarks.command import Row
from benchmarks.markdown import markdown


def stock_samples(result: Row) -> str:
    """A row a family, stock pipeline and student: the largest difference of its samples to ours."""
    lines = []
    for row in result["rows"]:
        pipeline = f"`{row['pipeline']}`" if row["pipeline"].endswith("Pipeline") else row["pipeline"]
        numbers = [f"{row['difference']:.1e}", f"{row['baked_from_conditioned']:.1e}"]
        lines.append([row["family"], pipeline, row["student"], *numbers])
    return markdown(["family", "stock pipeline", "student", "largest difference", "baked from conditioned"], lines)


def onnx(result: Row) -> str:
    """A row a family: how far ONNX Runtime is from PyTorch."""
    lines = []
    for row in result["rows"]:
        found = "not exported" if row["largest_difference"] is None else f"{row['largest_difference']:.1e}"
        lines.append([row["family"], found, "any size" if row["batch"] == "batch" else str(row["batch"] or "")])
    return markdown(["network of", "largest difference", "batch"], lines)
