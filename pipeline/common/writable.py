"""Whether results can be written, asked before a long computation and not after it."""

import errno
import os
import tempfile
from pathlib import Path

from compress_ssl.pipeline.common.errors import InputError

REFUSALS = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


def check_writable(folder: Path, option: str) -> None:
    """Check that files can be written into a folder, or that it can be made; nothing is left behind.

    Args:
        option: The option that gives another folder.

    Raises:
        InputError: If not, with the reason.
    """
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        if error.errno not in REFUSALS:
            error.filename = str(folder)
            raise
        raise InputError(
            f"Nothing can be written into '{folder}' ({error.strerror}); give another folder with {option}."
        ) from error
