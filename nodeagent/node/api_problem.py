"""How a request to the Kubernetes API fails: every way in which it does, in one type, with words and waits in bounds.

What the API server, or whatever is in its place, says goes into conditions, logs and `/status`, and decides when it is
asked again. It is another party: how much it says and how long it wants to be left alone is bounded here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from http import HTTPStatus
from typing import Final, cast

import httpx2
import msgspec
from lightkube import ApiError, ConfigError

MOST_WORDS: Final = 1000
"""Characters of a message, whatever the API server says."""

MOST_WAIT: Final = 60.0
"""Seconds for which the agent leaves the API server alone, however long that wants it to: as long as the longest pause
between tries of its own.
"""


class Trouble(Enum):
    """What kind of answer, or none, a request got. BUSY: not now; ABSENT: there is no such object; CONFLICT: it has
    changed meanwhile; REFUSED: anything else that the API server says no to; ODD: an answer that cannot be understood,
    or is beyond all bounds.
    """

    UNREACHABLE = "unreachable"
    BUSY = "busy"
    FORBIDDEN = "forbidden"
    ABSENT = "absent"
    CONFLICT = "conflict"
    REFUSED = "refused"
    ODD = "odd"


_TROUBLES: Final = {
    401: Trouble.FORBIDDEN,
    403: Trouble.FORBIDDEN,
    404: Trouble.ABSENT,
    409: Trouble.CONFLICT,
    410: Trouble.BUSY,  # a watch has fallen behind
    422: Trouble.CONFLICT,  # a JSON patch whose test does not hold
    429: Trouble.BUSY,
}


class ApiProblem(Exception):
    """A request failed. The message says what could not be done, and why; `retry_after` in seconds, where the API
    server says how long it wants to be left alone.
    """

    def __init__(self, message: str, trouble: Trouble, retry_after: float | None = None) -> None:
        super().__init__(bounded(message))
        self.trouble = trouble
        self.retry_after = retry_after


class OddAnswer(httpx2.RequestError):
    """The answer cannot be taken in; the message says why, as a clause."""


def bounded(text: str) -> str:
    """The text, or the beginning of one that is too long."""
    return text if len(text) <= MOST_WORDS else f"{text[: MOST_WORDS - 1]}…"


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Every way in which a request fails, as an ApiProblem."""
    try:
        yield
    except TimeoutError as error:
        raise ApiProblem(f"{what}: no answer in time", Trouble.UNREACHABLE) from error
    except httpx2.HTTPStatusError as error:
        raise _refused(what, error) from error
    except OddAnswer as error:
        raise ApiProblem(f"{what}: {error}", Trouble.ODD) from error
    except (httpx2.DecodingError, httpx2.TooManyRedirects) as error:
        raise _odd(what, error) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, ConfigError, OSError) as error:
        raise ApiProblem(f"{what}: {str(error) or type(error).__name__}", Trouble.UNREACHABLE) from error
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError, msgspec.MsgspecError) as error:
        # lightkube takes an answer for what it should be; what it stumbles over is one that is something else.
        raise _odd(what, error) from error


def _refused(what: str, error: httpx2.HTTPStatusError) -> ApiProblem:
    response = cast("httpx2.Response | None", error.response)  # of a watch that is ended by an error there is none
    said: object
    code: object
    if response is not None:
        said, code = _said(response), response.status_code
    else:
        status = error.status if isinstance(error, ApiError) else None
        said, code = getattr(status, "message", None), getattr(status, "code", None)
    code = code if isinstance(code, int) else 0
    message = f"{what}: {said if said and isinstance(said, str) else f'the API server answered {code}'}"
    trouble = Trouble.BUSY if code >= HTTPStatus.INTERNAL_SERVER_ERROR else _TROUBLES.get(code, Trouble.REFUSED)
    wait = retry_after(response.headers.get("Retry-After", "")) if response is not None else None
    return ApiProblem(message, trouble, wait)


def _said(response: httpx2.Response) -> object:
    """The message of a Status, if that is what has come."""
    try:
        status = response.json()
    except (ValueError, RecursionError, httpx2.StreamError):
        return None
    return status.get("message") if isinstance(status, dict) else None


def _odd(what: str, error: Exception) -> ApiProblem:
    return ApiProblem(f"{what}: cannot be understood: {error!r}", Trouble.ODD)


def retry_after(value: str, now: datetime | None = None) -> float | None:
    """Seconds for which the API server wants to be left alone, by the header Retry-After: a number of seconds or a
    date. Never less than none nor more than `MOST_WAIT`; None where it says nothing that makes sense.
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
        seconds = (until - (now or datetime.now(UTC))).total_seconds()
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MOST_WAIT)
