"""The command line: each command parses its arguments, makes one call of the library, and prints. Results to stdout, progress to stderr.

Exit codes: 0 done, 2 wrong input (one line), 130 interrupted (state saved). Heavy libraries are imported inside the commands.
"""

import os
import sys
import warnings

import typer

from fewstep.cli import compare, edit, evaluate, export, new, playground, train, use  # noqa: F401 - importing registers their commands
from fewstep.cli.options import app, say
from fewstep.errors import InputError
from fewstep.files import os_errors


def main() -> None:
    """The entry point: errors become one line and an exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # busy waiting makes a small network 10 times slower on a busy machine
    for stream in (sys.stdout, sys.stderr):  # a path need not be UTF-8, and is printed all the same
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_args, **_rest: f"warning: {message}\n"
    try:
        with os_errors():
            code = app(standalone_mode=False)
            sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except Exception as error:
        sys.exit(exit_code(error))
    if code == 130:  # what typer makes of Ctrl+C within a command
        say("interrupted")
    if isinstance(code, int) and code:
        sys.exit(code)


def exit_code(error: Exception) -> int:
    """Print what a user is to know of an error; its exit code. What is a fault of ours is raised again."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    usage = getattr(error, "format_message", None)  # of what typer raises where the words of a command are wrong
    if type(error).__name__ == "Interrupted":  # of training, which is not imported here for its weight
        say(str(error))
        return 130
    if usage and type(error).__name__ == "NoArgsIsHelpError":  # a command without its words
        say(usage())
    elif usage:
        say(f"error: {' '.join(usage().split())} (see: fewstep --help)")
    elif isinstance(error, InputError):
        say(f"error: {' '.join(str(error).split())}")
    else:
        raise error
    return 2
