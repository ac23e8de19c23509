"""A view of the teacher as a file on a local disk, mapped into memory; one file serves all processes of a machine.

The file's name tells its content (the view's commit records), so whoever wants the same view shares it. It is
written beside its place and renamed. Whoever maps it holds a shared lock; the last one to let go deletes it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import xxhash

from pipeline.errors import InputError
from storage.commits import read_records

if TYPE_CHECKING:
    from torch import Tensor

    from storage import Split

FOLDER_NAME = "compress-ssl-views"


def scratch_folder(given: Path | None) -> Path:
    """Where views are mapped: a folder of ours in the one given, or in the system's temporary folder."""
    return (given or Path(tempfile.gettempdir())) / FOLDER_NAME


class MappedView:
    """One view of a split, mapped. ``close`` it when it is no longer used."""

    def __init__(self, split: Split, view: int, folder: Path) -> None:
        """Map the view's file, after writing it if it is not there.

        Raises
        ------
        InputError
            If the scratch folder has no room or cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._path = folder / f"{_content_name(split, view)}.float16"
            self._lock = _locked(self._path.with_suffix(".lock"))
        except OSError as error:
            raise InputError(
                f"The scratch folder '{folder}' cannot be written ({error.strerror}); give another with --scratch."
            ) from error
        shape = (len(split), split.feature_dim)
        try:
            if not self._path.is_file():
                _write(split, view, self._path)
            # Copy on write: torch wants an array it could write to.
            self.embeddings: Tensor = torch.from_numpy(np.memmap(self._path, np.float16, mode="c", shape=shape))
        except BaseException:
            self._path.with_suffix(".lock").unlink(missing_ok=True)
            os.close(self._lock)
            raise
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def close(self) -> None:
        """Let go of the file; delete it if no one else holds it."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._path.unlink(missing_ok=True)
            self._path.with_suffix(".lock").unlink(missing_ok=True)
        except BlockingIOError:
            pass
        finally:
            os.close(self._lock)


def _locked(path: Path) -> int:
    """Open and lock a file; again, if whoever had it locked deleted it meanwhile."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o664)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except FileNotFoundError:
            pass
        os.close(lock)


def _content_name(split: Split, view: int) -> str:
    records = json.dumps(read_records(split.path, str(view)), sort_keys=True)
    return xxhash.xxh3_128_hexdigest(f"{split.path.resolve()} {records}".encode())


def _write(split: Split, view: int, path: Path) -> None:
    """Write the file block by block; plain writes, since a full disk would kill a process that writes a map."""
    partial = path.with_suffix(".partial")
    needed = 2 * len(split) * split.feature_dim
    try:
        with partial.open("wb") as file:
            for _, block in split.blocks(view):
                file.write(block.data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        free = shutil.disk_usage(path.parent).free
        raise InputError(
            f"The scratch folder '{path.parent}' is full: view {view} takes {needed / 2**30:.1f} GiB, {free / 2**30:.1f} "
            "GiB are free; free some space, or give another folder with --scratch."
        ) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
