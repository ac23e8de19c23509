"""The signals that end a command, and code in which they must wait."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

TERMINATE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Slurm sends SIGTERM and SIGUSR1 before it ends a job (``--signal=USR1@120``); a terminal sends SIGHUP when it is
closed."""

STOP_SIGNALS = (*TERMINATE, signal.SIGINT)


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], None]]:
    """Hold back the signals inside the block; yield a function that delivers those that came.

    For code that the exception of a signal would break wherever it happens to be.
    """
    came: list[Any] = []
    main = threading.current_thread() is threading.main_thread()
    handlers = {
        number: handler for number in (STOP_SIGNALS if main else ()) if callable(handler := signal.getsignal(number))
    }

    def hold(number: int, _: object) -> None:
        came.append(number)

    def deliver() -> None:
        while came:
            handlers[came[0]](came.pop(0), None)

    for number in handlers:
        signal.signal(number, hold)
    try:
        yield deliver
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is hold:  # a handler may set others for the next signal
                signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)
