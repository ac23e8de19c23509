"""The exported folder: written beside its place and renamed; what another hand wrote there is never touched."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from typing import TYPE_CHECKING, Any

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.storage.places.durable import flush_directory, make_directory_durably, write_json_durably

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CARD_FILE, ONNX_FILE = "README.md", "model.onnx"

MANIFEST_FILE = "export.json"
"""Says of what network the other files are, and their hashes."""

FILES = (MODEL_FILE, ONNX_FILE, f"{ONNX_FILE}.data", CARD_FILE)
"""All that an export may write beside its manifest; the third holds the weights of an ONNX file that is too large."""


def check_export_folder(out: Path, overwrite: bool) -> None:
    """Check that ``out`` may be written.

    Raises
    ------
    InputError
        If something is there that is not an export, is not to be overwritten, or was changed since.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"'{out}' is a file; give a folder to export to.")
    if _is_empty(out):
        return
    if not (out / MANIFEST_FILE).is_file():
        raise InputError(f"'{out}' is not empty and holds no export; give another folder.")
    if not overwrite:
        raise InputError(f"'{out}' holds an export already; use --overwrite to replace it, or give another folder.")
    written = _written(out)
    for name in FILES:
        if (out / name).exists() and written.get(name) != file_sha256(out / name):
            raise InputError(
                f"'{out / name}' is not what export wrote there, and --overwrite would lose it; move it away, or give "
                "another folder."
            )


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` to write into; at the end it becomes ``out``, after an error nothing is left of it."""
    out = out.resolve()
    make_directory_durably(out.parent)
    folder = out.with_name(f"{out.name}.{uuid.uuid4().hex}.exporting")
    folder.mkdir()
    try:
        yield folder
        _flush(folder)
        if _is_empty(out):
            folder.rename(out)
        else:
            _replace_files(folder, out)
        flush_directory(out.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write what was exported, with size and SHA-256 of each file in the folder."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in (folder / name for name in FILES)
        if path.exists()
    }
    manifest = {**facts, "files": files}
    write_json_durably(folder / MANIFEST_FILE, manifest)
    return manifest


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_empty(out: Path) -> bool:
    return not out.is_dir() or not any(out.iterdir())


def _written(out: Path) -> dict[str, str]:
    """SHA-256 of the files of an earlier export."""
    try:
        files = json.loads((out / MANIFEST_FILE).read_bytes())["files"]
        return {str(name): str(file["sha256"]) for name, file in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"'{out / MANIFEST_FILE}' is not of an export ({error}); give another folder.") from error


def _replace_files(folder: Path, out: Path) -> None:
    """Put each new file in the place of the old one; what the new export does not have goes."""
    for name in (*FILES, MANIFEST_FILE):
        if (folder / name).exists():
            (folder / name).replace(out / name)
        else:
            (out / name).unlink(missing_ok=True)
    flush_directory(out)


def _flush(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file)
    flush_directory(folder)
