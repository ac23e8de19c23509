"""Device, precision and threads of a stage, and the library versions that it records."""

import contextlib
import importlib.metadata

import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.settings import Device, Precision
from compress_ssl.pipeline.common.torchrun import torchrun_env

LIBRARIES = ("compress-ssl", "torch", "torchvision", "nvidia-dali-cuda130", "zarr", "numpy", "pillow")

MIN_DRIVER = 580  # of CUDA 13: docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html

AUTOCAST_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
TORCH_DTYPES = {"float32": torch.float32, **AUTOCAST_DTYPES}


def prepare_device(device: Device, threads: int, *, training: bool = False) -> torch.device:
    """Return the device to run on, after setting torch's threads and determinism.

    Embedding is deterministic on every device. Training is deterministic on the CPU, where that costs next to nothing
    and makes a resumed run end in the same weights; on a GPU it takes the fastest algorithms. Under torchrun each
    process takes the GPU of its local rank.

    Raises:
        InputError: If a GPU is asked for and torch sees none, or there are fewer GPUs than processes on this machine.
    """
    torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError(
            f"--device cuda was asked for, but torch sees no GPU; check the driver ({MIN_DRIVER} or later), or use "
            "--device cpu."
        )
    on_gpu = available and device != "cpu"
    torch.use_deterministic_algorithms(training and not on_gpu)
    torch.backends.cudnn.deterministic = not training
    if not on_gpu:
        return torch.device("cpu")
    env, gpus = torchrun_env(), torch.cuda.device_count()
    if env.world_size > 1:
        if env.local_rank >= gpus:
            raise InputError(
                f"{env.local_world_size} processes were started on this machine, which has {gpus} GPUs; start one per "
                "GPU, or use --device cpu."
            )
        torch.cuda.set_device(env.local_rank)
    return torch.device("cuda", torch.cuda.current_device())


def to_device(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the host on a device; a GPU gets it through pinned memory, and the host does not wait."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def device_kind(device: torch.device) -> str:
    """Return ``cpu``, or the GPU's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def choose_precision(precision: Precision, device: torch.device) -> Precision:
    """Resolve ``auto``: float32 on the CPU, float16 on a GPU."""
    if precision != "auto":
        return precision
    return "float16" if device.type == "cuda" else "float32"


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Return torch's autocast to this precision; for float32 a context that does nothing."""
    if precision not in AUTOCAST_DTYPES:
        return contextlib.nullcontext()
    return torch.autocast(device.type, AUTOCAST_DTYPES[precision])


def library_versions() -> dict[str, str]:
    """Return the versions of the installed libraries that can change a result."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
