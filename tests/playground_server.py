"""`python playground_server.py FOLDER -m MODULE WORDS`: the module, watched. FOLDER/sockets tells every address that it connects to or
listens on; while FOLDER/slow is there, every evaluation of a network takes a fifth of a second more; FOLDER/cancel has Gradio's next event
cancelled before it begins, as may happen on a busy machine; FOLDER/pid is its number."""

import os
import runpy
import sys
import time
from pathlib import Path

SOCKETS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto")


def main() -> None:
    folder, module = Path(sys.argv[1]), sys.argv[3]
    (folder / "pid").write_text(str(os.getpid()))

    def heard(event: str, arguments: tuple) -> None:
        if event in SOCKETS:
            with (folder / "sockets").open("a") as file:
                print(event, arguments[0] if event == "socket.getaddrinfo" else arguments[-1], sep="\t", file=file)

    sys.addaudithook(heard)
    from fewstep.models.denoiser import Denoiser

    evaluate = Denoiser.__call__

    def slowed(self, *given):
        if (folder / "slow").exists():
            time.sleep(0.2)
        return evaluate(self, *given)

    Denoiser.__call__ = slowed
    import gradio.queueing

    named = gradio.queueing.set_task_name

    def cancelled(task, *given):
        named(task, *given)
        if (folder / "cancel").exists():
            (folder / "cancel").unlink()
            task.cancel()

    gradio.queueing.set_task_name = cancelled
    sys.argv = [module, *sys.argv[4:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
