"""Requests to a server: sent again while it or the network fails, and given up at once when the program is to end.

The client's own retries are switched off: they end after ten attempts, a few seconds if connections are refused, do not
cover bodies that break off, and repeat a conditional put whose answer was lost as if it had not been done.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import threading
import time
from concurrent.futures import Future, wait
from contextvars import ContextVar
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from compress_ssl.storage.errors import StoreError, StoreRefusedError, StoreUnreachableError
from compress_ssl.storage.places.connection import PutRefusedError, explained
from compress_ssl.storage.places.credentials import needs
from compress_ssl.storage.places.environment import number_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

RETRY_SECONDS = "COMPRESS_SSL_RETRY_SECONDS"
"""Environment variable: for how long a failing request is sent again; three minutes unless set."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds between two attempts; each pause is about twice the one before
POLL_SECONDS = 0.1  # how often a waiting thread looks whether the program is to end
GRACE_SECONDS = 5.0  # for the answer of a request that is under way when the program is to end

Answer = TypeVar("Answer")

_bound: ContextVar[float] = ContextVar("seconds of retries", default=math.inf)
_telling = threading.Lock()  # held by the request whose failure the user was told of, until it succeeds or is given up
_ending_since = math.inf


def ask(place: object, request: Callable[[], Answer]) -> Answer:
    """Return the answer to a request; it is sent again while the server cannot be reached or fails.

    Raises:
        FileNotFoundError: If there is no such object.
        PutRefusedError: If a conditional put is refused.
        StoreUnreachableError: If the server could not be reached in all the time.
        StoreRefusedError: If it refuses the request, or has no such bucket.
        StoreError: If obstore is not installed.
    """
    if find_spec("obstore") is None:
        raise StoreError(needs("obstore", purpose=f"'{place}'"))
    deadline, failures, told = math.inf, 0, False
    try:
        while True:
            try:
                return _answer(place, request)
            except StoreRefusedError:
                raise
            except PutRefusedError as refused:
                refused.was_sent_before = failures > 0
                raise
            except StoreUnreachableError as error:
                now = time.monotonic()
                if failures == 0:
                    deadline = now + retry_seconds()
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures) * random.uniform(0.5, 1)
                if now >= deadline or not _pause(min(pause, deadline - now)):
                    raise
                failures += 1
                if failures == 2 and (told := _telling.acquire(blocking=False)):
                    logger.warning("%s Retrying for %.0f seconds.", error, deadline - now)
    finally:
        if told:
            _telling.release()


def _answer(place: object, request: Callable[[], Answer]) -> Answer:
    """Return the answer to one request, sent by a thread of its own: the client's calls cannot be interrupted."""
    future: Future[Answer] = Future()

    def send() -> None:
        try:
            future.set_result(request())
        except BaseException as error:  # noqa: BLE001 (a panic of the client is no Exception)
            future.set_exception(error)

    threading.Thread(target=send, name="request", daemon=True).start()
    started = time.monotonic()
    while not wait([future], POLL_SECONDS).done:
        if time.monotonic() - max(started, _ending_since) > GRACE_SECONDS:
            raise StoreUnreachableError(f"'{place}' did not answer when the program was to end.")
    error = future.exception()
    if error is None:
        return future.result()
    raise explained(place, error) from None


def _pause(seconds: float) -> bool:
    """Wait; returns False, at once, if the program is to end."""
    until = time.monotonic() + seconds
    while (rest := until - time.monotonic()) > 0 and _ending_since == math.inf:
        time.sleep(min(rest, POLL_SECONDS))
    return _ending_since == math.inf


def give_up() -> None:
    """Send no request again from now on, and wait only briefly for answers: the program is to end.

    A signal handler may call this.
    """
    global _ending_since
    _ending_since = min(_ending_since, time.monotonic())


def retry_seconds() -> float:
    """Return for how long a failing request is sent again.

    Raises:
        StoreError: If the environment sets it to what is no number of seconds.
    """
    given = number_from(RETRY_SECONDS, "seconds", "0 for no retries")
    return min(180 if given is None else given, _bound.get())


@contextlib.contextmanager
def retrying_for(seconds: float) -> Iterator[None]:
    """Send failing requests again for at most so long while the block runs."""
    token = _bound.set(seconds)
    try:
        yield
    finally:
        _bound.reset(token)
