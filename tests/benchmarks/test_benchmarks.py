"""Benchmarks run, tiny; the page is written from what they print."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import SCRIPTS, page_of, sections_of
from tests.benchmarks.peers import cpu_seconds, lines_through
from tests.processes import Forked
from tests.slow import with_slow

OF_PROGRAMS = {"peers", "start"}
"""Start many programs, which takes a minute in any size: they run with ``make bench`` only."""
LONG = {"distill", "embed", "growth", "openmp"}
"""Take ten seconds and more in toy sizes too."""


def run(name: str) -> None:
    """Run a benchmark as ``python -m tests.benchmarks.NAME --toy`` does."""
    importlib.import_module(f"tests.benchmarks.{name}").main(True)


@pytest.mark.parametrize("name", with_slow((name for name in SCRIPTS if name not in OF_PROGRAMS), LONG))
def test_toy_run_prints_a_table(name: str) -> None:
    process = Forked(run, name)
    assert process.wait(300) == 0, process.errors
    assert re.search(r"^\| --- \|.*\n\| .+ \|$", process.output, re.MULTILINE), process.output


def working(seconds: float) -> list[str]:
    return [sys.executable, "-c", f"import time\nwhile time.process_time() < {seconds}: pass"]


def test_line_through_two_sizes_of_a_program_is_its_start_and_its_cost_of_an_image() -> None:
    lines = lines_through(
        {
            "starts slowly": (lambda images: working(0.5 + 0.02 * images), (1, 50), 1),
            "computes slowly": (lambda epochs: working(0.04 * epochs * 10), (1, 5), 10),
        }
    )
    slow_start, slow_images = lines["starts slowly"], lines["computes slowly"]
    assert slow_start.image == pytest.approx(0.02, rel=0.2)
    assert slow_images.image == pytest.approx(0.04, rel=0.2)
    assert slow_start.start == pytest.approx(0.5, abs=0.15)
    assert slow_images.start == pytest.approx(0, abs=0.15)
    assert slow_start.cost(1000) == slow_start.start + 1000 * slow_start.image


def test_program_that_fails_is_named_with_what_it_said() -> None:
    with pytest.raises(RuntimeError, match=r"python.* failed: nothing to see"):
        cpu_seconds({"a": [sys.executable, "-c", "import sys; sys.exit('nothing to see')"]})


def test_every_script_is_on_the_page() -> None:
    folder = Path(__file__).parent
    scripts = {
        path.stem
        for path in folder.glob("*.py")
        if re.search(r"^    (run\(main\)|main\(options)", path.read_text(), re.MULTILINE)
    }
    assert scripts == set(SCRIPTS)


def test_a_section_is_replaced_and_the_others_stay() -> None:
    section = "## Title\n\n`python -m tests.benchmarks.{0}`, a machine.\n\nA table of {0}."
    one, two = map(section.format, ("embed", "openmp"))
    page = page_of({"openmp": two, "embed": one})
    assert sections_of(page) == {"embed": one, "openmp": two}
    assert page.index(one) < page.index(two)
    replaced = page_of({**sections_of(page), "embed": one.replace("a machine", "another")})
    assert replaced == page.replace("a machine", "another", 1)
