"""Graceful shutdown: finish and checkpoint the current step on a signal.

Slurm sends SIGTERM and SIGUSR1 before it ends a job (``--signal=USR1@120``); SIGINT is Ctrl-C. A second signal of the
same kind ends the process at once.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], signal.Signals | None]]:
    """Catch the signals inside the block; yield a function that returns the first one received, or None."""
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: None
        return
    # A signal that the parent ignores (nohup, a shell's background job) stays ignored.
    previous = {each: old for each in SIGNALS if (old := signal.getsignal(each)) is not signal.SIG_IGN}

    def record(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(signal.Signals(number))
        signal.signal(number, previous[signal.Signals(number)])

    for each in previous:
        signal.signal(each, record)
    try:
        yield lambda: received[0] if received else None
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
