"""The tables of editing, inpainting and style transfer, from their results."""

from typing import Any

from markdown_table import markdown

Result = dict[str, Any]
MANY = 64  # guided steps of the reference


def editing_table(result: Result) -> str:
    """The student of 4 steps at its strengths, the teacher with many steps, and with about as many evaluations.

    What became of a picture is told by its class, or for text by whether a judge finds the wanted caption.
    """
    text = "found" in result["rows"][0]
    became, heading = ("found", "wanted caption found") if text else ("class_accuracy", "of the new class")
    few = 4 if any(row["model"] == "student" and row["steps"] == 4 for row in result["rows"]) else 2
    lines = []
    for row in result["rows"]:
        if not row["steps"]:
            lines.append(["0", "the picture itself", "0", "", f"{row[became]:.1%}", "1.00", ""])
    strengths = sorted({row["strength"] for row in result["rows"] if (row["model"], row["steps"]) == ("student", few)})
    for strength in strengths:
        for row in (r for r in result["rows"] if r["strength"] == strength and worth_showing(r, few)):
            guided = row["guidance_scale"] != 1 or result["guidance_scale"] == 1
            name = f"student of {row['steps']} steps" if row["model"] == "student" else f"teacher, {row['steps']} steps"
            name = f"**{name}**" if (row["model"], row["steps"]) == ("student", few) else name + ("" if guided else ", not guided")
            numbers = [f"{row[became]:.1%}", f"{row['edges']:.2f}", f"{row['rms_to_teacher']:.3f}"]
            lines.append([f"{strength:g}", name, str(row["evaluations"]), f"{row['psnr']:.1f}", *numbers])
    return markdown(["strength", "model", "evaluations", "PSNR, dB", heading, "edges kept", "rms to teacher's 64 steps"], lines)


def worth_showing(row: Result, few: int) -> bool:
    """Whether a row is on the page: the rest is in the JSON."""
    steps, unguided = row["steps"], row["model"] == "teacher, not guided"
    if row["model"] == "student":
        return steps in (few, 2)
    return steps == few if unguided else steps in (MANY, few, few // 2)


def style_table(result: Result) -> str:
    """A row a task, scale and model, those at equal evaluations one above the other."""
    lines = []
    for row in result["rows"]:
        each = row["each_way"]
        name = f"**student, 2 x {each}**" if row["model"] == "student" else f"teacher, {row['evaluations']}"
        task = row["task"] if row["task"] == "round trip" else f"{row['task']}, scale {row['guidance_scale']:g}"
        psnr = f"{row['psnr']:.1f}" if row["task"] == "round trip" else ""
        codes = f"{row['codes_alike']:.3f}" if "codes_alike" in row else ""
        lines.append([task, name, str(row["evaluations"]), psnr, f"{row['class_accuracy']:.1%}", f"{row['edges']:.2f}", f"{row['rms_to_teacher']:.3f}", codes])  # fmt: skip
    heading = ["task", "model", "evaluations", "PSNR, dB", "of the class wanted", "edges kept", "rms to teacher's 256 steps"]
    return markdown([*heading, "its codes and the teacher's"], lines)


def inpainting_table(result: Result) -> str:
    """A row a method, scale and model, the teacher with many steps first."""
    lines = []
    for row in result["rows"]:
        name = f"{row['by']}, {row['steps']} step{'s' * (row['steps'] > 1)}" if row["steps"] else row["by"]
        name = f"**{name}**" if row["by"] == "student" else name
        numbers = [f"{row['frechet']:.3f}", f"{row['error']:.3f}", f"{row['class_accuracy']:.1%}"]
        scale = f"{row['guidance_scale']:g}" if row["steps"] else ""
        lines.append([row["method"], scale, name, str(row["evaluations"]), *numbers])
    heading = ["method", "scale", "model", "evaluations", "Fréchet distance", "rms error inside the mask", "of the class wanted"]
    return markdown(heading, lines)
