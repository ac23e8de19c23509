"""The two ways a stage ends badly. Each message is one sentence: what, where, what to do."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class InputError(ValueError):
    """What the user gave cannot be used: a path, a name, a file, a setting (exit code 2)."""


class RunError(RuntimeError):
    """A run that began well has failed: the loss is not a number, a renderer died (exit code 1)."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> InputError:
    """An error that answers an unknown name with the known ones, nearest first."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    ordered = nearest + [other for other in names if other not in nearest]
    meant = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return InputError(f"There is no {what} '{name}'.{meant} Known: {', '.join(ordered)}.")
