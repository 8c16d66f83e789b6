"""What the tests share: a tiny teacher in a folder, tiny recipes, and the commands as a user runs them."""

import gc
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

TINY = {
    "network.block_out_channels": [8, 16],
    "network.norm_num_groups": 4,
    "teach.updates": 6,
    "stage_one.updates": 6,
    "stage_two.ladder": [4, 2, 1],
    "stage_two.updates": 4,
    "stage_two.last_updates": 4,
    "paths.rung": 0,
    "train.batch_size": 4,
    "train.warmup": 2,
    "train.checkpoint_every": 3,
    "train.log_every": 1,
}


gc.disable()  # while the tests are imported


def freeze():
    """What is there by now stays: a full garbage collection, of which training and opening a model make several, need not look through it."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish():
    gc.enable()
    freeze()


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """A file's imports are frozen before the next file."""
    yield
    freeze()


@pytest.fixture(autouse=True)
def _one_thread():
    """Two threads on tiny tensors are slower than one, and equal runs need equal threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory):
    """A model folder of a tiny teacher of digits with random weights."""
    from fewstep.api import public
    from fewstep.data.loading import open_data
    from fewstep.training.distill import new_teacher
    from fewstep.training.recipe import load_recipe

    folder = tmp_path_factory.mktemp("models") / "teacher"
    model = new_teacher(load_recipe(None, TINY), open_data(name="digits"))
    model.denoiser.network.eval()
    with torch.no_grad():
        for p in model.denoiser.network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(p.flatten()))))
    return public(model).save(folder)


@pytest.fixture
def recipe(teacher_folder):
    """A function that gives a tiny recipe for that teacher, with more keys changed."""
    from fewstep.training.recipe import load_recipe

    def make(**changes):
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        return load_recipe(None, TINY | {"data.name": "digits", "teacher.path": str(teacher_folder)} | dotted)

    return make


@pytest.fixture(scope="session")
def _classifiers(tmp_path_factory):
    return tmp_path_factory.mktemp("classifiers")


@pytest.fixture(scope="module")
def quick_classifier(_classifiers):
    """The classifier of the digits is trained for one epoch, once, into a cache of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(_classifiers))
        patch.setattr("fewstep.evaluation.classifier.EPOCHS", 1)
        yield


def run_command(*words, expect=0, module="fewstep", launcher=(), background=False, cwd=None, stderr=subprocess.PIPE):
    """`python -m fewstep WORDS` in a process of its own; (stdout, stderr), or the process itself in the background."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *launcher, "-m", module, *map(str, words)]
    if background:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment, cwd=cwd)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd or Path.cwd(), check=False)
    assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


@pytest.fixture(scope="session")
def zygote():
    """A process that runs commands in forks of itself, and kills them (`zygote.py`)."""
    from zygote import Zygote

    made = Zygote()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def playground(tmp_path_factory):
    """(address, folder) of the playground of a tiny run, watched by playground_server.py, whose FOLDER it is; it works in `folder/here`."""
    pytest.importorskip("gradio", reason="gradio is not installed (pip install 'fewstep[playground]')")
    from tiny import tiny_student, tiny_teacher

    folder = tmp_path_factory.mktemp("playground")
    for steps in (4, 2):
        tiny_student(steps).save(folder / "mine" / f"steps-{steps:04d}")
    tiny_teacher().save(folder / "mine" / "teacher")
    tiny_student(2, kind="encoder").save(folder / "mine" / "encoder-0002")
    (folder / "here").mkdir()
    watched, words = (
        [Path(__file__).with_name("playground_server.py"), folder],
        ("playground", folder / "mine", "--device", "cpu", "--seed", 7),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "here"))  # where uploads and downloads go, so that tests see them
        with (folder / "errors").open("w") as errors:  # a file: a pipe that nobody reads holds the server up once it is full
            server = run_command(*words, launcher=watched, background=True, cwd=folder / "here", stderr=errors)
    said: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: said.put(server.stdout.readline()), daemon=True).start()
    try:
        line = said.get(timeout=300)
        assert " at http" in line, f"no server: {line}{(folder / 'errors').read_text()}"
        yield line.split(" at ")[1].split()[0], folder
        assert server.poll() is None, "the server died"
    finally:
        server.kill()
        server.communicate()
