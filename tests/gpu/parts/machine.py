"""What the machine is, and how fast at the least of what it does."""

import subprocess

import torch

from compress_ssl.pipeline.common.device import library_versions
from tests.gpu.measure import matrix_peak, seconds_of
from tests.gpu.run import Run

COPIED = 2**28  # bytes


def machine(run: Run) -> None:
    """Driver and versions; peaks of matrix products, memory, and copies from the host."""
    run.measured("versions", **library_versions())
    on_gpu = run.device == "cuda"
    if on_gpu:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False)
        run.measured("GPU", name=torch.cuda.get_device_name(), nvidia_smi=answer.stdout.strip())
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        torch.set_float32_matmul_precision("highest")
        run.measured("matrix product", dtype=str(dtype), tflops=matrix_peak(dtype, run.device) / 1e12)
    torch.set_float32_matmul_precision("high")
    run.measured("matrix product", dtype="tf32", tflops=matrix_peak(torch.float32, run.device) / 1e12)
    target = torch.empty(COPIED if on_gpu else 2**16, dtype=torch.uint8, device=run.device)
    sources = {"device": torch.empty_like(target), "pageable": torch.empty_like(target, device="cpu")}
    if on_gpu:
        sources["pinned"] = torch.empty_like(target, device="cpu", pin_memory=True)
    for name, source in sources.items():
        seconds = seconds_of(lambda source=source: target.copy_(source, non_blocking=True), run.device)
        run.measured("copy to the device", source=name, gb_per_second=len(target) / seconds / 1e9)
