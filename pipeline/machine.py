"""What a stage runs on: device, precision, threads, and the versions that it records."""

from __future__ import annotations

import contextlib
import importlib.metadata
from typing import TYPE_CHECKING

import torch

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.settings import Device, Precision

LIBRARIES = ("compress-ssl", "torch", "torchvision", "nvidia-dali-cuda130", "zarr", "numpy", "pillow")

AUTOCAST_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


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


def library_versions() -> dict[str, str]:
    """Versions of what can change a result."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
