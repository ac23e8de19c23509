"""The fuzzer at a few files of each kind; docs/reliability.md has it at thousands."""

from collections.abc import Iterator

import pytest

from tests.reliability.fuzz import faults, fuzz, workplace
from tests.reliability.fuzz_kinds import KINDS

COUNT = 8


@pytest.fixture(scope="module")
def files() -> Iterator[None]:
    """Real files of all kinds, in the current folder."""
    with workplace():
        yield


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("name", KINDS)
def test_a_mutated_file_ends_in_the_right_rows_or_in_one_sentence(name: str) -> None:
    outcomes = fuzz(name, max(1, COUNT // KINDS[name].cost), seed=1)
    assert not faults(outcomes), outcomes
