"""Run the benchmarks, and write docs/benchmarks.md: ``make bench``.

A section of the page is one script: the first line of its docstring is the heading, the rest says what is measured, and
what it prints is the result. A script that is left out, or fails, keeps the section that it has.
"""

import argparse
import datetime
import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from compress_ssl.pipeline.common.device import library_versions

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"

SCRIPTS = (
    *("embed", "distill", "rendering", "objective", "store", "live_teacher", "peers", "growth", "start"),
    *("teacher_wait", "bank_precision", "estimate", "openmp"),
)
"""In the order of the page."""

HEADER = """# Benchmarks

Written by `make bench`; `python -m tests.benchmarks NAME` measures one section again. Compare ratios, not rates: the
rows of a table were measured side by side, in turns, and are medians unless a section says otherwise. CPU time is that
of all threads. Targets are this project's own; [performance](performance.md) says why some are missed, and what was
tried. Nothing here is of a GPU.
"""


def section(name: str) -> str:
    """Run one script; return its section of the page.

    Raises:
        CalledProcessError: If it fails.
    """
    heading, _, text = (importlib.import_module(f"tests.benchmarks.{name}").__doc__ or "").strip().partition("\n")
    begun = time.perf_counter()
    command = [sys.executable, "-m", f"tests.benchmarks.{name}"]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    seconds = time.perf_counter() - begun
    made = f"`python -m tests.benchmarks.{name}`, {machine()}, {datetime.date.today()}, {seconds:.0f} s."
    return "\n\n".join([f"## {heading.rstrip('.')}", text.strip(), made, result]).replace("\n\n\n\n", "\n\n")


def machine() -> str:
    """Return the kind of machine in words."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = re.search(r"^flags\s*:(.*)$", cpu, re.MULTILINE)
    known = flags[1].split() if flags else []
    kind = "AVX-512 with bfloat16" if "avx512_bf16" in known else "AVX-512" if "avx512f" in known else "AVX2"
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    versions = library_versions()
    return f"{cores} CPU cores ({kind}), {memory:.0f} GiB, torch {versions['torch']}"


def page_of(sections: Mapping[str, str]) -> str:
    """Return the page of sections by script."""
    return "\n\n".join([HEADER.strip(), *(sections[name] for name in SCRIPTS if name in sections)]) + "\n"


def sections_of(page: str) -> dict[str, str]:
    """Return the sections of a page by script."""
    parts = re.split(r"^(?=## )", page, flags=re.MULTILINE)[1:]
    found = {re.search(r"python -m tests\.benchmarks\.(\w+)`", part): part.strip() for part in parts}
    return {match[1]: part for match, part in found.items() if match}


def main() -> int:
    """Run scripts, all or those named, and write the page; return the exit code."""
    parser = argparse.ArgumentParser(description="Run benchmarks, and write docs/benchmarks.md.")
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"{', '.join(SCRIPTS)}; all if none is given")
    chosen = parser.parse_args().scripts or SCRIPTS
    sections = sections_of(PAGE.read_text(encoding="utf-8"))
    failed = []
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            sections[name] = section(name)
        except subprocess.CalledProcessError:
            failed.append(name)
        PAGE.write_text(page_of(sections), encoding="utf-8")
    if failed:
        print(f"Failed, and left as they were: {', '.join(failed)}.", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
