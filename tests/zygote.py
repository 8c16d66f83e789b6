"""Commands in forks of a process that has imported everything: hundreds of runs that are killed at a chosen moment, in seconds each.

`python zygote.py` is that process. It reads a request as JSON from a line of stdin and answers with one on stdout:

    words       of the command, after `fewstep`
    folder      whose writes are counted, and what `kill_at` counts: the number of the write before which the command kills itself
    kill_after  seconds after which all its processes are killed
    processes   how many share the work, as `torch.distributed.run` starts them
    file_limit  bytes that a file may have: writing more fails, as on a full disk
    disk        [folder, bytes]: a disk of its own of that size at an empty folder, for this command alone
    powerless   whether permissions hold for it as they do for any user, also where it is the superuser's
"""

import ctypes
import fcntl
import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import namedtuple
from contextlib import suppress
from importlib import import_module
from pathlib import Path

WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod")
IMPORTED = (  # what commands import when they need it
    "accelerate", "diffusers.models.unets.unet_2d_condition", "diffusers.pipelines.pipeline_utils", "diffusers.schedulers.scheduling_ddim",
    "fewstep.cli.main", "fewstep.api", "fewstep.evaluation.evaluate", "fewstep.training.describe", "jinja2", "matplotlib.pyplot",
)  # fmt: skip
Done = namedtuple("Done", "codes out err writes seconds")


class Zygote:
    """The tests' end of that process."""

    def __init__(self):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, *words, **request):
        """What a command said, its exit codes (-9 where it was killed), and how often it wrote."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request | {"words": [str(word) for word in words]}, default=str) + "\n")
        self.process.stdin.flush()
        return Done(**json.loads(self.process.stdout.readline()))

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print
    for name in IMPORTED:
        import_module(name)
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # forks need not look through it
    for line in sys.stdin:
        with tempfile.TemporaryDirectory(prefix="zygote-") as aside:
            answers.write(json.dumps(answer(json.loads(line), Path(aside))) + "\n")
            answers.flush()


def answer(request, aside):
    """Run a request's command in as many forks as it asks for, and wait for all."""
    count, began = request.get("processes", 1), time.monotonic()
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} if count > 1 else {}
    said = {name: pipe() for name in ("out", "err")}
    ends = [write for _, write in said.values()]
    environments = [shared and shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    children = [fork(request, aside, rank, environment, ends) for rank, environment in enumerate(environments)]
    codes = dict.fromkeys(children)
    while None in codes.values():
        for child in [child for child, code in codes.items() if code is None]:
            found, status = os.waitpid(child, os.WNOHANG)
            codes[child] = os.waitstatus_to_exitcode(status) if found else None
        late = time.monotonic() - began > request.get("kill_after", 300)
        if late or -signal.SIGKILL in codes.values():  # a machine that fails takes all
            for child in [child for child, code in codes.items() if code is None]:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    for end in ends:
        os.close(end)
    told = {name: read.read().decode(errors="replace") for name, (read, _) in said.items()}
    for read, _ in said.values():
        read.close()
    writes = (aside / "writes").stat().st_size if (aside / "writes").exists() else 0
    return told | {"codes": list(codes.values()), "writes": writes, "seconds": time.monotonic() - began}


def pipe():
    """(what is read, the number of what is written to) of a pipe that takes a megabyte before anyone reads; no limit of files holds for it."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 1 << 20)
    return os.fdopen(read, "rb"), write


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def fork(request, aside, rank, environment, ends):
    """The number of a new process that runs the command and says what it says into the ends of two pipes."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ.update(environment)
        for number, end in enumerate(ends, 1):
            os.dup2(end, number)
        sys.stdin = open(os.devnull)  # noqa: SIM115
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        prepare(request, aside, rank)
        code = run(request["words"])
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def prepare(request, aside, rank):
    """Give this process the disk, the user and the limits of a request, and let it count and perhaps end at a write."""
    if disk := request.get("disk"):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x00020000) or libc.mount(b"none", b"/", None, 0x44000, None):  # CLONE_NEWNS; MS_REC | MS_PRIVATE
            raise OSError(ctypes.get_errno(), "no mounts of its own")
        if libc.mount(b"none", os.fsencode(disk[0]), b"tmpfs", 0, f"size={disk[1]}".encode()):
            raise OSError(ctypes.get_errno(), "no disk of its own")
    if limit := request.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if request.get("powerless"):
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # no capabilities
        if ctypes.CDLL(None, use_errno=True).capset(header, none):
            raise OSError(ctypes.get_errno(), "capabilities are kept")
    if folder := request.get("folder"):
        sys.addaudithook(counter(os.path.abspath(folder), request.get("kill_at"), aside / "writes", rank))


def counter(folder, kill_at, file, rank):
    """A hook that counts what the first process writes below a folder, and kills the process before a write of that number."""
    count, noted = 0, os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event, arguments):
        nonlocal count
        writes = event in WRITES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if not writes or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if not os.path.abspath(os.fsdecode(arguments[0])).startswith(folder):
            return
        count += 1
        if rank == 0:
            os.write(noted, b"x")
        if rank == 0 and count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def run(words):
    """The exit code of `fewstep WORDS`."""
    from fewstep.cli import main as cli

    sys.argv = ["fewstep", *words]
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


if __name__ == "__main__":
    main()
