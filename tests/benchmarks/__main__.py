"""Run the benchmarks, and write docs/benchmarks.md: ``make bench``.

A section of the page is one script: the first line of its docstring is the heading, the rest says what is measured, and
what it prints is the result. A script that is left out, or fails, keeps the section that it has.
"""

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"

SCRIPTS = (
    *("embed", "distill", "rendering", "objective", "store", "live_teacher", "peers", "growth", "start"),
    *("teacher_wait", "bank_precision", "estimate", "openmp"),
)
