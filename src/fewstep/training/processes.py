"""What one process does for all of a run."""

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from fewstep.errors import InputError, first_line


def said_by_main(accelerator: Accelerator, value: Any) -> Any:
    """What the first process says, in all of them; each must ask."""
    said = [value]
    if accelerator.num_processes > 1:
        broadcast_object_list(said)
    return said[0]


def by_main(accelerator: Accelerator, work: Callable[[], Any]) -> None:
    """Have the first process do some work that the others wait for; all end with an error where it fails, and none waits for ever.

    Raises:
        InputError: the work failed in the first process, which raises what it raised there.
    """
    problem: Exception | None = None
    if accelerator.is_main_process:
        try:
            work()
        except Exception as error:
            problem = error
    if accelerator.num_processes > 1:
        said = [None if problem is None else first_line(problem)]
        broadcast_object_list(said)
        if said[0] is not None and problem is None:
            raise InputError(f"the first process failed: {said[0]}")
    if problem is not None:
        raise problem
