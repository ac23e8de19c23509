"""How a command ends: one table from the error that ended it to its exit code and its sentence (docs/exit-codes.md)."""

from __future__ import annotations

import errno
import signal
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from compress_ssl.cli.exit_codes import FAILED, INTERRUPTED, RESUMABLE, SUCCESS, WRONG_USE
from compress_ssl.pipeline.common.errors import InputError, RunError, Stopped, Terminated
from compress_ssl.pipeline.common.settings import explain
from compress_ssl.pipeline.common.torch_errors import is_out_of_memory
from compress_ssl.storage.errors import StoreError, StoreFailedError, StoreRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

BAD_PATH = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTEMPTY),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
}

DISK_FAILS = {errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.EFBIG}  # also in reads and writes, which name no file


class Ending(NamedTuple):
    """One way in which a command ends early."""

    exit_code: int
    cause: str  # as docs/exit-codes.md names it
    is_cause: Callable[[BaseException], bool]
    sentence: str = "{error}"
    """May use the error's message, its ``{file}``, ``{where}`` and ``{reason}``, and ``{resume}``: how to continue."""

    def message(self, error: BaseException, resume: str) -> str:
        """Return the sentence for an error."""
        text = explain(error) if isinstance(error, ValidationError) else str(error) or "Stopped."
        file, reason = getattr(error, "filename", None), getattr(error, "strerror", None) or "cannot be used"
        writing, where = (f" (writing '{file}')", f"'{file}'") if file else ("", "A disk or network file system")
        return self.sentence.format(
            error=text, file=file, reason=reason.lower(), writing=writing, where=where, resume=resume
        )


def _is_interrupt(error: BaseException) -> bool:
    if isinstance(error, Stopped):
        return error.signal == signal.SIGINT
    return isinstance(error, KeyboardInterrupt) and not isinstance(error, Terminated)


ENDINGS = (
    Ending(INTERRUPTED, "Ctrl-C (SIGINT)", _is_interrupt, "{error} {resume}"),
    Ending(
        RESUMABLE,
        "SIGTERM or SIGUSR1, as a batch system sends before its time limit; SIGHUP, as a terminal that is closed",
        lambda error: isinstance(error, Stopped | Terminated),
        "{error} {resume}",
    ),
    Ending(
        WRONG_USE,
        "an option, name, setting, path, recipe or dataset that cannot be used; no such bucket, wrong credentials",
        lambda error: isinstance(error, ValidationError | InputError | StoreRefusedError),
    ),
    Ending(
        FAILED,
        "a server that cannot be reached; a disk with less free space than is needed",
        lambda error: isinstance(error, StoreFailedError),
    ),
    Ending(
        WRONG_USE,
        "a store that is missing, incomplete, damaged, in use, or of other images or settings",
        lambda error: isinstance(error, StoreError),
    ),
    Ending(FAILED, "a loss that is not finite; a worker process that died", lambda error: isinstance(error, RunError)),
    Ending(
        FAILED,
        "a disk that fills up",
        lambda error: isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT),
        "The disk is full{writing}; free some space. {resume}",
    ),
    Ending(
        FAILED,
        "a read-only file system",
        lambda error: isinstance(error, OSError) and error.errno == errno.EROFS,
        "The file system is read-only{writing}; remount it for writing, or give another path. {resume}",
    ),
    Ending(
        FAILED,
        "too little memory, of the host or of the GPU",
        is_out_of_memory,
        "The memory is full; lower the batch size if there is one, or end other programs. {resume}",
    ),
    Ending(
        WRONG_USE,
        "a file where a folder is needed",
        lambda error: isinstance(error, FileExistsError | NotADirectoryError),
        "'{file}' is a file where a folder is needed; check the path.",
    ),
    Ending(
        WRONG_USE,
        "a path that does not exist, or without the permission to read or write it",
        lambda error: isinstance(error, OSError) and error.filename is not None and error.errno in BAD_PATH,
        "'{file}': {reason}; check the path.",
    ),
    Ending(
        FAILED,
        "a disk or network file system that fails during a run",
        lambda error: isinstance(error, OSError) and (error.filename is not None or error.errno in DISK_FAILS),
        "{where}: {reason}; check the disk and its limits. {resume}",
    ),
)  # by the first row whose ``is_cause`` holds; any other error is a fault of the program, and keeps its traceback

OTHER_ENDINGS = (
    (SUCCESS, "success"),
    (WRONG_USE, "an unknown command or option, a missing argument, a value of the wrong type"),
    (FAILED, "`doctor` or `store verify` found something wrong; some combinations of a `sweep` failed"),
    (FAILED, "a fault of the program, with a traceback"),
)  # ways to end that no error leads to, or any other


def ending_of(error: BaseException) -> Ending | None:
    """Return the row of an error; None for a fault of the program."""
    return next((ending for ending in ENDINGS if ending.is_cause(error)), None)


def cause_of(error: BaseException) -> BaseException:
    """Return the error, or the signal that led to it if it has no row, as "release unlocked lock" has none."""
    before: BaseException | None = error
    while before is not None and not isinstance(before, KeyboardInterrupt):
        before = before.__context__
    return error if before is None or ending_of(error) else before
