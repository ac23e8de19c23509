"""Every benchmark runs, tiny; the page is written from what they print."""

import importlib
import re
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import SCRIPTS, page_of, sections_of
from tests.processes import Forked


def run(name: str) -> None:
    """Run a benchmark as ``python -m tests.benchmarks.NAME --toy`` does."""
    importlib.import_module(f"tests.benchmarks.{name}").main(True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_toy_run_prints_a_table(name: str) -> None:
    process = Forked(run, name)
    assert process.wait(300) == 0, process.errors
    assert re.search(r"^\| --- \|.*\n\| .+ \|$", process.output, re.MULTILINE), process.output


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
