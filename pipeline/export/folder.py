"""The exported folder: written aside and renamed into place; files that export did not write are never touched."""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.storage.places.durable import flush_directory, make_directory_durably, write_json_durably
from compress_ssl.storage.typed_files import read_json

CARD_FILE, ONNX_FILE = "README.md", "model.onnx"

MANIFEST_FILE = "export.json"  # identity of the network, and sizes and hashes of the other files

FILES = (MODEL_FILE, ONNX_FILE, f"{ONNX_FILE}.data", CARD_FILE)
"""Files of an export besides its manifest; the third holds the weights of an ONNX file that is too large for them."""


class _File(TypedDict):
    sha256: str


class _Manifest(TypedDict):
    files: dict[str, _File]


def check_export_folder(out: Path, overwrite: bool) -> None:
    """Check that an export may be written to ``out``.

    Raises:
        InputError: If it holds anything but an export, or an export that is not to be overwritten or was changed since.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"'{out}' is a file; give a folder to export to.")
    if _is_empty(out):
        return
    manifest = out / MANIFEST_FILE
    if not manifest.is_file():
        raise InputError(f"'{out}' is not empty and holds no export; give another folder.")
    if not overwrite:
        raise InputError(f"'{out}' holds an export already; use --overwrite to replace it, or give another folder.")
    written = read_json(manifest, _Manifest, otherwise="give another folder")["files"]
    for name in FILES:
        if (out / name).exists() and (name not in written or written[name]["sha256"] != file_sha256(out / name)):
            raise InputError(
                f"'{out / name}' was changed since export wrote it, and --overwrite would delete it; move it away, or "
                "give another folder."
            )


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``out`` that becomes ``out`` at the end of the block; removed after an error."""
    out = out.resolve()
    make_directory_durably(out.parent)
    folder = out.with_name(f"{out.name}.{uuid.uuid4().hex}.exporting")
    folder.mkdir()
    try:
        yield folder
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file)
        flush_directory(folder)
        if _is_empty(out):
            folder.rename(out)
        else:
            for name in (*FILES, MANIFEST_FILE):  # of an earlier export; those that the new one lacks are deleted
                if (folder / name).exists():
                    (folder / name).replace(out / name)
                else:
                    (out / name).unlink(missing_ok=True)
            flush_directory(out)
        flush_directory(out.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest: the facts, and size and SHA-256 of each file in the folder; return its content."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in (folder / name for name in FILES)
        if path.exists()
    }
    manifest = {**facts, "files": files}
    write_json_durably(folder / MANIFEST_FILE, manifest)
    return manifest


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_empty(out: Path) -> bool:
    return not out.is_dir() or not any(out.iterdir())
