"""The command that writes a recipe: it asks for teacher, data and device, checks each answer at once, and predicts the cost."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from fewstep.cli import options
from fewstep.cli.options import app, changes_of, say
from fewstep.errors import InputError

Value = TypeVar("Value")
MEMORY = "24"  # GB of a device that is not here, unless it is said


@app.command(
    epilog="Examples:  fewstep new    fewstep new --teacher runs/mine/teacher --data images/ --device cpu --out mine.toml --yes"
)
def new(
    teacher: options.Teacher = None,
    data: Annotated[str | None, typer.Option(help="Image folder, .npz, anything that datasets opens, or a .txt of prompts.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write, new.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, mps; it need not be here.")] = None,
    memory: Annotated[float | None, typer.Option(min=0.1, help="GB that a device has which is not here. [24]")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: take the default of what is not given.")] = False,
    settings: options.Set = None, seed: options.Seed = None,
) -> None:  # fmt: skip
    """Write a commented recipe for a teacher, its data and a device, with what it will cost; asks what is not given."""
    ask, changes = Questions(yes), changes_of(settings, seed)
    from fewstep.files import utf8_path_of
    from fewstep.training.new_recipe import chosen, open_data_of, open_teacher, write_new
    from fewstep.training.recipe import load_recipe

    load_recipe(None, changes)

    def shown(found: tuple[Value, str]) -> tuple[Value, str]:
        say(f"  {found[1]}")
        return found

    path, (model, facts) = ask("Teacher", "--teacher", teacher, "digits", lambda path: (path, shown(open_teacher(path, changes))))
    known = "digits" if path == "digits" else None
    keys, contents = ask("Data", "--data", data, known, lambda given: shown(open_data_of(given, model, changes)))
    device = ask("Device", "--device", device, best(), checked_device)
    room = memory_of(
        device, lambda: ask("Its memory in GB", "--memory", None if memory is None else str(memory), MEMORY, gigabytes)
    )
    stem = Path(path).parent.name if Path(path).name == "teacher" else Path(path).stem

    def new_file(given: str) -> Path:
        if (file := utf8_path_of("file", given)).exists():
            raise InputError(f"{file} is there already; name a new file")
        return file

    file = ask("Recipe file", "--out", None if out is None else str(out), f"{stem or 'new'}.toml", new_file)
    say("choosing what fits ...")
    picked = chosen(model, {"teacher.path": path} | keys, changes, device.partition(":")[0], room)
    print(write_new(file, picked, model, [facts, contents], device, say))
    words = shlex.join(["fewstep", "distill", str(file), "--out", f"runs/{file.stem}", "--device", device])
    say(f"{file} is written; begin: {words}")


class Questions:
    """Asks on stderr and reads stdin, unless what is asked for was given, or nothing is to be asked."""

    def __init__(self, yes: bool) -> None:
        self.yes = yes

    def __call__(self, what: str, option: str, given: str | None, default: str | None, check: Callable[[str], Value]) -> Value:
        """What `check` makes of the answer, asked again until it takes one.

        Raises:
            InputError: what was given cannot be used, or there is no answer.
        """
        if given is not None or (self.yes and default is not None):
            return check(default or "" if given is None else given)
        if self.yes:
            raise InputError(f"nothing is given for {what.lower()}, which has no default: name it, {option}")
        while True:
            print(f"{what}{f' [{default}]' if default else ''}: ", end="", file=sys.stderr, flush=True)
            if not (line := sys.stdin.readline()):
                raise InputError(
                    f"the input ended before {what.lower()} was answered; name it, {option}, or take defaults by --yes"
                )
            if answer := line.strip() or default:
                try:
                    return check(answer)
                except InputError as error:
                    say(f"  {' '.join(str(error).split())}")


def best() -> str:
    """The kind of the best device here."""
    from fewstep.devices import best_device

    return best_device().type


def checked_device(name: str) -> str:
    """The device's name; raises InputError where torch knows none of this kind."""
    import torch

    try:
        if torch.device(name).type in ("cpu", "cuda", "mps", "xpu"):
            return name
    except RuntimeError:
        pass
    raise InputError(f"device '{name[:40]}' is not known; name cpu, cuda or mps")


def memory_of(device: str, ask: Callable[[], int]) -> int:
    """Bytes that a device has, asked for where it is not here."""
    import torch

    from fewstep.devices import best_device
    from fewstep.training.memory_estimate import room

    try:
        return room(best_device(device))
    except InputError:
        assert torch.device(device).type != "cpu"
        return ask()


def gigabytes(text: str) -> int:
    """Bytes of so many GB; raises InputError where that is no number from 0.1 to 100,000."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.1 <= number <= 1e5:
        raise InputError(f"memory '{text[:40]}': give GB, as 24")
    return int(number * 1e9)
