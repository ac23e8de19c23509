"""Exceptions that end a stage early. Each message is short: what, where, what to do."""

from __future__ import annotations

import difflib
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable, Mapping
    from pathlib import Path


class InputError(ValueError):
    """A path, name, file or setting from the user cannot be used (exit code 2)."""


class RunError(RuntimeError):
    """A run failed after it had started: the loss is not finite, a worker process died (exit code 1)."""


class SomeTrainingsFailed(RunError):
    """Some of the trainings that ran together have failed; the others are finished."""

    def __init__(self, reasons: Mapping[Path, str]) -> None:
        super().__init__(" ".join(reasons.values()))
        self.reasons = dict(reasons)  # why each of them failed, by the folder of its run


class Stopped(RuntimeError):
    """A signal ended a run after a checkpoint; the same command resumes it (exit code 75, or 130 after Ctrl-C)."""

    def __init__(self, message: str, signal: signal.Signals) -> None:
        super().__init__(message)
        self.signal = signal


class ReportedByAnotherRank(RuntimeError):
    """Raised by a rank when another rank failed and reports the error, which is the cause of this one."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, SIGUSR1 or SIGHUP outside a training: whatever is committed stays (exit code 75)."""


def missing_extra(purpose: str, package: str, *, extra: str) -> str | None:
    """Return a sentence that names the extra to install; None if the package is installed."""
    if find_spec(package) is not None:
        return None
    return f"{purpose} needs the package '{package}'; install it by: pip install 'compress-ssl[{extra}]'."


def require_extra(purpose: str, *packages: str, extra: str) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        InputError: If one is missing; names the extra.
    """
    for package in packages:
        if sentence := missing_extra(purpose, package, extra=extra):
            raise InputError(sentence)


def unknown_name(what: str, name: str, known: Iterable[str], where: str = "", listed_by: str = "") -> InputError:
    """Return an error that lists the known names, nearest first; ``where`` ends its first sentence.

    If there are too many to print, ``listed_by`` is the command that lists them, and only the nearest are named.
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=5 if listed_by else 3, cutoff=0.4)
    meant = f" Did you mean '{nearest[0]}'?" if nearest else ""
    if listed_by:
        others = f" Also near: {', '.join(nearest[1:])}." if nearest[1:] else ""
        return InputError(f"There is no {what} '{name}'{where}.{meant}{others} All are listed by: {listed_by}")
    ordered = nearest + [other for other in names if other not in nearest]
    return InputError(f"There is no {what} '{name}'{where}.{meant} Known: {', '.join(ordered)}.")
