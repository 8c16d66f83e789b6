"""The tables of editing, inpainting and style transfer."""

from benchmarks.command import Row
from benchmarks.markdown import bold, markdown

MANY = 64  # guided steps of the teacher that edits are compared with


def editing(result: Row) -> str:
    """The student of 4 steps at its strengths, the teacher with many steps, and with about as many evaluations.

    Success is the share that a classifier takes for the new class, or for text the share whose target caption a CLIP model finds.
    """
    text = "found" in result["rows"][0]
    measure, heading = ("found", "target caption found") if text else ("class_accuracy", "of the new class")
    few = 4 if any(row["model"] == "student" and row["steps"] == 4 for row in result["rows"]) else 2
    shown = {"student": (few, 2), "teacher": (MANY, few, few // 2), "teacher, not guided": (few,)}
    itself = next(row for row in result["rows"] if not row["steps"])
    lines = [["0", "the picture itself", "0", "", f"{itself[measure]:.1%}", "1.00", ""]]
    strengths = {row["strength"] for row in result["rows"] if (row["model"], row["steps"]) == ("student", few)}
    rows = [row for row in result["rows"] if row["strength"] in strengths and row["steps"] in shown.get(row["model"], ())]
    for row in sorted(rows, key=lambda row: row["strength"]):
        guided = row["guidance_scale"] != 1 or result["guidance_scale"] == 1
        name = f"student of {row['steps']} steps" if row["model"] == "student" else f"teacher, {row['steps']} steps"
        name = f"**{name}**" if (row["model"], row["steps"]) == ("student", few) else name + ("" if guided else ", not guided")
        numbers = [f"{row['psnr']:.1f}", f"{row[measure]:.1%}", f"{row['edges']:.2f}", f"{row['rms_to_teacher']:.3f}"]
        lines.append([f"{row['strength']:g}", name, str(row["evaluations"]), *numbers])
    return markdown(["strength", "model", "evaluations", "PSNR, dB", heading, "edges kept", "rms to teacher's 64 steps"], lines)


def style_transfer(result: Row) -> str:
    """A row a task, scale and model, those at equal evaluations one above the other."""
    lines = []
    for row in result["rows"]:
        there_and_back = row["task"] == "round trip"
        name = f"**student, 2 x {row['each_way']}**" if row["model"] == "student" else f"teacher, {row['evaluations']}"
        task = row["task"] if there_and_back else f"{row['task']}, scale {row['guidance_scale']:g}"
        numbers = [f"{row['psnr']:.1f}" if there_and_back else "", f"{row['class_accuracy']:.1%}", f"{row['edges']:.2f}"]
        codes = f"{row['codes_alike']:.3f}" if "codes_alike" in row else ""
        lines.append([task, name, str(row["evaluations"]), *numbers, f"{row['rms_to_teacher']:.3f}", codes])
    heading = ["task", "model", "evaluations", "PSNR, dB", "of the target class", "edges kept", "rms to teacher's 256 steps"]
    return markdown([*heading, "its codes and the teacher's"], lines)


def inpainting(result: Row) -> str:
    """A row a method, scale and model, the teacher with many steps first."""
    lines = []
    for row in result["rows"]:
        name = f"{row['by']}, {row['steps']} step{'s' * (row['steps'] > 1)}" if row["steps"] else row["by"]
        numbers = [f"{row['frechet']:.3f}", f"{row['error']:.3f}", f"{row['class_accuracy']:.1%}"]
        scale = f"{row['guidance_scale']:g}" if row["steps"] else ""
        lines.append([row["method"], scale, bold(name, row["by"] == "student"), str(row["evaluations"]), *numbers])
    heading = ["method", "scale", "model", "evaluations", "Fréchet distance", "rms error inside the mask", "of the target class"]
    return markdown(heading, lines)


def base_lora(result: Row) -> str:
    """A row a style, scale and number of steps: the Fréchet distance, and the rms, to the teacher with the LoRA, of each kind of student."""
    kinds = ("all scales", "one scale", "distilled again", "all scales, without it")
    digits = 2 if max(row["frechet"] for row in result["rows"]) > 1 else 4
    lines, found = [], {(row["style"], row["guidance_scale"], row["steps"], row["model"]): row for row in result["rows"]}
    for style, scale, steps in dict.fromkeys(key[:3] for key in found if key[3] != "teacher"):
        rows = [found.get((style, scale, steps, kind)) for kind in kinds]
        numbers = [f"{row['frechet']:.{digits}f} / {row['rms_to_teacher']:.3f}" if row else "" for row in rows]
        lines.append([style, f"{scale:g}", str(steps), *numbers])
    return markdown(
        ["LoRA", "scale", "steps", "student of all scales", "of this scale alone", "distilled again", "without the LoRA"], lines
    )
