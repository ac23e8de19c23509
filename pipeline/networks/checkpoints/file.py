"""Read a checkpoint file of any origin, and run nothing that is in it.

Three formats, told apart by their first bytes: safetensors, torch's zip archive, and torch's format before version 1.6
(pickles one after the other). The latter two go through torch's weights-only unpickler, which makes nothing but tensors
and plain containers. Published files hold more: ``argparse.Namespace``, Lightning's objects, numpy's numbers. For the names
of such classes the unpickler is given inert placeholders; the classes themselves are never looked up or imported.
"""

from __future__ import annotations

import hashlib
import io
import pickletools
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open

from compress_ssl.pipeline.common.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The magic number of torch's old format, as a pickle."""

LEGACY_PICKLES = 4
"""Magic number, version, facts of the machine, and then the checkpoint."""

GET_AGAIN = "download, copy or train it again"

RUNS_CODE = ("os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "runpy", "importlib")
"""Modules that nobody needs to hold weights. A file that names one is refused, whatever it would have done."""
RUNS_CODE_BUILTINS = ("eval", "exec", "compile", "open", "__import__")


class Placeholder(list[Any]):
    """Stands for any class: takes what it is given and forgets it, except list items (``deque``)."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # it may stand for a key of a dict

    def __new__(cls, *arguments: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


class PlaceholderOfDict:
    """Stands for a class of dicts, whose items are kept: the unpickler sets items of plain ones only."""

    def __new__(cls, *arguments: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class CheckpointFile(NamedTuple):
    """What a file holds."""

    path: Path
    sha256: str
    """Of the file's bytes."""
    content: Any
    """Dicts, lists, numbers, tensors on the CPU, placeholders."""
    metadata: dict[str, str]
    """Of a safetensors file; else empty."""


def read_checkpoint_file(path: Path, *, mapped: bool = False) -> CheckpointFile:
    """Read a file.

    Parameters
    ----------
    mapped : bool
        Leave the tensors of a zip archive on the disk until they are used: for one that is larger than the memory.

    Raises
    ------
    InputError
        If it is no checkpoint, is not whole, or would run code.
    """
    if not path.is_file():
        raise InputError(f"'{path}' is {'a folder' if path.is_dir() else 'not there'}; give the path of a checkpoint.")
    with path.open("rb") as file:
        start = file.read(1024)
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if start.startswith((ZIP_MAGIC, LEGACY_MAGIC)):
        return CheckpointFile(path, sha256, _read_torch(path, start.startswith(ZIP_MAGIC), mapped), {})
    if start[8:9] == b"{":
        return CheckpointFile(path, sha256, *_read_safetensors(path))
    raise InputError(f"'{path}' is no checkpoint but {_what_starts(start)}; {GET_AGAIN}.")


def _what_starts(start: bytes) -> str:
    if not start:
        return "an empty file"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, as a site answers that wants a login or a confirmation"
    if start.startswith(b"version https://git-lfs"):
        return "the pointer of a file that is kept by Git LFS"
    if start.startswith(b"\x80"):
        return "a pickle that torch did not write"
    return f"a file that starts with {start[:16]!r}"


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"'{path}' is not a whole safetensors file ({error}); {GET_AGAIN}.") from error


def _read_torch(path: Path, is_zip: bool, mapped: bool) -> Any:
    """Read a file of ``torch.save``; whatever damaged or hostile bytes make of the unpickler becomes one sentence."""
    try:
        names = _named_in_zip(path) if is_zip else _named_in_legacy(path)
    except Exception as error:
        raise _not_whole(path, error) from error
    if forbidden := sorted(filter(_runs_code, names)):
        raise InputError(
            f"'{path}' asks to run {forbidden[0]} when it is read: it was refused and nothing was run; delete it."
        )
    placeholders: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (PlaceholderOfDict if name.lower().endswith("dict") else Placeholder, name) for name in names
    ]
    try:
        with torch.serialization.safe_globals(placeholders), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zip)
    except Exception as error:
        raise _not_whole(path, error) from error


def _not_whole(path: Path, error: Exception) -> InputError:
    reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0] or type(error).__name__
    return InputError(
        f"'{path}' is not whole, or holds what is no tensor nor a plain container ({reason.rstrip('. ')}); "
        f"{GET_AGAIN}, or save its state dict as safetensors."
    )


def _runs_code(name: str) -> bool:
    module, _, function = name.partition(".")
    return module in RUNS_CODE or (module == "builtins" and function in RUNS_CODE_BUILTINS)


def _named_in_zip(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} files data.pkl where torch.save writes one")
        return _named_in_pickle(io.BytesIO(archive.read(pickles[0])))


def _named_in_legacy(path: Path) -> set[str]:
    with path.open("rb") as file:
        return set().union(*(_named_in_pickle(file) for _ in range(LEGACY_PICKLES)))


def _named_in_pickle(file: BinaryIO | io.BytesIO) -> set[str]:
    """Full names of the classes and functions that a pickle asks for, also by their names in Python 3."""
    names = {tuple(str(what).split(" ", 1)) for opcode, what, _ in pickletools.genops(file) if opcode.name == "GLOBAL"}
    now = {NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)) for module, name in names}
    return {f"{module}.{name}" for module, name in names | now}
