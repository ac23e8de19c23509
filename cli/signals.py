"""What a signal does to a command: the first ends it with a sentence and an exit code, a second one at once."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

from compress_ssl.cli.exit_codes import INTERRUPTED, RESUMABLE
from compress_ssl.pipeline.common.errors import Terminated
from compress_ssl.storage.places.retries import give_up
from compress_ssl.storage.signals import TERMINATE, stop_handlers

RESEND_SECONDS = 0.01


def end_at_a_signal() -> None:
    """Raise ``KeyboardInterrupt`` at Ctrl-C and ``Terminated`` at the other signals; ignored ones stay ignored."""
    _handle(_raise)
    sys.unraisablehook = _resend


def end_at_once_at_the_next() -> None:
    """Let the next signal end the process; but not SIGHUP, which kernel and shell both send of a closed terminal."""
    _handle(_exit)
    if signal.getsignal(signal.SIGHUP) is _exit:
        signal.signal(signal.SIGHUP, _do_nothing)


def _handle(handler: Callable[[int, object], None]) -> None:
    for number in stop_handlers():
        signal.signal(number, handler)


def _raise(number: int, _: object) -> None:
    end_at_once_at_the_next()
    give_up()
    raise Terminated if number in TERMINATE else KeyboardInterrupt


def _resend(ignored: "sys.UnraisableHookArgs") -> None:
    """Send a signal again whose exception Python ignored, as in a destructor or the callback of a weak reference."""
    if isinstance(ignored.exc_value, KeyboardInterrupt):
        number = signal.SIGTERM if isinstance(ignored.exc_value, Terminated) else signal.SIGINT
        _handle(_raise)
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
        signal.setitimer(signal.ITIMER_REAL, RESEND_SECONDS)
    elif signal.getsignal(signal.SIGTERM) is not _exit:  # a signal leaves objects half made
        sys.__unraisablehook__(ignored)


def _do_nothing(*_: object) -> None:
    pass


def _exit(number: int, _: object) -> None:
    with contextlib.suppress(OSError):  # a closed terminal
        os.write(2, b"\nStopped at once.\n")
    os._exit(RESUMABLE if number in TERMINATE else INTERRUPTED)
