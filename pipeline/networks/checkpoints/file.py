"""Read a checkpoint file of any origin without running its code.

Three formats, recognised by their first bytes: safetensors, torch's zip archive, and torch's format before version 1.6
(a sequence of pickles). The latter two go through torch's weights-only unpickler, which makes only tensors and plain
containers. Published files hold more: ``argparse.Namespace``, Lightning's objects, numpy's numbers. The unpickler gets
inert placeholders for such classes; the classes themselves are never looked up or imported.
"""

import hashlib
import io
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.tensor_files import check_archive, check_safetensors

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch's legacy format, as a pickle

GET_AGAIN = "download, copy or train it again"

RUNS_CODE = re.compile(
    r"(os|posix|nt|sys|subprocess|shutil|socket|runpy|importlib)(\.|$)|builtins\.(eval|exec|compile|open|__import__)$"
)  # modules and functions that no weights need; a file that names one is refused


class Placeholder(list[Any]):
    """Replaces any class; discards its state except list items (``deque``)."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be a key of a dict

    def __new__(cls, *arguments: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


class PlaceholderOfDict:
    """Replaces a subclass of dict by a plain one, because the unpickler sets items of plain dicts only."""

    def __new__(cls, *arguments: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class CheckpointFile(NamedTuple):
    """The content of a file."""

    path: Path
    sha256: str  # of the file's bytes
    content: Any  # Dicts, lists, numbers, tensors on the CPU, placeholders
    metadata: dict[str, str]  # of a safetensors file; else empty


def read_checkpoint_file(path: Path, *, mapped: bool = False) -> CheckpointFile:
    """Read a checkpoint file.

    Args:
        mapped: Memory-map the tensors of a zip archive, for one that is larger than memory.

    Raises:
        InputError: If it is not a checkpoint, is truncated, or would run code.
    """
    if not path.is_file():
        raise InputError(f"'{path}' {'is a folder' if path.is_dir() else 'does not exist'}; give a checkpoint file.")
    with path.open("rb") as file:
        start = file.read(1024)
        content, metadata = _content(path, start, mapped)
        file.seek(0)  # hashed after it was checked: a sparse file may claim to have a terabyte
        return CheckpointFile(path, hashlib.file_digest(file, "sha256").hexdigest(), content, metadata)


def _content(path: Path, start: bytes, mapped: bool) -> tuple[Any, dict[str, str]]:
    """Return the content and the metadata of a file that begins with ``start``."""
    if start.startswith((ZIP_MAGIC, LEGACY_MAGIC)):
        return _read_torch(path, start.startswith(ZIP_MAGIC), mapped), {}
    if start[8:9] == b"{":
        try:
            with safe_open(path, framework="pt") as opened:
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
                metadata = opened.metadata() or {}
            check_safetensors(path, metadata)
            return tensors, metadata
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"'{path}' is a damaged safetensors file ({error}); {GET_AGAIN}.") from error
    raise InputError(f"'{path}' is not a checkpoint but {_describe_start(start)}; {GET_AGAIN}.")


def _describe_start(start: bytes) -> str:
    if not start:
        return "an empty file"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, such as a login or confirmation page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    if start.startswith(b"\x89HDF\r\n"):
        return "an HDF5 file, such as Keras writes"
    if start.startswith(b"\x80"):
        return "a pickle not written by torch"
    return f"a file that starts with {start[:16]!r}"


def _read_torch(path: Path, is_zip: bool, mapped: bool) -> Any:
    """Read a file of ``torch.save``; any error of the unpickler on damaged or hostile bytes becomes one sentence."""
    try:
        if is_zip:
            _check_records(path)
            check_archive(path)
        names = _globals_in_file(path, is_zip)
        refused = [name for name in sorted(names) if RUNS_CODE.match(name)]
        if not refused:
            placeholders: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
                (PlaceholderOfDict if name.lower().endswith("dict") else Placeholder, name) for name in names
            ]
            with torch.serialization.safe_globals(placeholders), warnings.catch_warnings(action="ignore"):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zip)
    except InputError:
        raise
    except Exception as error:
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"'{path}' is damaged, or holds objects other than tensors and plain containers ({reason.rstrip('. ')}); "
            f"{GET_AGAIN}, or save its state dict as safetensors."
        ) from error
    raise InputError(f"'{path}' would run {refused[0]} when read; it was refused and nothing was run: delete it.")


def _check_records(path: Path) -> None:
    """Check that a zip archive is one of ``torch.save``, and that it is read to no more bytes than it has."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if any(record.filename.endswith("/constants.pkl") for record in records):
        raise InputError(
            f"'{path}' is a TorchScript archive, a program with its weights; save the state dict of "
            "torch.jit.load(FILE) with torch.save. OpenAI's CLIP is timm/vit_base_patch32_clip_quickgelu_224.openai."
        )
    if (unpacked := sum(record.file_size for record in records)) > path.stat().st_size:
        raise InputError(
            f"'{path}' would unpack to {unpacked / 1e9:.1f} GB, but torch.save compresses nothing; {GET_AGAIN}."
        )


def _globals_in_file(path: Path, is_zip: bool) -> set[str]:
    if not is_zip:
        with path.open("rb") as file:  # four pickles: magic number, version, system information, checkpoint
            return set().union(*(_globals_in_pickle(file) for _ in range(4)))
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} files data.pkl where torch.save writes one")
        return _globals_in_pickle(io.BytesIO(archive.read(pickles[0])))


def _globals_in_pickle(file: BinaryIO | io.BytesIO) -> set[str]:
    """Return the full names of a pickle's GLOBAL opcodes, together with their names in Python 3."""
    names = {tuple(str(what).split(" ", 1)) for opcode, what, _ in pickletools.genops(file) if opcode.name == "GLOBAL"}
    now = {NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)) for module, name in names}
    return {f"{module}.{name}" for module, name in names | now}
