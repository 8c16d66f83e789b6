"""The notebooks in examples/, every cell of them, with a few updates in place of many; and what is kept in their files."""

import json
from pathlib import Path

import pytest
import torch

import fewstep

EXAMPLES = Path(__file__).parents[2] / "examples"
LIMIT = 300_000  # bytes of outputs that a notebook may keep


def cells_of(name):
    return json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs every code cell in an empty folder: what the last cell leaves, and how many figures were shown."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: (shown.append(plt.gcf()), plt.close("all")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTEBOOK_UPDATES", "2")

    def execute(name):
        left = {"__name__": "__main__"}
        for number, cell in enumerate(cells_of(name)):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{name}.ipynb, cell {number}", "exec"), left)
        assert left["UPDATES"] == 2
        return left, shown

    return execute


@pytest.mark.slow
def test_the_first_distillation(run, capsys):
    left, shown = run("first_distillation")
    assert {n: model.info.steps for n, model in left["students"].items()} == {4: 4, 2: 2, 1: 1}
    assert [s.evaluations for s in left["found"].values()] == [4, 2, 1] and left["reference"].evaluations == 128
    assert len(shown) == 3
    assert "guidance_scale 7.5 is outside the range 1 to 5" in capsys.readouterr().out


def test_a_network_of_ones_own(run):
    left, shown = run("own_network")
    assert left["student"].info.steps == left["few"].evaluations == 2
    assert left["same"].samples.equal(left["few"].samples) and left["few"].samples.isfinite().all()
    assert len(shown) == 1


def test_stage_one_in_a_training_script(run):
    left, shown = run("stage_one_in_a_script")
    assert left["student"].info.takes_w and (left["drawn"].evaluations, left["aimed"].evaluations) == (16, 32)
    assert fewstep.open_model("student").sample_tensor(torch.tensor([3]), steps=2, guidance_scale=2.0).samples.isfinite().all()
    assert len(left["losses"]) == 2 and len(shown) == 1


@pytest.mark.parametrize("name", ["first_distillation", "own_network", "stage_one_in_a_script"])
def test_outputs_that_are_kept_are_small_and_name_no_place_of_the_machine(name):
    code = [cell for cell in cells_of(name) if cell["cell_type"] == "code"]
    text = json.dumps([cell["outputs"] for cell in code])
    assert len(text) < LIMIT
    assert not any(word in text for word in ("/home/", "/tmp/", "/root/", " object at 0x", "Traceback"))
    assert all(cell["outputs"] == [] or cell["execution_count"] for cell in code)
