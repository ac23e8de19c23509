"""Examine the machine, the defaults of the stages on it, and whether the stages work."""

import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress_ssl.pipeline.common.settings import StageSettings

GIB = 2**30


Finding = tuple[str, dict[str, Any]]
"""Result of a check: a sentence, and the same as JSON values, whose numbers have their unit in the name."""


@dataclass(frozen=True)
class Check:
    """Name and outcome of one check."""

    name: str
    ok: bool
    detail: str  # what was found, or the reason of the failure
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)


def examine() -> Iterator[Check]:
    """Check the machine, then rendering, embed, distill and evaluate on a few small images; takes about ten seconds.

    Yields:
        check (Check): As soon as it is done. After a failure only the checks that need it are skipped.
    """
    from compress_ssl.pipeline.doctor.self_test import STEPS

    machine = {"processor": _processor, "gpu": _gpus, "libraries": _libraries, "uses": _uses, "disk": _disk}
    for name, look in machine.items():
        yield _check(name, look)
    failed: str | None = None
    with tempfile.TemporaryDirectory(prefix="compress-ssl-doctor-") as folder:
        for name, step in STEPS.items():
            if failed is not None:
                yield Check(name, False, f"not tried, because {failed} failed", 0.0)
                continue
            check = _check(name, lambda step=step: (step(Path(folder)), {}))  # type: ignore[misc]
            if not check.ok and name != "rendering":  # the stages that follow do not need it to agree
                failed = name
            yield check


def _check(name: str, look: Callable[[], Finding]) -> Check:
    begun = time.monotonic()
    try:
        detail, facts = look()
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what the user wants to know)
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        return Check(name, False, f"{type(error).__name__}: {reason}", time.monotonic() - begun)
    return Check(name, True, detail, time.monotonic() - begun, facts)


def _processor() -> Finding:
    names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    model = names[0] if names else platform.machine()
    cores, present = len(os.sched_getaffinity(0)), os.cpu_count() or 0
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    facts = {"model": model, "cores_available": cores, "cores_present": present, "memory_bytes": memory}
    return f"{model}, {cores} of {present} cores, {memory / GIB:,.1f} GiB of memory", facts


def _gpus() -> Finding:
    import torch

    from compress_ssl.pipeline.common.device import MIN_DRIVER

    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    gpus = [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in found]
    version = Path("/proc/driver/nvidia/version")
    driver = driver_version(version.read_text()) if version.exists() else None
    facts = {"gpus": gpus, "driver": driver, "cuda": torch.version.cuda}
    if not gpus:
        seen = f"torch sees none with driver {driver} (it needs {MIN_DRIVER} or later)" if driver else "none"
        return f"{seen}; everything runs on the processor", facts
    shown = ", ".join(f"{gpu.name} ({gpu.total_memory / GIB:,.0f} GiB)" for gpu in found)
    return f"{shown}; driver {driver or 'unknown'}, CUDA {torch.version.cuda}", facts


def driver_version(text: str) -> str | None:
    """Return the version of NVIDIA's driver from the text of ``/proc/driver/nvidia/version``."""
    match = re.search(r"\s(\d+\.\d+[.\d]*)\s", text)
    return match[1] if match else None


def _libraries() -> Finding:
    versions = {"python": platform.python_version()}
    missing: list[str] = []
    missing_extras: dict[str, list[str]] = {}
    for requirement in ("compress-ssl", *(importlib.metadata.requires("compress-ssl") or ())):
        name = re.split(r"[^A-Za-z0-9._-]", requirement)[0]
        extra = re.search(r"extra == ['\"](\w+)", requirement)
        if extra and extra[1] in {"all", "dev"}:
            continue
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            (missing_extras.setdefault(extra[1], []) if extra else missing).append(name)
    if missing:
        raise ModuleNotFoundError(f"{', '.join(missing)} not installed; run pip install {' '.join(missing)}")
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    extras = "".join(f"; [{extra}] not installed ({', '.join(names)})" for extra, names in missing_extras.items())
    return found + extras, {"versions": versions, "missing_extras": missing_extras}


def _uses() -> Finding:
    from compress_ssl.pipeline.common.device import choose_precision, prepare_device
    from compress_ssl.pipeline.common.faiss_index import faiss_uses

    settings = StageSettings()
    device = prepare_device(settings.device, settings.thread_count)
    on_gpu = faiss_uses(device)
    facts = {
        "device": device.type,
        "precision": choose_precision("auto", device),
        "renderer": settings.renderer,
        "threads": settings.thread_count,
        "faiss": "gpu" if on_gpu else "cpu",
    }
    detail = (
        f"device {facts['device']}, {facts['precision']}, rendering by {facts['renderer']}, "
        f"{facts['threads']} threads, faiss on the {'GPU' if on_gpu else 'processor'}"
    )
    return detail, facts


def _disk() -> Finding:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    return f"{free / GIB:,.1f} GiB free in {here}", {"folder": str(here), "free_bytes": free}
