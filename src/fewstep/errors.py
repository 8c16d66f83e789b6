"""The one exception that a user's input can cause, and what is checked everywhere."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any


class InputError(ValueError):
    """What was given cannot be used; the message is one line: the value, the limit and the remedy."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the known word nearest to `word`, or lists all of them where none is near."""
    known = [str(k) for k in known]
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "known: " + ", ".join(known)


def check_whole_number(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raises InputError where a value is not a whole number from `least` to `most`."""
    if not isinstance(value, Integral) or int(value) < least or (most is not None and int(value) > most):
        limit = f"{least} or more" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} is {value!r}; give a whole number, {limit}")


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; its name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def as_input_error(problem: str, remedy: str) -> Iterator[None]:
    """Raises InputError in place of whatever a library raises, of which the kinds are many; an InputError passes as it is."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{problem}: {first_line(error)}; {remedy}") from error
