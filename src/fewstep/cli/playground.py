"""The command that opens the page in a browser: playground."""

import socket
import threading
from dataclasses import replace
from typing import Annotated

import typer

from fewstep.cli.options import Device, Seed, app, say
from fewstep.errors import InputError


@app.command(epilog="Examples:  fewstep playground    fewstep playground runs/quickstart --port 7861")
def playground(
    model: Annotated[str | None, typer.Argument(help="Run folder (all its students), model folder, or 'digits'; a bundled student without it.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Teacher to compare with; of a run, its own without it.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder for style transfer; the run's own or the teacher without it.")] = None,
    inpainter: Annotated[str | None, typer.Option(help="Model of the Inpaint tab, of 9 channels or not; MODEL without it.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; another than this machine's own lets others in.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; without it the first free one from 7860 on.")] = None,
    device: Device = None,
    seed: Seed = 0,
) -> None:  # fmt: skip
    """Draw, edit, fill in and restyle pictures on a page in the browser, until Ctrl+C."""
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise InputError("the playground needs gradio; install it: pip install 'fewstep[playground]'")
    check_address(host, port)  # what is wrong with the address is said before the models are opened
    from fewstep.devices import best_device
    from fewstep.playground.guard import answers_to
    from fewstep.playground.models import open_models
    from fewstep.playground.page import serve

    page = serve(replace(open_models(model, teacher, encoder, best_device(device), inpainter), seed=seed or 0), host, port)
    if answers_to(host) is None:
        say(f"warning: whoever reaches {host} on port {page.server_port} can use the playground; without --host you alone can")
    print(f"playground at http://{host}:{page.server_port} (Ctrl+C ends it)", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)


def check_address(host: str, port: int | None) -> None:
    """Listen on an address for a moment; without a port on any.

    Raises:
        InputError: the port is in use, or there is no such address here.
    """
    try:
        socket.create_server((host, port or 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        where = f"--host {host}" + (f" --port {port}" if port else "")
        raise InputError(f"cannot listen on {where} ({error.strerror}); name another, or leave it out") from None
