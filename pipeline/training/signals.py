"""Ending well when asked: the step in hand is finished and saved before the process goes.

SIGTERM and SIGUSR1 are what Slurm sends before it ends a job (``--signal=USR1@120``); SIGINT is Ctrl-C. A second
signal of the same kind ends the process at once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], signal.Signals | None]]:
    """Take the signals while the block runs; the function given back says which one came, if any."""
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: None
        return
    # A parent that ignores a signal (nohup, a shell's background job) wants it ignored.
    taken = {each: old for each in SIGNALS if (old := signal.getsignal(each)) is not signal.SIG_IGN}

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(signal.Signals(number))
        signal.signal(number, taken[signal.Signals(number)])

    for each in taken:
        signal.signal(each, note)
    try:
        yield lambda: received[0] if received else None
    finally:
        for each, old in taken.items():
            signal.signal(each, old)
