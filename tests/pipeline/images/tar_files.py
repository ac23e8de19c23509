"""Tar files with given members."""

import io
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
