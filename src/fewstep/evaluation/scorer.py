"""A score of one's own: a function from pictures and their prompts to numbers, as a preference model."""

import hashlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import InputError, shown
from fewstep.evaluation.features import clipped

FORM = "give MODULE:FUNCTION, a function of (images, prompts)"


@dataclass(frozen=True)
class Scorer:
    """A user's function of images float32 (n, c, h, w) in [-1, 1], on the CPU, and their n prompts or names of classes, to n numbers."""

    name: str
    function: Callable[[Tensor, list[str]], Any]

    @classmethod
    def open(cls, choice: "str | Callable[[Tensor, list[str]], Any]") -> "Scorer":
        """Of a function, or of its name MODULE:FUNCTION; the module is in the working folder or installed.

        Raises:
            InputError: no such module or function, or a module that fails when it is imported.
        """
        if not isinstance(choice, str):
            if not callable(choice):
                raise InputError(f"score is {shown(choice)}; {FORM}, or the function itself")
            return cls(f"{getattr(choice, '__module__', '')}:{getattr(choice, '__qualname__', type(choice).__qualname__)}", choice)
        module, _, path = choice.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
            raise InputError(f"score is {shown(choice)}; {FORM}")
        if (folder := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, folder)  # as `python -m` does
        try:
            found = import_module(module)
        except Exception as error:
            raise InputError(f"score {choice}: the module '{module}' cannot be imported ({in_one_line(error)}); {FORM}") from error
        try:
            function = reduce(getattr, path.split("."), found)
        except AttributeError:
            raise InputError(f"score {choice}: {module} has no function '{path}'; {FORM}") from None
        if not callable(function):
            raise InputError(f"score {choice}: '{path}' of {module} is a {type(function).__name__}; {FORM}")
        return cls(choice, function)

    @property
    def fingerprint(self) -> str:
        """Its name and a hash of its source, where there is one: what scores must have in common to stand in one table."""
        try:
            source = inspect.getsource(self.function)
        except (OSError, TypeError):
            return self.name
        return f"{self.name} {hashlib.sha256(source.encode()).hexdigest()[:12]}"

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """float64 (n,), of images (n, c, h, w), clipped to [-1, 1], and as many prompts.

        Raises:
            InputError: the function fails, or gives other than n finite numbers.
        """
        try:
            given = self.function(clipped(images).cpu(), list(prompts))
            scores = torch.as_tensor(given).detach().to("cpu", torch.float64)
        except Exception as error:
            raise InputError(f"score {self.name} failed ({in_one_line(error)}); it is to give ({len(images)},) numbers") from error
        if scores.shape != (len(images),):
            raise InputError(
                f"score {self.name} gives shape {tuple(scores.shape)} for {len(images)} images; give ({len(images)},), one number an image"
            )
        if bad := int((~scores.isfinite()).sum()):
            raise InputError(f"score {self.name} is not finite for {bad} of {len(images)} images; give finite numbers")
        return scores


def in_one_line(error: BaseException) -> str:
    """The kind and the message of an error, and the file and line that raised it."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    place = "" if traceback is None else f", {Path(traceback.tb_frame.f_code.co_filename).name}:{traceback.tb_lineno}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{place}"
