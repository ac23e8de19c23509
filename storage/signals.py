"""The signals that end a command, and code in which they must wait."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

TERMINATE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Slurm sends SIGTERM and SIGUSR1 before it ends a job (``--signal=USR1@120``); a terminal sends SIGHUP when it is
closed."""

STOP_SIGNALS = (*TERMINATE, signal.SIGINT)


def stop_handlers() -> dict[int, Any]:
    """Return the handlers of the stop signals; of none outside the main thread, which alone may set them.

    A signal that the parent ignores (nohup, a shell's background job) is left out, and so stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {each: handler for each in STOP_SIGNALS if (handler := signal.getsignal(each)) is not signal.SIG_IGN}


@contextlib.contextmanager
def replaced_handlers(handlers: Mapping[int, Any], by: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Replace these handlers inside the block; afterwards restore those that were not replaced again."""
    for number in handlers:
        signal.signal(number, by)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is by:
                signal.signal(number, handler)


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], None]]:
    """Hold back the signals inside the block; yield a function that delivers those that came.

    For code that the exception of a signal would break wherever it happens to be.
    """
    came: list[int] = []
    handlers = {number: handler for number, handler in stop_handlers().items() if callable(handler)}

    def deliver() -> None:
        while came:
            number = came.pop(0)
            handlers[number](number, None)

    try:
        with replaced_handlers(handlers, lambda number, _: came.append(number)):
            yield deliver
    finally:
        for number in came:
            signal.raise_signal(number)
