"""Tar files with given members, and how any is unpacked."""

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

Member = str | tuple[str, bytes] | tuple[str, bytes, dict[str, Any]]
"""A picture's name; or a name, its content, and perhaps attributes of its header."""


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, *members: Member, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for member in members:
            name, content, *attributes = (member, picture()) if isinstance(member, str) else member
            header = tarfile.TarInfo(name)
            header.size = len(content)
            for key, value in (attributes[0] if attributes else {}).items():
                setattr(header, key, value)
            tar.addfile(header, io.BytesIO(content))
    return path


def unpack(archive: Path, folder: Path) -> None:
    """Unpack with modification times; ``tarfile`` has the safe way, and later asks for it, only from Python 3.11.4."""
    subprocess.run(["tar", "-x", "--no-same-owner", "-f", archive, "-C", folder], check=True)
