"""The method in other people's training loops: the page's code runs as it stands, with torch alone."""

import re
import subprocess
import sys
from pathlib import Path

import torch

PAGE = Path(__file__).parents[2] / "docs" / "other-trainers.md"
BLOCKED = """
import sys
class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("diffusers", "transformers", "accelerate", "peft", "datasets", "pydantic", "safetensors", "PIL", "numpy.testing"):
            raise ModuleNotFoundError(f"{name} is kept away")
sys.meta_path.insert(0, Blocked)
import pkgutil, importlib, fewstep.method
for module in pkgutil.iter_modules(fewstep.method.__path__):
    importlib.import_module(f"fewstep.method.{module.name}")
"""


class Network(torch.nn.Module):
    """A tiny network of 4 numbers, labels and w, which it takes as a teacher without."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.SiLU(), torch.nn.Linear(32, 4))
        self.embed, self.for_w = torch.nn.Embedding(3, 6), torch.nn.Linear(1, 6, bias=False)
        torch.nn.init.zeros_(self.for_w.weight)

    def forward(self, z, time, labels, w=None):
        given = torch.cat([z, time[:, None] / 1000, torch.ones(len(z), 1)], 1) + self.embed(labels)
        return self.layers(given if w is None else given + self.for_w(w.float()[:, None]))


def test_the_mathematics_is_imported_without_the_libraries_around_it():
    subprocess.run([sys.executable, "-c", BLOCKED], check=True)


def test_the_pages_code_distils():
    """Stage one comes nearer to the guided teacher, the rung keeps it so, and the loss for scripts is that of the loop."""
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks[0].strip().splitlines()) <= 26
    teacher, student = Network(), Network()
    student.load_state_dict(teacher.state_dict())
    data = [(torch.randn(64, 4), torch.randint(0, 2, (64,))) for _ in range(200)]
    found = {
        "teacher": teacher,
        "student": student,
        "NULL": 2,
        "loader": data,
        "optimizer": torch.optim.Adam(student.parameters(), 3e-3),
    }
    run = lambda number: exec(compile(blocks[number], f"block {number}", "exec"), found)  # noqa: E731

    def loss(network):
        torch.manual_seed(1)
        return found["stage_one_loss"](network, teacher, *data[0]).item()

    run(0)
    run(3)
    untaught = Network()
    untaught.load_state_dict(teacher.state_dict())
    assert loss(student) < loss(untaught) / 2
    run(1)
    assert loss(student) < loss(untaught)
    run(2)
    assert found["samples"].shape == (2, 4) and found["samples"].isfinite().all()
