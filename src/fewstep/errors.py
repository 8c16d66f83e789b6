"""The one exception that a user's input can cause, and what is checked everywhere."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any


class InputError(ValueError):
    """What was given cannot be used; the message is one line: the value, the limit and the remedy."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the known word nearest to `word`, or lists all of them where none is near."""
    known = [str(k) for k in known]
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "known: " + ", ".join(known)


def shown(value: Any) -> str:
    """A value as a message has it: on one line of at most 80 characters; of an array its type and shape."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a {type(value).__name__} of {value.dtype} shaped {tuple(value.shape)}"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a whole number of more than 4,300 digits has no text
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def check_whole_number(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raises InputError where a value is not a whole number from `least` to `most`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least or (most is not None and int(value) > most):
        limit = f"{least} or more" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} is {shown(value)}; give a whole number, {limit}")


def check_number(name: str, value: Any, least: float, most: float) -> None:
    """Raises InputError where a value is not a number from `least` to `most`; NaN is none."""
    if not isinstance(value, Real) or isinstance(value, bool) or not least <= value <= most:  # pyright: ignore[reportOperatorIssue]
        raise InputError(f"{name} is {shown(value)}; give a number from {least:g} to {most:g}")


def check_choice(name: str, value: Any, known: Iterable[str]) -> None:
    """Raises InputError where a value is none of the known words."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name} {shown(value)} is not known; known: {', '.join(known)}")


def check_text(name: str, value: Any) -> None:
    """Raises InputError where a value is not text that can be written as UTF-8."""
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError):
        raise InputError(f"{name} is {shown(value)}; give text in UTF-8, without lone surrogates") from None


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
