"""Progress of long work: one live line on stderr, and plain lines between."""

import os
import sys
import time


def clock(seconds: float) -> str:
    """Seconds as "1 h 02 min", "3 min 20 s" or "45 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def is_first_process() -> bool:
    """Whether this is the first of a command's processes, as torchrun and accelerate number them; a process alone is."""
    return os.environ.get("RANK", "0") == "0"


def print_once(*lines: object) -> None:
    """Print results, a line each, on stdout: the first of a command's processes does."""
    if is_first_process():
        print(*lines, sep="\n")


class LiveLine:
    """One line on stderr: rewritten in place on a terminal, else printed again every `every` seconds."""

    def __init__(self, every: float = 15.0, quiet: bool = False) -> None:
        self.every, self.quiet, self.last = every, quiet, 0.0
        self.terminal = sys.stderr.isatty()

    def show(self, text: str, final: bool = False) -> None:
        """Show the line; `final` leaves it standing."""
        now = time.monotonic()
        if self.quiet or not (final or self.terminal or now - self.last >= self.every):
            return
        self.last = now
        print(
            f"\r\x1b[2K{text}" if self.terminal else text,
            end="" if self.terminal and not final else "\n",
            file=sys.stderr,
            flush=True,
        )


def to_stderr(line: str) -> None:
    """Print a line of progress or warning at once."""
    print(line, file=sys.stderr, flush=True)
