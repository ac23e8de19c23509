"""The acceptance run itself, in toy sizes on the CPU: all its parts pass, and what fails is told."""

import os
import re
import time
from pathlib import Path

import pytest

from tests.gpu.acceptance import PARTS, Part, run_parts
from tests.gpu.run import Run


@pytest.mark.slow
def test_every_part_passes_in_toy_sizes(tmp_path: Path) -> None:
    run = Run(tmp_path, toy=True)
    assert run_parts(run, PARTS)
    assert {line["part"] for line in run.lines()} == set(PARTS)


def test_readme_has_the_parts_and_their_limits() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", Path(__file__).with_name("README.md").read_text(), re.MULTILINE)
    assert rows == [(name, str(part.seconds)) for name, part in PARTS.items()]


def part_that_holds(run: Run) -> None:
    run.check("holds", True)


def part_that_does_not_hold(run: Run) -> None:
    with run.attempt("raises"):
        raise ValueError("on purpose")
    run.check("does not hold", False, value=3)


def part_that_crashes(run: Run) -> None:
    os.abort()


def part_that_hangs(run: Run) -> None:
    time.sleep(100)


def test_parts_that_fail_crash_or_hang_are_told_and_end_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kinds = ("does_not_hold", "crashes", "hangs", "holds")
    parts = {kind: Part(f"{__name__}:part_that_{kind}", 2 if kind == "hangs" else 60) for kind in kinds}
    run = Run(tmp_path, toy=True)
    assert not run_parts(run, parts)
    assert [(line["part"], line["check"], line["ok"]) for line in run.lines()] == [
        ("does_not_hold", "raises", False),
        ("does_not_hold", "does not hold", False),
        ("crashes", "the part ended", False),
        ("hangs", "the part ended", False),
        ("holds", "holds", True),
    ]
    shown = capfd.readouterr().out
    assert "1 ok, 4 failed, 0 measured" in shown
    assert "how=exit code -6" in shown
    assert "how=killed after 2 s" in shown
    assert run_parts(run, {"holds": parts["holds"]})  # the failures of an earlier run are not its own


def test_goal_that_is_missed_fails_at_full_size_only(tmp_path: Path) -> None:
    for toy in (False, True):
        run = Run(tmp_path, toy=toy)
        run.goal("share of the peak", 0.3, least=0.35)
        run.goal("share of the time", 0.5, most=0.6)
    assert [line["ok"] for line in run.lines()] == [False, True, None, None]
