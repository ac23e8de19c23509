"""Printing tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.report.table import Table


def print_table(table: Table, title: str | None = None) -> None:
    """Print a table of results to standard output: words to the left, numbers to the right."""
    from rich.console import Console
    from rich.table import Table as RichTable

    shown = RichTable(title=title, title_justify="left")
    for number, column in enumerate(table.columns):
        is_number = any(row[number].replace(".", "").isdigit() for row in table.rows)
        shown.add_column(column, justify="right" if is_number else "left")
    for row in table.rows:
        shown.add_row(*row)
    Console(markup=False, highlight=False).print(shown)  # a name may hold brackets
