"""What a stage runs on: device, precision, threads, and the versions that it records."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.torchrun import torchrun_env

if TYPE_CHECKING:
    from compress_ssl.pipeline.common.settings import Device, Precision

LIBRARIES = ("compress-ssl", "torch", "torchvision", "nvidia-dali-cuda130", "zarr", "numpy", "pillow")

AUTOCAST_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
TORCH_TYPES = {"float32": torch.float32, **AUTOCAST_TYPES}


def prepare_device(device: Device, threads: int, *, training: bool = False) -> torch.device:
    """Choose the device and set torch's threads and determinism, whatever an earlier stage of this process set.

    A network that only embeds gives the same numbers every time. A training does so on a CPU, where it costs next to
    nothing and makes a resumed run end in the same weights; on a GPU it takes the quickest algorithms.

    Raises
    ------
    InputError
        If a GPU was asked for and there is none, or none for this process.
    """
    torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("--device cuda was asked for, but torch sees no GPU; check the driver, or use --device cpu.")
    on_gpu = available and device != "cpu"
    torch.use_deterministic_algorithms(training and not on_gpu)
    torch.backends.cudnn.deterministic = not training
    if on_gpu:
        _take_own_gpu()
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def _take_own_gpu() -> None:
    """Where several processes share a machine, each has the GPU of its number."""
    here, gpus = torchrun_env(), torch.cuda.device_count()
    if here.processes == 1:
        return
    if here.local_rank >= gpus:
        raise InputError(
            f"{here.local_processes} processes were started on this machine, which has {gpus} GPUs; start one a GPU, or "
            "use --device cpu."
        )
    torch.cuda.set_device(here.local_rank)


def all_devices(device: torch.device) -> list[torch.device]:
    """Every GPU that this process sees, where it runs on one; else the device itself."""
    if device.type != "cuda":
        return [device]
    return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]


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


def available_memory() -> float:
    """Bytes of host memory that this process may still take, as far as the machine and its control group tell."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = 1024 * int(meminfo["MemAvailable"].split()[0])
    return min([available, *map(_left_in_group, _control_groups())])


def _control_groups() -> list[Path]:
    """Folders of this process's control groups (version 2), its own and those around it."""
    root = Path("/sys/fs/cgroup")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((root / line.removeprefix("0::/") for line in lines if line.startswith("0::/")), root)
    return [folder for folder in (own, *own.parents) if (folder / "memory.max").is_file()]


def _left_in_group(folder: Path) -> float:
    """Bytes that a control group lets its processes still take; what it holds of files it can give back."""
    limit = (folder / "memory.max").read_text().strip()
    if limit == "max":
        return math.inf
    held = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    given_back = int(held["inactive_file"]) + int(held["active_file"])
    return int(limit) - int((folder / "memory.current").read_text()) + given_back


def format_bytes(size: float) -> str:
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
