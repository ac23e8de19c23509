"""The signals that end a command."""

import signal

TERMINATE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Slurm sends SIGTERM and SIGUSR1 before it ends a job (``--signal=USR1@120``); a terminal sends SIGHUP when it is
closed."""

STOP_SIGNALS = (*TERMINATE, signal.SIGINT)
