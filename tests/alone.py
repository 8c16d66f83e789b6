"""Students of tiny pipelines, and diffusers' own samples of their folders in a process that cannot import fewstep (`stock.py`)."""

import atexit
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import fewstep
from fewstep.method.samplers import deterministic
from fewstep.training.distill import next_student, student_of
from fewstep.training.recipe import load_recipe
from tiny import awake


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
    answered(root, written)
    return [load_file(job["out"])["samples"] for job in written]


def run_alone(root, code):
    """Run code in the folder `root` in that process."""
    answered(root, [{"code": code, "folder": str(root)}])


def answered(root, jobs):
    """Let the process without fewstep do the jobs; what goes wrong in it is raised here."""
    (root / "jobs.json").write_text(json.dumps(jobs))
    process = stock_process()
    process.stdin.write(f"{root / 'jobs.json'}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    assert line, "the process without fewstep has ended"
    problem = json.loads(line)
    assert problem is None, problem


@cache
def stock_process():
    """The process without fewstep, one for all tests of this process: it takes seconds to start."""
    command = [sys.executable, "-I", str(Path(__file__).parent / "stock.py")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    @atexit.register
    def end():
        process.communicate()  # the end of its input is the end of it

    return process


@torch.no_grad()
def halfway(model, kept, condition, seed, w=None):
    """What a student of two steps makes of data (b, ...) noised to t = 1/2 by the seed: its stock pipelines at strength 0.5."""
    noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(seed))
    alpha, sigma = model.denoiser.process.at(torch.tensor([0.5]), kept)
    return deterministic(model.denoiser, alpha * kept + sigma * noise, 2, condition, w, model.denoiser.process, start=1)
