"""Checksums of files of tensors: CRC-32 of each record of ``torch.save``, SHA-256 in the header of our safetensors."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors.torch import save
from torch import Tensor, nn

CHECKSUM = "compress_ssl.sha256"  # key of a safetensors file's metadata
FOLDER = 0x10  # bit of the external attributes of a zip archive's record
UNKNOWN = b"0" * 64  # stands in the place of the checksum while it is computed


def check_archive(file: Path | BinaryIO) -> None:
    """Check every record of an archive of ``torch.save`` against its CRC-32, which ``torch.load`` does not read.

    Raises:
        ValueError: If one differs, is compressed (torch writes none), or is marked as a folder (torch then returns
            memory that it has not written); or if the archive is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for record in archive.infolist():
                if record.compress_type != zipfile.ZIP_STORED or (record.external_attr & FOLDER and record.file_size):
                    raise ValueError(f"the record {record.filename} is compressed or marked as a folder")
                if record.CRC:  # 0: written after ``torch.serialization.set_crc32_options(False)``
                    with archive.open(record) as opened:
                        while opened.read(2**20):
                            pass
    except Exception as error:  # zipfile raises many types on damaged bytes
        raise ValueError(str(error) or type(error).__name__) from error


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytearray:
    """Return a safetensors file with a checksum of all its bytes; equal tensors and metadata give equal bytes.

    The header is written anew, because safetensors writes metadata in random order.
    """
    # Copied: a few of timm's networks (CoaT) have one tensor under several names, which safetensors refuses.
    layout = {"memory_format": torch.contiguous_format}
    data = memoryview(save({name: tensor.detach().cpu().clone(**layout) for name, tensor in tensors.items()}))
    start = 8 + int.from_bytes(data[:8], "little")
    metadata = {CHECKSUM: UNKNOWN.decode(), **metadata}
    header = json.dumps({"__metadata__": metadata, **json.loads(bytes(data[8:start]))}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8 bytes
    file = bytearray(len(header).to_bytes(8, "little") + header)
    file += data[start:]
    at = file.index(UNKNOWN)
    file[at : at + len(UNKNOWN)] = hashlib.sha256(file).hexdigest().encode()
    return file


def check_safetensors(path: Path, metadata: Mapping[str, str]) -> None:
    """Check a safetensors file against the checksum in its metadata, if it has one: the first releases wrote none.

    Raises:
        ValueError: If it differs.
    """
    if CHECKSUM not in metadata:
        return
    written = metadata[CHECKSUM].encode()
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        started = hashlib.sha256(length + header.replace(written, UNKNOWN, 1))
        found = hashlib.file_digest(file, lambda: started).hexdigest().encode()
    if found != written:
        raise ValueError("its checksum differs")


def not_finite(module: nn.Module) -> str | None:
    """Return the name of the first parameter or buffer with a NaN or an infinity; None if there is none."""
    state = module.state_dict()
    return next((name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())), None)
