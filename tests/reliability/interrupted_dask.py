"""Ctrl-C at random moments of a client that submits tasks to Dask: does each end it as it should?

python -m tests.reliability.interrupted_dask --count 5000 [--seed 0]

Where Python ignores the exception of a signal, it is sent again (cli/signals.py).
"""

import logging
import random
import signal
import sys
from collections import Counter

from distributed import Client

from compress_ssl.cli.errors import cause_of
from compress_ssl.cli.signals import end_at_a_signal
from compress_ssl.pipeline.dask.cluster import run_tasks
from tests.reliability.options import parser

SHORTEST, LONGEST = 0.01, 0.05  # CPU seconds until the signal
MOST_TASKS_AFTER = 3000  # a few seconds


def identity(number: int) -> int:
    return number


def interrupt(client: Client, seconds: float) -> str:
    """Send Ctrl-C to this process so many CPU seconds after it began; what came of it."""
    end_at_a_signal()
    sent, ignored = [], []
    resend = sys.unraisablehook

    def count(caught: "sys.UnraisableHookArgs") -> None:
        ignored.append(caught.exc_type)
        resend(caught)

    sys.unraisablehook = count

    def send(*_: object) -> None:
        sent.append(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGPROF, send)
    after = 0
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        for _ in run_tasks(client, identity, range(10**9)):
            after += len(sent)
            if after > MOST_TASKS_AFTER:
                return "lost"
    except KeyboardInterrupt:
        return "sent again" if KeyboardInterrupt in ignored else "at once"
    except RuntimeError as error:
        return "another error in its place" if cause_of(error) is not error else f"error: {error!r}"
    return "ended"


def main(count: int, seed: int) -> None:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    logging.getLogger("tornado.application").setLevel(logging.CRITICAL)
    client = Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None)
    moments = random.Random(seed)
    print(Counter(interrupt(client, moments.uniform(SHORTEST, LONGEST)) for _ in range(count)))


if __name__ == "__main__":
    main(**vars(parser(__doc__, count=5000).parse_args()))
