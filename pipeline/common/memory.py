"""Host memory that is left, and sizes in bytes as people read them."""

import math
from pathlib import Path


def available_memory() -> float:
    """Return the bytes of host memory that this process can still allocate, by the kernel and its control groups."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = 1024 * int(meminfo["MemAvailable"].split()[0])
    root = Path("/sys/fs/cgroup")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    group = next((root / line.removeprefix("0::/") for line in lines if line.startswith("0::/")), root)  # version 2
    return min([available, *map(_left_in_cgroup, (group, *group.parents))])


def _left_in_cgroup(group: Path) -> float:
    """Return the bytes left below a control group's limit; its page cache counts as free, since it can be reclaimed."""
    if not (group / "memory.max").is_file() or (limit := (group / "memory.max").read_text().strip()) == "max":
        return math.inf
    held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    page_cache = int(held["inactive_file"]) + int(held["active_file"])
    return int(limit) - int((group / "memory.current").read_text()) + page_cache


def format_bytes(size: float) -> str:
    """Return a size in bytes as text, such as ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
