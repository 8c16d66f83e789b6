"""How many cases hypothesis tries: few in `make test`, FEWSTEP_FUZZ times as many in `make faults`."""

import os

from hypothesis import HealthCheck, settings


def fuzz(examples):
    """A decorator: the same cases each time, however long one takes."""
    times = int(os.environ.get("FEWSTEP_FUZZ", "1"))
    return settings(
        max_examples=times * examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
