"""Waiting for threads."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from compress_ssl.storage.places.parallel import map_threads, result_of


def test_results_are_in_order_and_an_error_cancels_what_has_not_started() -> None:
    begun: list[int] = []

    def invert(number: int) -> float:
        begun.append(number)
        time.sleep(0.05)
        return 1 / number

    assert list(map_threads(invert, [4, 2, 1])) == [0.25, 0.5, 1]
    begun.clear()
    with pytest.raises(ZeroDivisionError):
        list(map_threads(invert, [1, 0, *range(1, 100)], threads=1))
    assert len(begun) < 100


@pytest.mark.parametrize("waits_for", ["map_threads", "result_of"])
def test_signal_that_does_not_end_the_wait_is_soon_seen(waits_for: str) -> None:
    """The main thread blocks it, so that another one gets it, whose handler runs in the main thread all the same."""
    seen = threading.Event()
    before = signal.signal(signal.SIGUSR2, lambda *_: seen.set())
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR2)).start()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(seen.wait, 20)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        try:
            was_seen = result_of(future) if waits_for == "result_of" else next(map_threads(seen.wait, [20]))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
            signal.signal(signal.SIGUSR2, before)
    assert was_seen
