"""Students of tiny pipelines, and diffusers' own samples of their folders in a process that cannot import fewstep (`stock.py`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import fewstep
from fewstep.method.samplers import deterministic
from fewstep.training.distill import next_student, student_of
from fewstep.training.recipe import load_recipe
from tiny import CHANGES, InMemory, awake


def distilled(folder, out, **changes):
    """(teacher, student of 2 steps, its folder, the folder with the scale 2.5 baked in) of a pipeline folder."""
    teacher = fewstep.open_model(folder)
    student = fewstep.distill(teacher, InMemory(teacher), out=out / "run", changes=CHANGES | changes, device="cpu", quiet=True)
    saved = awake(student).save(out / "student")
    return teacher, student, saved, student.bake(2.5).save(out / "baked")


def untrained(folder):
    """(teacher, student of 2 steps that no stage has trained, its input for w doing something) of a pipeline folder."""
    teacher = fewstep.open_model(folder)
    student = awake(next_student(student_of(load_recipe(None, {}), teacher), 2))
    student.denoiser.network.requires_grad_(False)
    return teacher, student


def samples_alone(root, jobs):
    """What each job, {"folder", "pipeline", "arguments", maybe "seed"} with its tensors, gives in one process without fewstep."""
    written = []
    for i, (job, tensors) in enumerate(jobs):
        files = {key: str(root / f"{i}-{key}.safetensors") for key in ("noise", "out")}
        save_file({name: value.contiguous() for name, value in tensors.items()}, files["noise"])
        written.append(job | files | {"folder": str(job["folder"])})
    (root / "jobs.json").write_text(json.dumps(written))
    command = [sys.executable, "-I", str(Path(__file__).parent / "stock.py"), str(root / "jobs.json")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return [load_file(job["out"])["samples"] for job in written]


@torch.no_grad()
def halfway(model, kept, condition, seed, w=None):
    """What a student of two steps makes of data (b, ...) noised to t = 1/2 by the seed: its stock pipelines at strength 0.5."""
    noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(seed))
    alpha, sigma = model.denoiser.process.at(torch.tensor([0.5]), kept)
    return deterministic(model.denoiser, alpha * kept + sigma * noise, 2, condition, w, model.denoiser.process, start=1)
