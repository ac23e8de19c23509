"""A view of the teacher in a memory-mapped file on a local disk, shared by all processes of a machine.

The file holds the embeddings (N, D), then the codes (N, G * G, K) and the scale (N, G * G) of patches where they are
asked for, each from an even byte on, and a hash.

The file is named by its content (the view's commit records), so processes that need the same view share it. It is
published by a rename. Each process that maps it holds a shared lock; the last one to release it deletes the file.

The scratch folder may be in ``/tmp``, where anyone can make files. So its folder is this user's alone, links are not
followed, and a file is mapped only if it is this user's and ends in the hash of what it should hold.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.memory import format_bytes
from compress_ssl.storage import Split
from compress_ssl.storage.commits import read_records
from compress_ssl.storage.errors import DiskSpaceError
from compress_ssl.storage.places.lease_file import has_name

Arrays = list[tuple[tuple[int, ...], torch.dtype]]  # shape and type of each

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
HASH_BYTES = 16


def view_arrays(split: Split, *, patches: bool) -> Arrays:
    """Return shape and type of what a view holds: embeddings, and if asked for the codes and the scale of patches."""
    arrays: Arrays = [((len(split), split.feature_dim), torch.float16)]
    if patches:
        assert split.patches is not None
        positions = (len(split), split.patches.positions)
        arrays += [((*positions, split.patches.components), torch.int8), (positions, torch.float16)]
    return arrays


def scratch_folder(given: Path | None) -> Path:
    """Return the folder for mapped views, in the one given or in the system's temporary folder."""
    return (given or Path(tempfile.gettempdir())) / f"compress-ssl-views-{os.getuid()}"


def make_scratch_folder(folder: Path) -> None:
    """Make the folder if it is missing, and see to it that no other user can write into it.

    Raises:
        InputError: If it cannot be made, is a link or a file, or belongs to another user.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=PRIVATE_FOLDER)
        found = folder.lstat()
        is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if is_own and stat.S_IMODE(found.st_mode) != PRIVATE_FOLDER:
            folder.chmod(PRIVATE_FOLDER)  # an earlier release left it to the umask
    except OSError as error:
        raise _unusable(folder, error) from error
    if not is_own:
        raise InputError(
            f"The scratch folder '{folder}' is not a folder of yours, so others could change what students learn from; "
            "give another with --scratch."
        )


def sweep_views(folder: Path) -> None:
    """Delete views that killed processes left: those without a lock."""
    for lock_path in folder.glob("*.lock"):
        with contextlib.suppress(OSError):  # in use, just deleted, or none of ours
            lock = _open(lock_path, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for suffix in (".float16", ".partial", ".lock"):
                    lock_path.with_suffix(suffix).unlink(missing_ok=True)
            finally:
                os.close(lock)


class MappedView:
    """One view of a split, memory-mapped; ``close`` releases it."""

    def __init__(self, split: Split, view: int, folder: Path, *, patches: bool = False) -> None:
        """Map the view's file, written first if it does not exist or is not what it should be.

        Raises:
            InputError: If the scratch folder cannot be written, or is not this user's.
            DiskSpaceError: If it is full.
        """
        units = split.units_of(view) if patches else [str(view)]
        records = " ".join(json.dumps(read_records(split.path, unit), sort_keys=True) for unit in units)
        name = xxhash.xxh3_128_hexdigest(f"{split.path.resolve()} {records} with hash".encode())
        self._patches, self._arrays = patches, view_arrays(split, patches=patches)
        self._path = folder / f"{name}.float16"
        self._lock_path = self._path.with_suffix(".lock")
        make_scratch_folder(folder)
        try:
            self._lock = self._lock_shared()
        except OSError as error:
            raise _unusable(folder, error) from error
        try:
            while (held := _map(self._path, self._arrays)) is None:
                self._write_once(split, view)
            self.embeddings: Tensor = held[0]
            self.patches = held[1:]  # codes and scale, or none
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file; delete it if no other process holds it."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if has_name(self._lock, self._lock_path):
                self._path.unlink(missing_ok=True)
                self._lock_path.unlink()
        except BlockingIOError:
            pass
        finally:
            os.close(self._lock)

    def _lock_shared(self) -> int:
        """Open the lock file and take a shared lock; again, if its last holder has deleted it meanwhile."""
        while True:
            lock = _open(self._lock_path, os.O_RDWR | os.O_CREAT)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if has_name(lock, self._lock_path):
                return lock
            os.close(lock)

    def _write_once(self, split: Split, view: int) -> None:
        """Write the file under an exclusive lock, unless another process does so first."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        if has_name(self._lock, self._lock_path):
            if _map(self._path, self._arrays) is None:
                _write(split, view, self._path, patches=self._patches)
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        else:
            os.close(self._lock)
            self._lock = self._lock_shared()


def _unusable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"The scratch folder '{folder}' cannot be written ({error.strerror}); give another with --scratch."
    )


def _open(path: Path, flags: int) -> int:
    """Open a file of this user's alone; links are not followed, and pipes not waited for."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, PRIVATE_FILE)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EPERM, f"'{path.name}' in it is not a file of yours alone", str(path))
    return descriptor


def _map(path: Path, arrays: Arrays) -> list[Tensor] | None:
    """Map a view's file; None if there is none, or its bytes are not those that were written."""
    try:
        descriptor = _open(path, os.O_RDONLY)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        counts = [math.prod(shape) for shape, _ in arrays]
        sizes = [_even(count * dtype.itemsize) for count, (_, dtype) in zip(counts, arrays, strict=True)]
        if os.fstat(descriptor).st_size != sum(sizes) + HASH_BYTES:
            return None
        # Copy on write: torch wants an array it could write to.
        content = np.memmap(file, np.uint8, mode="c", shape=(sum(sizes),))
        digest = xxhash.xxh3_128(path.name.encode())
        digest.update(content.data)
        if os.pread(descriptor, HASH_BYTES, sum(sizes)) != digest.digest():
            return None
        parts = zip(torch.split(torch.from_numpy(content), sizes), counts, arrays, strict=True)
        return [part.view(dtype)[:count].view(shape) for part, count, (shape, dtype) in parts]


def _write(split: Split, view: int, path: Path, *, patches: bool) -> None:
    """Write the file block by block; plain writes, since a full disk kills a process that writes to a map."""
    partial = path.with_suffix(".partial")
    digest = xxhash.xxh3_128(path.name.encode())
    try:
        partial.unlink(missing_ok=True)  # of a killed process
        with open(_open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            for block in _content(split, view, patches=patches):
                file.write(block.data)
                digest.update(block.data)
            file.write(digest.digest())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            needed = sum(math.prod(shape) * dtype.itemsize for shape, dtype in view_arrays(split, patches=patches))
            raise DiskSpaceError(
                f"The scratch folder '{path.parent}' is full: view {view} takes {format_bytes(needed)}, "
                f"{format_bytes(shutil.disk_usage(path.parent).free)} are free; free some space, or give another "
                "folder with --scratch."
            ) from error
        raise


def _content(split: Split, view: int, *, patches: bool) -> Iterator[npt.NDArray[Any]]:
    """Yield the content of a view's file. The scales, a small part of it, are held until the codes are written."""
    for _, block in split.blocks(view):
        yield block
    scales, odd = [], 0
    for _, codes, scale in split.patch_blocks(view) if patches else ():
        yield codes
        scales.append(scale)
        odd ^= codes.size % 2
    yield np.zeros(odd, np.int8)
    yield from scales


def _even(size: int) -> int:
    return size + size % 2
