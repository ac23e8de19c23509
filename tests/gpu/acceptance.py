"""The acceptance run: what the product does on a GPU, checked and measured. ``README.md`` tells how it is run.

python -m tests.gpu.acceptance FOLDER [PART...]        all parts in their order, or some; --toy tries them on the CPU
"""

import argparse
import contextlib
import multiprocessing
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tests.gpu.run import Run


class Part(NamedTuple):
    """A function of a ``Run``, in a process of its own."""

    function: str  # module:name
    seconds: int  # after which the process is killed


PARTS = {
    "data": Part("tests.gpu.parts.photographs:data", 60),
    "machine": Part("tests.gpu.parts.machine:machine", 60),
    "decode": Part("tests.gpu.parts.decode:decode", 60),
    "renderer": Part("tests.gpu.parts.renderer:renderer", 90),
    "embed": Part("tests.gpu.parts.embed:embed", 120),
    "cross": Part("tests.gpu.parts.embed:cross", 120),
    "distill_equal": Part("tests.gpu.parts.distill:distill_equal", 180),
    "nccl": Part("tests.gpu.parts.nccl:nccl", 60),
    "objective": Part("tests.gpu.parts.objective:objective", 90),
    "step": Part("tests.gpu.parts.step:step", 240),
    "forward": Part("tests.gpu.parts.forward:forward", 240),
    "distill_variants": Part("tests.gpu.parts.distill:distill_variants", 180),
    "stopping": Part("tests.gpu.parts.endings:stopping", 60),
    "full_memory": Part("tests.gpu.parts.endings:full_memory", 120),
    "dask": Part("tests.gpu.parts.embed:dask", 90),
    "evaluate": Part("tests.gpu.parts.evaluate:evaluate", 120),
    "hardware_decoder": Part("tests.gpu.parts.hardware_decoder:hardware_decoder", 60),
    "regions": Part("tests.gpu.parts.hardware_decoder:regions", 30),
}
"""Correctness first, then what is measured, then the rest; a later part needs of the earlier ones only ``data``."""


def run_parts(run: Run, parts: Mapping[str, Part]) -> bool:
    """Run parts one after the other, print a summary, and return whether no check failed."""
    run.folder.mkdir(parents=True, exist_ok=True)
    before = len(run.lines())
    for name, part in parts.items():
        begun = time.monotonic()
        of_part = replace(run, part=name)
        if ended := run_part(of_part, part):
            of_part.check("the part ended", False, how=ended)
        print(f"---- {name}: {time.monotonic() - begun:.1f} s", flush=True)
    lines = run.lines()[before:]
    failed = [line for line in lines if line["ok"] is False]
    passed = sum(line["ok"] is True for line in lines)
    print(f"\n{passed} ok, {len(failed)} failed, {len(lines) - passed - len(failed)} measured")
    for line in failed:
        print("FAIL", *(f"{key}={value}" for key, value in line.items() if key != "ok"))
    return not failed


def run_part(run: Run, part: Part) -> str:
    """Run one part in a process group of its own; return how it failed, or nothing."""
    # On a GPU a new interpreter, as CUDA cannot be forked; on the CPU a fork of one that has imported everything.
    process = multiprocessing.get_context("forkserver" if run.toy else "spawn").Process(
        target=_run_part, args=(run, part.function)
    )
    process.start()
    assert process.pid is not None
    try:
        process.join(part.seconds)
        code = process.exitcode
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
        process.kill()  # it may not have its group yet
        process.join()
    if code is None:
        return f"killed after {part.seconds} s"
    return "" if code == 0 else f"exit code {code}"


def _run_part(run: Run, function: str) -> None:
    os.setsid()
    pkgutil.resolve_name(function)(run)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.acceptance", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the parts work and write results.jsonl")
    parser.add_argument("part", nargs="*", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--toy", action="store_true", help="toy sizes on the CPU, to try the parts themselves")
    given = parser.parse_intermixed_args(arguments)
    if unknown := [name for name in given.part if name not in PARTS]:
        parser.error(f"there is no part '{unknown[0]}'; take of {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the part under way ends too
    if given.toy:
        import tests.processes  # noqa: F401 (what a process has imported that is forked for each part)
    wanted = {name: part for name, part in PARTS.items() if name in given.part or not given.part}
    return 0 if run_parts(Run(given.folder.absolute(), given.toy), wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
