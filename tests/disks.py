"""Small disks for tests to fill; only root can mount them."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def mount(folder: Path, *options: str) -> None:
    """Mount a file system in memory, or mount it anew with other options; skip the test where that is not possible."""
    try:
        subprocess.run(["mount", *options, "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of a size, such as 8m, mounted at a new folder inside the block."""
    folder.mkdir()
    mount(folder, "-t", "tmpfs", "-o", f"size={size}")
    place = folder.absolute()
    try:
        yield folder
    finally:
        subprocess.run(["umount", place], check=True)
