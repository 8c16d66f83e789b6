"""The one place where pictures are drawn: one drawing at a time, which ends in time, whatever becomes of who asked for it."""

import asyncio
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, TypeVar

from fewstep.errors import InputError

LIMIT = 600.0  # seconds that a drawing may take
GRACE = 30.0  # seconds in which a drawing that was ended may finish its step, before the next one begins beside it
Result = TypeVar("Result")


class Ended(Exception):
    """A drawing was stopped, abandoned, or out of time."""


class Slot:
    """Draws in turn. Nothing outside holds the slot, and every way out of a drawing gives it back.

    Gradio's own limit of concurrent events does not: an event that is cancelled before it has begun keeps its place for good.
    """

    def __init__(self, limit: float = LIMIT, grace: float = GRACE) -> None:
        self.limit, self.grace = limit, grace
        self._turn, self._drawings = asyncio.Lock(), dict[str, dict[asyncio.Task, Any]]()

    async def draw(self, visitor: str, work: Callable[[], Result], ended: threading.Event, what: Any = None) -> Result:
        """What `work` returns, called in a thread when it is this drawing's turn; it ends itself once `ended` is set.

        `what` is what `supersede` knows the drawing by.

        Raises:
            Ended: `end` was called for the visitor, or `work` raised it.
            InputError: the drawing took longer than the limit.
        """
        task = asyncio.create_task(self._in_turn(work, ended))
        tasks = self._drawings.setdefault(visitor, {})
        tasks[task] = what
        try:
            await asyncio.wait({task})
        finally:  # also where who asked is gone
            task.cancel()
            tasks.pop(task, None)
            if not tasks:
                self._drawings.pop(visitor, None)
        if task.cancelled():
            raise Ended
        return task.result()

    async def _in_turn(self, work: Callable[[], Result], ended: threading.Event) -> Result:
        async with self._turn:
            thread = asyncio.get_running_loop().run_in_executor(None, copy_context().run, work)
            thread.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at, also where nobody waits
            try:
                async with asyncio.timeout(self.limit):
                    return await asyncio.shield(thread)
            except TimeoutError:
                raise InputError(f"this took more than {self.limit:g} seconds; ask for fewer images or steps") from None
            finally:
                if not thread.done():
                    ended.set()
                    await asyncio.wait({thread}, timeout=self.grace)

    def end(self, visitor: str) -> None:
        """End what is drawn for a visitor at its next step, and what waits at once."""
        for task in self._drawings.get(visitor, ()):
            task.cancel()

    def supersede(self, visitor: str, what: Any) -> bool:
        """End what is drawn for a visitor under another name than `what`; False, and nothing is ended, where that itself is drawn."""
        named = {task: one for task, one in self._drawings.get(visitor, {}).items() if one is not None}
        if any(one == what for one in named.values()):
            return False
        for task in named:
            task.cancel()
        return True
