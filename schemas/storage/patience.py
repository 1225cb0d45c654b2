"""How long a failing server is waited for, and how the waiting is spread."""

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from attlas.schemas.errors import InvalidValueError

__all__ = ["Patience", "from_environment"]


@dataclass(frozen=True)
class Patience:
    """Bounds of waiting for a server.

    Attributes
    ----------
    retries
        Seconds for which a request is repeated while the server refuses, stalls or cannot be reached.
    request
        Seconds that one request may take.
    first, longest
        Seconds of the first pause between two tries, and of the longest.
    """

    retries: float = 60.0
    request: float = 60.0
    first: float = 0.2
    longest: float = 10.0

    @classmethod
    def from_environment(cls) -> "Patience":
        """Return the usual bounds, or those of ``ATTLAS_RETRY_SECONDS`` and ``ATTLAS_REQUEST_SECONDS``."""
        retries = from_environment("ATTLAS_RETRY_SECONDS", cls.retries)
        request = from_environment("ATTLAS_REQUEST_SECONDS", cls.request)
        return cls(retries, request, min(cls.first, max(retries / 20, 0.001)), max(min(cls.longest, retries / 4), 0.01))

    def tries(self) -> Iterator[int]:
        """Count tries from 1 as long as there is time, with a pause before each but the first."""
        end = time.monotonic() + self.retries
        pause = self.first
        number = 1
        yield number
        while (left := end - time.monotonic()) > 0:
            # Spread, so that clients which failed together do not come back together.
            time.sleep(min(left, pause * random.uniform(0.5, 1.5)))
            pause = min(2 * pause, self.longest)
            number += 1
            yield number


def from_environment(name: str, usual: float) -> float:
    """Return a number of seconds from the environment, or the usual one."""
    given = os.environ.get(name)
    if not given:
        return usual
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise InvalidValueError(f"{name} is {given!r}; a number of seconds is accepted, such as {usual:g}")
    return seconds
