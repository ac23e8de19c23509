"""A table of results on a terminal: a row for each network, or a column where rows would be too long."""

import re

import pytest

from compress_ssl.cli.tables import print_table
from compress_ssl.pipeline.evaluate.results_table import Table

SCORES = tuple(f"score number {number}" for number in range(8))
WIDE = Table(("network", *SCORES), [("small [v2]", *("1.5",) * 8), ("large", *("22.5",) * 8)])


def printed(table: Table, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    print_table(table)
    lines = [line for line in capsys.readouterr().out.splitlines() if line[0] in "┃│"]
    return [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in lines]


def test_table_that_fits_has_a_row_for_each_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = printed(WIDE, capsys)
    assert ["small [v2]", *("1.5",) * 8] in lines
    assert ["large", *("22.5",) * 8] in lines


def test_table_that_is_too_wide_has_a_column_for_each_network_and_cuts_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = printed(WIDE, capsys)
    assert lines[0] == ["network", "small [v2]", "large"]
    for score in SCORES:
        assert [score, "1.5", "22.5"] in lines


def test_table_that_fits_neither_way_is_printed_in_parts_and_cuts_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    names = [f"a network of a long name {number}" for number in range(4)]
    table = Table(("network", *SCORES), [(name, *(f"{10 * row}.5" for row in range(8))) for name in names])
    lines = printed(table, capsys)
    headings = [line for line in lines if line[0] == "network"]
    assert len(headings) > 1
    assert [score for line in headings for score in line[1:]] == list(SCORES)
    for name in names:
        assert [cell for line in lines if line[0] == name for cell in line[1:]] == [f"{10 * row}.5" for row in range(8)]


def test_notes_follow_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    notes = ("NN: of 400 test images and 1,200 training images of pets.", "Linear: of \x1b[31mred.")
    print_table(Table(("network", "NN"), [("small", "1.5")], notes))
    assert capsys.readouterr().out.splitlines()[-2:] == [notes[0], r"Linear: of \x1b[31mred."]
