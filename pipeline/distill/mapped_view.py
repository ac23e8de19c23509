"""A view of the teacher in a memory-mapped file on a local disk, shared by all processes of a machine.

The file is named by its content (the view's commit records), so processes that need the same view share it. It is
published by a rename. Each process that maps it holds a shared lock; the last one to release it deletes the file.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.memory import format_bytes
from compress_ssl.storage import Split
from compress_ssl.storage.commits import read_records
from compress_ssl.storage.errors import DiskSpaceError


def scratch_folder(given: Path | None) -> Path:
    """Return the folder for mapped views, in the one given or in the system's temporary folder."""
    return (given or Path(tempfile.gettempdir())) / f"compress-ssl-views-{os.getuid()}"


def sweep_views(folder: Path) -> None:
    """Delete views that killed processes left: those without a lock."""
    for lock_path in folder.glob("*.lock"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), lock_path.open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for suffix in (".float16", ".partial", ".lock"):
                lock_path.with_suffix(suffix).unlink(missing_ok=True)


class MappedView:
    """One view of a split, memory-mapped; ``close`` releases it."""

    def __init__(self, split: Split, view: int, folder: Path) -> None:
        """Map the view's file, written first if it does not exist.

        Raises:
            InputError: If the scratch folder cannot be written.
            DiskSpaceError: If it is full.
        """
        records = json.dumps(read_records(split.path, str(view)), sort_keys=True)
        name = xxhash.xxh3_128_hexdigest(f"{split.path.resolve()} {records}".encode())
        self._path = folder / f"{name}.float16"
        self._lock_path = self._path.with_suffix(".lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._lock_shared()
        except OSError as error:
            raise InputError(
                f"The scratch folder '{folder}' cannot be written ({error.strerror}); give another with --scratch."
            ) from error
        try:
            if not self._path.is_file():
                self._write_once(split, view)
            # Copy on write: torch wants an array it could write to.
            shape = (len(split), split.feature_dim)
            self.embeddings: Tensor = torch.from_numpy(np.memmap(self._path, np.float16, mode="c", shape=shape))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file; delete it if no other process holds it."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._lock_exists(self._lock):
                self._path.unlink(missing_ok=True)
                self._lock_path.unlink()
        except BlockingIOError:
            pass
        finally:
            os.close(self._lock)

    def _lock_shared(self) -> int:
        """Open the lock file and take a shared lock; again, if its last holder has deleted it meanwhile."""
        while True:
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o664)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if self._lock_exists(lock):
                return lock
            os.close(lock)

    def _lock_exists(self, lock: int) -> bool:
        try:
            return os.path.samestat(os.fstat(lock), self._lock_path.stat())
        except FileNotFoundError:
            return False

    def _write_once(self, split: Split, view: int) -> None:
        """Write the file under an exclusive lock, unless another process does so first."""
        while not self._path.is_file():
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self._lock_exists(self._lock):
                if not self._path.is_file():
                    _write(split, view, self._path)
                fcntl.flock(self._lock, fcntl.LOCK_SH)
            else:
                os.close(self._lock)
                self._lock = self._lock_shared()


def _write(split: Split, view: int, path: Path) -> None:
    """Write the file block by block; plain writes, since a full disk kills a process that writes to a map."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            for _, block in split.blocks(view):
                file.write(block.data)
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            needed, free = 2 * len(split) * split.feature_dim, shutil.disk_usage(path.parent).free
            raise DiskSpaceError(
                f"The scratch folder '{path.parent}' is full: view {view} takes {format_bytes(needed)}, "
                f"{format_bytes(free)} are free; free some space, or give another folder with --scratch."
            ) from error
        raise
