"""The tables of docs/results.md are those of the JSON beside it."""

from tests.evidence.tables import PAGE, TABLE, with_tables


def test_tables_of_results_are_those_of_the_json() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert len(TABLE.findall(page)) == page.count("<!--") > 0
    assert with_tables(page) == page, "run python -m tests.evidence.tables"
