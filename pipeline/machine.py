"""What a stage runs on: device, precision, threads, and the versions that it records."""

from __future__ import annotations

import contextlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.settings import Device, Precision

LIBRARIES = ("compress-ssl", "torch", "torchvision", "nvidia-dali-cuda130", "zarr", "numpy", "pillow")

AUTOCAST_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
TORCH_TYPES = {"float32": torch.float32, **AUTOCAST_TYPES}


def prepare_machine(device: Device, threads: int) -> torch.device:
    """Choose the device and set torch's threads.

    Raises
    ------
    InputError
        If a GPU was asked for and there is none.
    """
    torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("--device cuda was asked for, but torch sees no GPU; check the driver, or use --device cpu.")
    return torch.device("cuda", torch.cuda.current_device()) if available and device != "cpu" else torch.device("cpu")


def device_kind(device: torch.device) -> str:
    """``cpu``, or the GPU's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def choose_precision(precision: Precision, device: torch.device) -> Precision:
    """Return float32 on the CPU and float16 on a GPU, unless told otherwise."""
    if precision != "auto":
        return precision
    return "float16" if device.type == "cuda" else "float32"


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Run matrix products in this precision; nothing changes for float32."""
    if precision not in AUTOCAST_TYPES:
        return contextlib.nullcontext()
    return torch.autocast(device.type, AUTOCAST_TYPES[precision])


def available_memory() -> int:
    """Bytes of host memory that this process may still take, as far as the machine and its control group tell."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = 1024 * int(meminfo["MemAvailable"].split()[0])
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no control group, or one of the first version
        return available
    return available if limit == "max" else min(available, int(limit) - used)


def in_units(size: float) -> str:
    """Write bytes as people read them."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def library_versions() -> dict[str, str]:
    """Versions of what can change a result."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
