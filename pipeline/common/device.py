"""Device, precision and threads of a stage, and the library versions that it records."""

import contextlib
import importlib.metadata
import logging

import torch
from torch import Tensor

from compress_ssl.pipeline.common.allocator import keep_freed_memory
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.settings import Device, Precision
from compress_ssl.pipeline.common.torchrun import TorchrunEnv, torchrun_env

LIBRARIES = ("compress-ssl", "torch", "torchvision", "nvidia-dali-cuda130", "zarr", "numpy", "pillow")

MIN_DRIVER = 580  # of CUDA 13: docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html

AUTOCAST_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
TORCH_DTYPES = {"float32": torch.float32, **AUTOCAST_DTYPES}

logger = logging.getLogger(__name__)


def prepare_device(device: Device, threads: int, *, training: bool = False) -> torch.device:
    """Return the device to run on, after setting the allocator, torch's threads and determinism.

    Embedding is deterministic on every device. Training is deterministic on the CPU, where that costs next to nothing
    and makes a resumed run end in the same weights; on a GPU it takes the fastest algorithms, and TF32 for matrix
    products in float32. Under torchrun each process takes the GPU of its local rank, or the only one that it sees.

    Raises:
        InputError: If a GPU is asked for and torch sees none, or there are fewer GPUs than processes on this machine.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError(
            f"--device cuda was asked for, but torch sees no GPU; check the driver ({MIN_DRIVER} or later), or use "
            "--device cpu."
        )
    on_gpu = available and device != "cpu"
    deterministic = training and not on_gpu
    if deterministic != torch.are_deterministic_algorithms_enabled():  # only then: it imports torch's compiler
        torch.use_deterministic_algorithms(deterministic)
    # Otherwise torch fills new memory with NaN under determinism, which takes a tenth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = not training
    torch.backends.cudnn.benchmark = training
    torch.set_float32_matmul_precision("high" if training and on_gpu else "highest")
    if not on_gpu:
        return torch.device("cpu")
    env = torchrun_env()
    if env.world_size > 1:
        torch.cuda.set_device(gpu_of_rank(env, torch.cuda.device_count()))
    return torch.device("cuda", torch.cuda.current_device())


def gpu_of_rank(env: TorchrunEnv, visible: int) -> int:
    """Return the index of a rank's GPU among the visible ones: its local rank, or 0 if it sees one alone.

    Slurm's ``--gpus-per-task=1`` shows each process its own GPU; that ranks do not share it is checked when they meet
    (``training.distributed.check_gpus_differ``).

    Raises:
        InputError: If there are several GPUs, but fewer than ranks on this machine.
    """
    if visible == 1:
        return 0
    if env.local_rank >= visible:
        raise InputError(
            f"{env.local_world_size} processes were started on this machine, which has {visible} GPUs; start one per "
            "GPU, or use --device cpu."
        )
    return env.local_rank


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device; a GPU gets it through pinned memory, and the host does not wait."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def device_kind(device: torch.device) -> str:
    """Return ``cpu``, or the GPU's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def choose_precision(precision: Precision, device: torch.device, *, training: bool = False) -> Precision:
    """Resolve ``auto``, and replace half precision that the device only emulates by float32, with a warning.

    ``auto`` is float32 on a CPU. On a GPU it is float16, or bfloat16 in training, whose range needs no loss scaling.
    """
    if precision == "auto":
        if device.type == "cpu":
            return "float32"
        return "bfloat16" if training and not _is_emulated("bfloat16", device) else "float16"
    if _is_emulated(precision, device):
        logger.warning(
            "This %s only emulates %s, which is slower than float32; float32 is used instead.",
            "CPU" if device.type == "cpu" else device_kind(device), precision,
        )  # fmt: skip
        return "float32"
    return precision


def _is_emulated(precision: Precision, device: torch.device) -> bool:
    if device.type == "cuda":
        return precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bfloat16":  # oneDNN also supports AVX-512 without bfloat16, more slowly than float32
        has_only_float32 = torch.cpu._is_avx512_supported() and not torch.cpu._is_avx512_bf16_supported()
        return has_only_float32 or not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return precision == "float16" and not torch.ops.mkldnn._is_mkldnn_fp16_supported()


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
