"""How an error reaches the user: one sentence, exit code 2 for wrong use or bad input, 1 for a failed run."""

from __future__ import annotations

import errno

import click

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class BadInput(click.ClickException):
    """What the user gave cannot be used."""

    exit_code = 2


class FailedRun(click.ClickException):
    """A run that began well has failed."""

    exit_code = 1


def as_sentence(error: BaseException, going_on: str) -> click.ClickException | None:
    """Turn an error that is the user's or the machine's into a click exception; None for a fault of ours.

    Parameters
    ----------
    going_on : str
        Sentence that says how the command goes on once the machine's trouble is over.
    """
    from pydantic import ValidationError

    from compress_ssl.pipeline.common.errors import InputError, RunError
    from compress_ssl.pipeline.common.settings import explain
    from compress_ssl.storage.errors import StoreError

    if isinstance(error, ValidationError):
        return BadInput(explain(error))
    if isinstance(error, InputError | StoreError):
        return BadInput(str(error))
    if isinstance(error, RunError):
        return FailedRun(str(error))
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        where = f" (writing '{error.filename}')" if error.filename else ""
        return FailedRun(f"The disk is full{where}; free some space. {going_on}")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's; help imports no torch
        return FailedRun(f"The memory is full; lower --batch-size, or end what else needs memory. {going_on}")
    if isinstance(error, FileExistsError | NotADirectoryError):
        return BadInput(f"'{error.filename}' is a file where a folder is needed; check the path.")
    if isinstance(error, OSError) and error.filename is not None:
        return BadInput(f"'{error.filename}': {(error.strerror or 'cannot be used').lower()}; check the path.")
    return None
